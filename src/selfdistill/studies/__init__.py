"""Comparisons and sequences of training runs."""
