"""The options of every command. Torch-free, so that ``--help`` answers at once."""
