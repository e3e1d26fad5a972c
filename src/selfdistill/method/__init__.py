"""The paper's method and related methods, one training step at a time.

``methods`` defines each method; ``templates`` and ``prompts`` render rows for student and teacher; ``rollout`` samples
completions; ``batch`` and ``scoring`` compute both models' hidden states at the loss tokens; ``divergence`` compares
them, a chunk of logits at a time (``chunked``); ``step`` is one training step from start to end; ``trainer`` runs it
inside transformers' Trainer.
"""
