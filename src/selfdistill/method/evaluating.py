"""``evaluate`` and ``predict`` of SDFTTrainer, as transformers' Trainer has them, on rows of its own."""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase, Trainer

from selfdistill.errors import UserError
from selfdistill.method.config import SDFTConfig
from selfdistill.method.held_out import greedy_completions, held_out_loss
from selfdistill.method.out_of_memory import Pieces
from selfdistill.method.rows import Rows, held_out_pairs
from selfdistill.method.step import Step
from selfdistill.types import PromptPair


class Predicted(NamedTuple):
    """What ``predict`` returns, with the names of transformers' PredictionOutput."""

    predictions: list[str]
    """The student's greedy completion of every row, as text."""
    label_ids: list[str]
    """The rows' demonstrations as text, empty where there is none."""
    metrics: dict[str, float]
    """What ``evaluate`` returns of these rows."""


class EvaluatingTrainer(Trainer):
    """The part of SDFTTrainer that measures held-out rows. Nothing of it changes what a run trains or samples."""

    args: SDFTConfig
    model: PreTrainedModel
    step: Step
    pieces: Pieces
    tokenizer: PreTrainedTokenizerBase

    def evaluate(  # type: ignore[override]  # rows of ours where Trainer takes datasets
        self,
        eval_dataset: Rows | Mapping[str, Rows] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Measures the method's loss on held-out rows (``held_out_loss``), logs and returns it.

        Args:
            eval_dataset: rows as ``train_dataset`` takes them, or several sets of rows by name; by default the
                trainer's own.
            ignore_keys: taken because Trainer's has it; nothing is ignored.
            metric_key_prefix: what the names of the metrics begin with.

        Returns:
            ``eval_loss`` in nats, ``eval_tokens``, ``eval_runtime`` in seconds and ``eval_samples_per_second``, and
            what ``compute_metrics`` finds, with the same prefix. Of several sets each has these, as
            ``eval_NAME_loss`` and so on.

        Raises:
            UserError: there are no rows, one is unusable, or the settings' loss can't be measured on them.
        """
        rows: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(rows, Mapping):
            sets: list[dict[str, float]] = [
                self.evaluate(each, ignore_keys, f"{metric_key_prefix}_{name}") for name, each in rows.items()
            ]
            return {name: value for found in sets for name, value in found.items()}
        metrics = self._measured(self._pairs_of(rows), metric_key_prefix)  # the trainer's own are rendered already
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def predict(  # type: ignore[override]  # the same names, with texts as predictions
        self, test_dataset: Rows, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> Predicted:
        """Completes held-out prompts greedily and measures the loss of their rows, which is not logged.

        Args:
            test_dataset: rows as ``train_dataset`` takes them.
            ignore_keys: as in ``evaluate``.
            metric_key_prefix: as in ``evaluate``.

        Raises:
            UserError: as ``evaluate``.
        """
        pairs = self._pairs_of(test_dataset)
        answers = self._answers(pairs)
        return Predicted(*answers, metrics=self._measured(pairs, metric_key_prefix, answers))

    def _pairs_of(self, rows: Any) -> list[PromptPair]:
        if rows is None:
            raise UserError("evaluate: there are no rows. Give SDFTTrainer or evaluate an eval_dataset.")
        return held_out_pairs(rows, self.args, self.tokenizer, self.model.config)

    def _answers(self, pairs: list[PromptPair]) -> tuple[list[str], list[str]]:
        """Greedy completions and demonstrations as texts."""
        completions = [list(rollout.completion_ids) for rollout in greedy_completions(self.step, pairs)]
        texts = self.tokenizer.batch_decode(completions, skip_special_tokens=True)
        return texts, [pair.example.demonstration_text for pair in pairs]

    def _measured(
        self, pairs: list[PromptPair], prefix: str, answers: tuple[list[str], list[str]] | None = None
    ) -> dict[str, float]:
        start = time.perf_counter()
        found = held_out_loss(self.step, self.pieces, pairs)
        more: dict[str, float] = {}
        if self.compute_metrics is not None:
            texts: Any = answers or self._answers(pairs)  # where others have arrays
            more = self.compute_metrics(EvalPrediction(*texts))
        seconds = time.perf_counter() - start
        return {
            f"{prefix}_loss": found.loss,
            f"{prefix}_tokens": found.tokens,
            f"{prefix}_runtime": seconds,
            f"{prefix}_samples_per_second": len(pairs) / seconds,
            **{name if name.startswith(f"{prefix}_") else f"{prefix}_{name}": value for name, value in more.items()},
        }
