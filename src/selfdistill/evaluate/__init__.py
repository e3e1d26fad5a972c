"""Generate, score, mean with interval; what a model could do before, and how far it moved."""
