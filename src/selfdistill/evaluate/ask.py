"""A model that answers chats for the builders of data."""

from collections.abc import Sequence

from rich.console import Console

from selfdistill.errors import UserError
from selfdistill.method.lengths import context_length
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
    """A model that answers chats. It is loaded when this is made.

    Args:
        options: the model's name, and how to load and run it.
        seed: seed of the answers, which are sampled at TEMPERATURE.
        console: shows a progress bar.

    Raises:
        UserError: there is no such model, or it has no chat template.
    """

    def __init__(self, options: WikiOptions, seed: int, console: Console) -> None:
        name = str(options.model_name)
        loading.quiet_libraries()
        tokenizer = loading.load_tokenizer(name)
        loading.require_chat_template(tokenizer, name, has_flag=False)
        model = loading.load_model(name, dtype=options.dtype)
        self._context = context_length(model.config)
        self._renderer = PromptRenderer(tokenizer)
        self._engine = make_engine(model, tokenizer, batch_size=options.batch_size)
        self._seed, self._console = seed, console

    def answers(self, chats: Sequence[tuple[Message, ...]]) -> list[str]:
        """The answer to each chat, in order. One that was cut at the token limit loses its last line.

        Raises:
            UserError: a chat fills the model's context.
        """
        examples = [Example(id=str(index), prompt=chat) for index, chat in enumerate(chats)]
        pairs = self._renderer.render_all(examples, teacher=False, answers=False)
        seeds = row_seeds(self._seed, 0, [example.id for example in examples])
        sampling = Sampling(
            max_new_tokens=MAX_ANSWER_TOKENS, temperature=TEMPERATURE, seeds=seeds, context=self._context
        )
        longest = max((len(pair.student_ids) for pair in pairs), default=0)
        if sampling.limit(longest) < 1:
            raise UserError(
                f"A question's prompt has {longest} tokens, the model reads {self._context}. Choose a --model_name "
                "with a longer context."
            )
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
