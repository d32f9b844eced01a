"""What edgekd can build for: one TOML file a board, and the software that boards run."""
