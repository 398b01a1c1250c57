"""The built-in engine, whose models repeat their input."""
