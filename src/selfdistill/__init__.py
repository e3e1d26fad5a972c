"""Teach a language model new skills from demonstrations by self-distillation, and measure what it keeps."""

__version__ = "0.1.0"
