"""What a person may set. Torch-free, so that ``--help`` answers at once."""
