"""The commands of `lm`: Unix filters around the client."""
