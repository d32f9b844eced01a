"""Latency on a board that is not here."""
