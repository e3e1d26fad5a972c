"""One training run, from a command's options to trained weights."""
