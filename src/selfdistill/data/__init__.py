"""Files and rows to Examples."""
