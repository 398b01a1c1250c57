"""Man pages, completions and the tables of the README, made from the commands; no command imports it."""
