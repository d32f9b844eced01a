"""What can run on this machine."""
