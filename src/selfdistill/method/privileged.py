"""What the teacher is shown once a step's completions are there: one that succeeded, and words about them.

After SDPO (arXiv 2601.20802): of several completions of a prompt, one that succeeded is the demonstration for the
others, and words about a completion, such as an error message, are shown to the teacher that judges it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from selfdistill.errors import UserError, quoted
from selfdistill.method.batch import Sample, Shown
from selfdistill.method.lengths import NO_LIMIT, length_limits
from selfdistill.method.processes import Processes
from selfdistill.method.prompts import make_renderer
from selfdistill.settings.method import MethodConfig
from selfdistill.settings.user_functions import described, row_name, user_function
from selfdistill.types import Example, Message, NamedScorer, PromptPair, is_blank

RIGHT = 1.0
"""Score of a completion that succeeded."""
Feedback = Callable[[Example, str], str]
"""From a row and a completion's text to words about it; empty for none."""
_Turns = tuple[Message, ...]


class Privileged:
    """Shows the teacher what is known once the completions are there.

    Args:
        config: the settings.
        tokenizer: the model's tokenizer.
        model_config: the model's transformers config, for the length limit.
        rows: all training rows, in the data's order, from which the template ``few_shot`` draws.
        scorer: tells which completions succeeded; needed if ``config.demonstration_from`` is ``own_success``.

    Raises:
        UserError: the file of ``feedback_file`` has no such function.
    """

    def __init__(
        self,
        config: MethodConfig,
        tokenizer: PreTrainedTokenizerBase,
        model_config: Any,
        rows: Sequence[PromptPair],
        scorer: NamedScorer | None,
    ) -> None:
        self._score = None if scorer is None else scorer[1]
        self._feedback = None if config.feedback_file is None else feedback_from(config.feedback_file)
        self._copies, self._other_teacher = config.num_rollouts, config.has_other_teacher
        self._renderer = make_renderer((pair.example for pair in rows), config, tokenizer)
        limit = length_limits(config, model_config).teacher_prompt
        self._limit = NO_LIMIT if limit is None else limit.tokens

    def shown(self, samples: Sequence[Sample], processes: Processes) -> list[Sample]:
        """The samples with what their teacher is shown.

        The demonstration for a completion is the first other one of its prompt that succeeded; else the row's own, if
        it has one. The words about the completion come on top. What would bring the teacher's prompt over its limit is
        left out: the next success is tried, then less. A completion whose teacher would know no more than the student
        carries no loss.

        Args:
            samples: this process's share of the step's, ``num_rollouts`` of each prompt one after the other, without
                anchors.
            processes: all of them must call this.

        Raises:
            UserError: the scorer or the function of ``feedback_file`` fails.
        """
        texts = [self._renderer.completion_text(sample.rollout.completion_ids) for sample in samples]
        rows = [sample.pair.example for sample in samples]
        score, feedback = self._score, self._feedback
        scores = [None if score is None else score(text, row) for text, row in zip(texts, rows, strict=True)]
        words = ["" if feedback is None else feedback(row, text) for text, row in zip(texts, rows, strict=True)]
        right = [
            text if value == RIGHT and not is_blank(text) else None for text, value in zip(texts, scores, strict=True)
        ]
        of_step = processes.in_order(processes.gathered(right))
        done: list[Sample] = []
        for index, sample in enumerate(samples):
            place = processes.rank + index * processes.size
            first = place - place % self._copies
            group = dict(enumerate(of_step[first : first + self._copies], start=first))
            others = [text for at, text in group.items() if text is not None and at != place]
            taught, shown = self._taught(sample, others, words[index])
            if score is not None:
                found = any(text is not None for text in group.values())
                shown = replace(shown, score=scores[index], prompt_succeeded=found)
            done.append(replace(taught, shown=shown))
        return done

    def _taught(self, sample: Sample, successes: Sequence[str], words: str) -> tuple[Sample, Shown]:
        """The sample with the first of the possible prompts that is within the limit, and what that one shows."""
        pair, left_out = sample.pair, False
        for demonstration, own, said in _possible(pair.example, successes, words):
            ids = pair.teacher_ids  # with the row's own demonstration, or without any if it has none
            if own or said:
                ids = self._renderer.teacher_ids(replace(pair.example, demonstration=demonstration), said)
                if len(ids) > self._limit:
                    left_out = True
                    continue
            knows = bool(demonstration) or bool(said) or self._other_teacher
            taught = replace(sample, pair=replace(pair, teacher_ids=ids))
            shown = Shown(
                left_out=left_out,
                untaught=not knows,
                own_success=None if self._score is None else own,
                feedback=None if self._feedback is None else bool(said),
            )
            return (taught if knows else replace(taught, loss_positions=())), shown
        raise AssertionError("the row's own prompt is always possible")


def privileged(
    config: MethodConfig,
    tokenizer: PreTrainedTokenizerBase,
    model_config: Any,
    rows: Sequence[PromptPair],
    scorer: NamedScorer | None,
) -> Privileged | None:
    """What the settings ask for; None if the teacher is shown the row's own demonstration and nothing else.

    Raises:
        ValueError: there is no scorer although the settings need one, or one that they don't need.
        UserError: as ``Privileged``.
    """
    if (config.demonstration_from == "own_success") != (scorer is not None):
        raise ValueError("scorer: give one together with demonstration_from=own_success, and only then")
    if scorer is None and config.feedback_file is None:
        return None
    return Privileged(config, tokenizer, model_config, rows, scorer)


def feedback_from(spec: str) -> Feedback:
    """The function that ``feedback_file`` names. It raises UserError, which names the row, if the person's function
    fails or returns something else than text or None.

    Raises:
        UserError: there is no such file or function, or it takes other than two arguments.
    """
    function = user_function(spec, "--feedback_file", ("row", "completion"))

    def feedback(example: Example, completion: str) -> str:
        try:
            words = function(example, completion)
        except Exception as error:
            raise UserError(f"--feedback_file {spec} failed on {row_name(example)}: {described(error)}.") from error
        if words is not None and not isinstance(words, str):
            raise UserError(
                f"--feedback_file {spec} returned {quoted(words)} on {row_name(example)}: return text, or None."
            )
        return "" if words is None or is_blank(words) else words

    return feedback


def _possible(example: Example, successes: Sequence[str], words: str) -> Iterator[tuple[_Turns, bool, str]]:
    """Demonstrations, whether each is an own success, and the words with it; what shows most comes first. The last ones
    are the row's own demonstration without words, or else nothing at all."""
    demonstrations: list[tuple[_Turns, bool]] = [
        (({"role": "assistant", "content": text},), True) for text in successes
    ]
    demonstrations.append((example.demonstration, False))
    for demonstration, own in demonstrations:
        yield from ((demonstration, own, said) for said in dict.fromkeys((words, "")))
