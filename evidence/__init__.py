"""Studies of which method is better at what, on the embedded model, and the page of their results."""
