"""Batched evaluation against transformers' generate on one row at a time: seconds, and how many answers agree.

Both decode greedily in fp32, where rounding hardly ever decides a token.
"""

import time
from typing import Any, cast

import torch
from transformers import GenerationConfig

from common import finish, make_parser
from selfdistill.method.prompts import PromptRenderer
from selfdistill.method.rollout.engine import Sampling
from selfdistill.method.rollout.engines import make_engine
from selfdistill.models import loading
from selfdistill.models.tokens import eos_token_ids, pad_token_id, vocab_size
from selfdistill.settings.groups import DEFAULT_MODEL
from selfdistill.tasks import get_task


def main() -> None:
    """Measures both on the first rows of assistant-tools."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--max_new_tokens", type=int, default=48)
    arguments = parser.parse_args()
    loading.quiet_libraries()
    model = loading.load_model(DEFAULT_MODEL, dtype="float32")
    tokenizer = loading.load_tokenizer(DEFAULT_MODEL)
    renderer = PromptRenderer(tokenizer)
    examples = get_task("assistant-tools").load_eval(None)[: arguments.rows]
    prompts = [pair.student_ids for pair in renderer.render_all(examples, teacher=False, answers=False)]
    eos, pad = eos_token_ids(model, tokenizer), pad_token_id(tokenizer, vocab_size(model))
    engine = make_engine(model, tokenizer)
    sampling = Sampling(max_new_tokens=arguments.max_new_tokens, temperature=0)
    config = GenerationConfig(
        max_new_tokens=arguments.max_new_tokens, do_sample=False, eos_token_id=sorted(eos), pad_token_id=pad
    )

    def alone(prompt: tuple[int, ...]) -> tuple[int, ...]:
        ids = torch.tensor([prompt])
        output = cast(Any, model).generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
        return tuple(output[0, len(prompt) :].tolist())

    engine.generate(prompts[:2], sampling)  # warm both up
    alone(prompts[0])
    start = time.perf_counter()
    batched = [rollout.completion_ids for rollout in engine.generate(prompts, sampling)]
    middle = time.perf_counter()
    one_at_a_time = [alone(prompt) for prompt in prompts]
    end = time.perf_counter()
    same = sum(a == b for a, b in zip(batched, one_at_a_time, strict=True))
    finish(
        {
            "rows": len(prompts),
            "batched_s": round(middle - start, 2),
            "one_at_a_time_s": round(end - middle, 2),
            "speedup": round((end - middle) / (middle - start), 2),
            "same_answers": same,
        }
    )


if __name__ == "__main__":
    main()
