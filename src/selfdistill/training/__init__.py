"""One run, from settings to trained weights."""
