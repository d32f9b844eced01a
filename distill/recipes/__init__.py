"""Recipes, and which one a run takes."""
