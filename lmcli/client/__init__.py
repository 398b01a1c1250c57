"""The compact synchronous client for LM Studio's WebSocket API; it does not depend on the command line."""
