"""One file per command: it checks the options, calls the other packages and prints."""
