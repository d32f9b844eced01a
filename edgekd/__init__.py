"""edgekd: compress an image classifier for an edge board without its training data."""

__version__ = "0.1.0"
