"""One file a command: it composes the rooms and prints."""
