"""Loads and saves models: by name, from folders, GGUF files and adapters."""
