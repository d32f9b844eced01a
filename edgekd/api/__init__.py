"""The Python API. Import its names from `edgekd`: modules of this package may move."""
