"""Sampling completions: one engine in each file behind one small protocol (``engine``), by name in ``engines``."""
