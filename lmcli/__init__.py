"""Unix filters for LM Studio, and the compact synchronous client that they are built on."""

__version__ = "0.1.0"
