"""What host and agent say to each other."""
