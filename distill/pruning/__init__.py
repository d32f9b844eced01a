"""Students cut out of a teacher: which of its channels, heads and blocks are kept, and the network that is left."""
