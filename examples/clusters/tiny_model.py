"""Saves a tiny model with random weights, and the embedded model's tokenizer, to the folder that is named."""

import sys

from transformers import AutoModelForCausalLM

from selfdistill.models.loading import load_config, load_tokenizer

config = load_config("smollm2-135m")
config.update({"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4})
config.update({"num_key_value_heads": 2, "head_dim": 16, "initializer_range": 0.2})
AutoModelForCausalLM.from_config(config).save_pretrained(sys.argv[1])
load_tokenizer("smollm2-135m").save_pretrained(sys.argv[1])
