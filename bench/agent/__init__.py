"""The program that runs where the model runs: standard library only, Python 3.6 or newer."""
