"""The method of the paper and its family."""
