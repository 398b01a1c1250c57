"""The server of `lm serve`: LM Studio's WebSocket API with interchangeable engines."""
