"""The commands: one module each, named after the command and loaded when it runs."""
