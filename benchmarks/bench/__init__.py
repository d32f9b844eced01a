"""Benchmarks of measuring and of estimating."""
