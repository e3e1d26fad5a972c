"""Self-distillation in a training loop of your own, without transformers' Trainer.

    python examples/loop.py

trains the embedded model for five steps on the tool calls that come with the package, and prints each step's loss.
"""

import random
from collections.abc import Iterable, Iterator, Sequence

from torch import nn, optim
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfdistill.method.rollout.engine import RolloutEngine
from selfdistill.method.rows import training_pairs
from selfdistill.method.step import Step
from selfdistill.models.loading import load_model, load_tokenizer, quiet_libraries
from selfdistill.settings.groups import DEFAULT_MODEL
from selfdistill.settings.method import MethodConfig
from selfdistill.tasks import get_task
from selfdistill.types import PromptPair


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: MethodConfig,
    batches: Iterable[Sequence[PromptPair]],
    engine: RolloutEngine | None = None,
) -> Iterator[float]:
    """Trains the model in place, one step per batch; yields the loss of each step, in nats."""
    step = Step(model, tokenizer, config, engine=engine)
    masters = [master for _, _, master in step.masters.items()]  # fp32, whatever the model computes in
    optimizer = optim.AdamW(masters, lr=config.learning_rate, weight_decay=config.weight_decay)
    with step.masters.attached():
        for number, pairs in enumerate(batches):
            samples = step.rollout(pairs, number)
            micro_batches = step.micro_batches(samples, config.gradient_accumulation_steps)
            loss = float(sum(map(step.learn, micro_batches)))
            nn.utils.clip_grad_norm_(masters, config.max_grad_norm)
            step.masters.update(optimizer.step)
            step.follow(number + 1)
            yield loss


if __name__ == "__main__":
    quiet_libraries()
    model, tokenizer = load_model(DEFAULT_MODEL), load_tokenizer(DEFAULT_MODEL)
    config = MethodConfig(template="prior_turn", max_completion_length=40, gradient_accumulation_steps=2)
    pairs = training_pairs(get_task("assistant-tools").load_train(None)[:200], config, tokenizer, model.config)
    batches = (random.Random(number).sample(pairs, 8) for number in range(5))
    for loss in train(model, tokenizer, config, batches):
        print(f"{loss:.3f}")
