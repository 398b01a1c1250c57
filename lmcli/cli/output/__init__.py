"""Output: stdout, sinks, tables, progress, records."""
