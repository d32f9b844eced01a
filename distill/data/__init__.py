"""Images that a user brings, or that were made before."""
