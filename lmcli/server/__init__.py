"""`lm serve`: LM Studio's WebSocket API from the server's side, with an engine of one's own behind it."""
