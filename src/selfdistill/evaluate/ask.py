"""Models that answer chats for the builders of data."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from selfdistill.errors import UserError
from selfdistill.evaluate.endpoint import Answer, Endpoint, key_from_environment
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
FEW_WEIGHTS = 1_000_000_000
"""Models with fewer weights often get facts wrong."""
SERVER_SECONDS = 600.0
"""How long a server may take for an answer."""


class ChatModel:
    """A model that answers chats. It is loaded when this is made.

    Args:
        options: the model's name, and how to load and run it.
        seed: seed of the answers, which are sampled at TEMPERATURE.
        console: shows a progress bar, and a warning if the model is small.

    Raises:
        UserError: there is no such model, or it has no chat template.
    """

    def __init__(self, options: WikiOptions, seed: int, console: Console) -> None:
        name = str(options.model_name)
        loading.quiet_libraries()
        tokenizer = loading.load_tokenizer(name)
        loading.require_chat_template(tokenizer, name, has_flag=False)
        model = loading.load_model(name, dtype=options.dtype)
        if (number := model.num_parameters()) < FEW_WEIGHTS:
            console.print(
                f"[yellow]Warning:[/yellow] {escape(name)} has {number / 1e6:,.0f} million weights. So small a model "
                "often gets facts wrong, or writes no usable question. A larger --model_name, or a server's "
                "--judge_url and --judge_model, writes better ones."
            )
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
        return [
            _whole_lines(self._renderer.completion_text(rollout.completion_ids), rollout.finish_reason != "stop")
            for rollout in rollouts
        ]


class ServerModel:
    """A model behind an OpenAI-compatible API that answers chats.

    Args:
        options: ``judge_url`` and ``judge_model``; the key is read from OPENAI_API_KEY.
        console: shows a progress bar.

    Raises:
        UserError: the URL is not http or https.
    """

    def __init__(self, options: WikiOptions, console: Console) -> None:
        self._endpoint = Endpoint(
            str(options.judge_url),
            str(options.judge_model),
            api_key=key_from_environment(),
            role="author",
            timeout=SERVER_SECONDS,
        )
        self._console = console

    def answers(self, chats: Sequence[tuple[Message, ...]]) -> list[str]:
        """The answer to each chat, in order. One that was cut at a token limit loses its last line.

        Raises:
            UserError: the server refuses the first question, or leaves one unanswered.
        """
        with progress_bar(self._console) as bar:
            line = bar.add_task("writing questions", total=len(chats), note="")

            def ask(chat: tuple[Message, ...]) -> Answer | None:
                answer = self._endpoint.answer(chat)
                bar.advance(line)
                return answer

            first = [self._endpoint.first_answer(chat) for chat in chats[:1]]
            bar.advance(line, len(first))
            answers = [*first, *self._endpoint.each(ask, chats[1:])]
        given = [_whole_lines(answer.text, answer.is_cut) for answer in answers if answer is not None]
        if lost := len(answers) - len(given):
            raise UserError(
                f"The author at {self._endpoint.url} left {lost} of {len(answers)} questions unanswered. Try again "
                "later, or take another --judge_model."
            )
        return given


def _whole_lines(text: str, is_cut: bool) -> str:
    """The text; if it was cut, without its last line."""
    return text.rpartition("\n")[0] if is_cut else text
