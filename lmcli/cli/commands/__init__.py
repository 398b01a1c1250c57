"""One module a command, called as the command is; each is loaded when its command runs."""
