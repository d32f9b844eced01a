"""Benchmarks of the measuring itself."""
