"""Scores models on tasks, on prior capabilities, and by their drift from a base; and the preflight of a method."""
