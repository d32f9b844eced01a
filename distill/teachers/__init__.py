"""Teacher files that nobody vouches for."""
