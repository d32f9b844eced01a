"""What a firmware build takes, and what proves it."""
