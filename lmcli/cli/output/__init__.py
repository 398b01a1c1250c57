"""What goes out: stdout, sinks, tables, progress, records."""
