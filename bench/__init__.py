"""Latency, memory and energy of a model, measured in processes of their own."""
