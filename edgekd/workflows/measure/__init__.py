"""What the commands of `edgekd bench` do."""
