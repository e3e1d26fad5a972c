"""Loads and saves models: by name, from folders, GGUF files and adapters."""

import logging

# PEFT imports bitsandbytes, which would warn that a kernel we do not use is not installed.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
