"""Man pages, completions and the tables of the README, generated from the commands; no command imports it."""
