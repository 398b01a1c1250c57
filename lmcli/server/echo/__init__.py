"""The built-in engine: models that repeat what they are asked."""
