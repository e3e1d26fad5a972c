"""A trained model as what other programs load: whole, adapter, GGUF, Ollama, MLX; its model card; the Hub."""
