"""The compact synchronous client for LM Studio's WebSocket API; it knows nothing of the command line."""
