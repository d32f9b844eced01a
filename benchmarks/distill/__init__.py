"""Tables of recipes on real data: `python -m benchmarks.distill --help`."""
