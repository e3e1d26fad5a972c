"""Builders of the data of tasks that don't come ready-made."""
