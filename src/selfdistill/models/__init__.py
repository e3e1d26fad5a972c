"""Names, folders, GGUF files and adapters to models."""
