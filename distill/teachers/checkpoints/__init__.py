"""Checkpoints, opened and read without a framework and without running anything of them."""
