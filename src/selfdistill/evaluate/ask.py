"""A model's answers to chats, as builders of data want them."""

from collections.abc import Sequence

from rich.console import Console

from selfdistill.method.prompts import PromptRenderer
from selfdistill.method.rollout.engine import Sampling, row_seeds
from selfdistill.method.rollout.engines import make_engine
from selfdistill.models import loading
from selfdistill.progress import progress_bar
from selfdistill.settings.build import WikiOptions
from selfdistill.types import Example, Message

MAX_ANSWER_TOKENS = 512
TEMPERATURE = 0.7


class ChatModel:
    """A model that answers chats, loaded once.

    Args:
        options: name the model.
        seed: what answers are drawn from.
        console: for a progress bar.

    Raises:
        UserError: there is no such model, or it has no chat template.
    """

    def __init__(self, options: WikiOptions, seed: int, console: Console) -> None:
        name = str(options.model_name)
        loading.quiet_libraries()
        tokenizer = loading.load_tokenizer(name)
        loading.require_chat_template(tokenizer, name)
        model = loading.load_model(name, dtype=options.dtype)
        self._renderer = PromptRenderer(tokenizer)
        self._engine = make_engine(model, tokenizer, batch_size=options.batch_size)
        self._seed, self._console = seed, console

    def answers(self, chats: Sequence[tuple[Message, ...]]) -> list[str]:
        """Its answers; one that ran into the token limit loses its last line."""
        examples = [Example(id=str(index), prompt=chat) for index, chat in enumerate(chats)]
        pairs = self._renderer.render_all(examples, teacher=False, answers=False)
        seeds = row_seeds(self._seed, 0, [example.id for example in examples])
        sampling = Sampling(max_new_tokens=MAX_ANSWER_TOKENS, temperature=TEMPERATURE, seeds=seeds)
        with progress_bar(self._console) as bar:
            line = bar.add_task("writing questions", total=len(pairs), note="")
            self._engine.sync()
            prompts = [pair.student_ids for pair in pairs]
            rollouts = self._engine.generate(prompts, sampling, lambda done: bar.advance(line, done))
        texts = [self._renderer.completion_text(rollout.completion_ids) for rollout in rollouts]
        return [
            text if rollout.finish_reason == "stop" else text.rpartition("\n")[0]
            for text, rollout in zip(texts, rollouts, strict=True)
        ]
