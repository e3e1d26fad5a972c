"""The paper's method and its family, one training step at a time.

``methods`` says what a method is, ``templates`` and ``prompts`` how a row is shown to student and teacher, ``rollout``
samples completions, ``batch`` and ``scoring`` bring both models' hidden states together, ``divergence`` compares them
(``chunked``: without ever building full logits), ``step`` is one step in order, ``trainer`` joins it to transformers'
Trainer.
"""
