"""Images inverted out of a teacher, and what is kept of them."""
