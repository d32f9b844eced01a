"""Pages and texts for people."""
