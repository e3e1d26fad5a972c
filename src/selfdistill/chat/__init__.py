"""Talking to one model or two side by side, in the terminal or on a local page."""
