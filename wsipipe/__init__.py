"""wsipipe."""
