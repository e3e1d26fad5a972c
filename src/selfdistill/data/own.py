"""A person's own rows as Examples: several sources, mixtures, held-out shares, and rows that can't be used."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

from selfdistill.data.columns import check_column_map
from selfdistill.data.files import RawRow
from selfdistill.data.folders import EVAL_SPLITS, TRAIN
from selfdistill.data.kept import keep
from selfdistill.data.prompts import is_held_out, uniform
from selfdistill.data.readers import has_evaluation_split, read_rows
from selfdistill.data.rows import example_from_row
from selfdistill.errors import UserError, brief
from selfdistill.settings.rows import RowOptions
from selfdistill.settings.sources import matching, sources
from selfdistill.types import Example

Side = Literal["train", "held_out", "eval"]
"""Which rows: those to train on, those that ``eval_share`` keeps from training, or those of data for evaluation."""


def _silent(_: str) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a person's own rows are read."""

    rows: RowOptions = field(default_factory=RowOptions)
    seed: int = 42
    """Of the draws from weighted sources."""
    raw_text: bool = False
    """Whether rows may be plain text without a prompt."""
    needs_demonstration: bool = True
    """Whether a training row without a demonstration can't be used."""
    train_limit: int | None = None
    """Read no more training rows than this many."""
    eval_limit: int | None = None
    """Read no more evaluation rows than this many."""
    for_evaluation: bool = False
    """Whether ``split`` names the split to evaluate on; otherwise it names the one to train on."""
    say: Callable[[str], None] = _silent
    """Is told of rows that were left out."""


def files_of(named: str) -> list[str]:
    """Every file, folder and Hub id in what ``--dataset_path`` names, in order, patterns resolved. Raises UserError if
    a source has no name, or nothing fits a pattern."""
    return [name for source in sources(named) for name in matching(source.name)]


def own_evaluation(named: str) -> str | None:
    """The sources of training rows as sources of evaluation rows, if each is a folder with a split for evaluation; else
    None. Raises UserError if one is not there."""
    if not all(map(has_evaluation_split, files_of(named))):
        return None
    return ",".join(source.name for source in sources(named))


def own_examples(
    named: str, reading: Reading, *, side: Side, prefix: str, need_demonstration: bool
) -> Sequence[Example]:
    """The rows of one side, in order, with ids ``prefix/N``, N being the row's number among all that were read.

    Sources without weights follow each other. Of weighted sources each row is drawn from one of them with a probability
    in proportion to its weight, in the order of the source; the mixture ends when the source that was drawn has no more
    rows. Weights count for training: the held-out rows are those of all sources.

    Args:
        named: what ``--dataset_path`` names.
        reading: how it is read. At most its limit of rows is read.
        side: which rows.
        prefix: beginning of the ids.
        need_demonstration: whether a row without a demonstration can't be used.

    Raises:
        UserError: there is no such data, a row can't be used and ``on_bad_row`` is error, or no row is left.
        DiskError: there are too many for memory, and they can't be kept on the disk.
    """
    reader = _Reader(named, reading, side, prefix, need_demonstration)
    limit = reading.train_limit if side == "train" else reading.eval_limit
    examples = keep(islice(reader.examples(), limit))
    reader.report(len(examples))
    return examples


class _Reader:
    """Reads one side of the sources, and counts what is left out."""

    def __init__(self, named: str, reading: Reading, side: Side, prefix: str, need_demonstration: bool) -> None:
        self.named, self.reading, self.side, self.prefix = named, reading, side, prefix
        self.need_demonstration = need_demonstration
        self.columns = reading.rows.column_map()
        check_column_map(self.columns)
        self.num_read = self.num_skipped = 0
        self.first_error: UserError | None = None
        self.drawn: dict[str, int] = {}
        """Rows drawn from each source of a mixture."""

    def examples(self) -> Iterator[Example]:
        """The rows, read as they are asked for. Raises UserError as ``own_examples``."""
        all_sources = sources(self.named)
        weights = [source.weight for source in all_sources]
        streams = [self._of_source(matching(source.name)) for source in all_sources]
        weighted = any(weight is not None for weight in weights)
        if weighted and self.side == "eval":
            raise UserError(f"{self.named[:80]}: weights are for training rows. Name the evaluation rows without them.")
        if weighted and self.side == "train":
            shares = [1.0 if weight is None else weight for weight in weights]
            self.drawn = dict.fromkeys((source.name for source in all_sources), 0)
            for place, example in mixed(streams, shares, self.reading.seed):
                self.drawn[all_sources[place].name] += 1
                yield example
        else:
            for stream in streams:
                yield from stream

    def report(self, num_kept: int) -> None:
        """Tells what a mixture consists of, and how many rows were skipped. Raises UserError if there are no rows."""
        if self.num_skipped and self.num_skipped == self.num_read:
            raise UserError(
                f"None of the {self.num_read:,} rows of {self.named[:80]} can be used; the first: "
                f"{brief(self.first_error, 25)}"
            )
        if not self.num_read:
            raise UserError(f"{_called(self.named)} has no rows: give it at least one with a prompt.")
        if not num_kept and self.drawn:
            raise UserError(
                f"{_called(self.named)}: the source that was drawn first has no rows to train on, which ends the "
                "mixture. Leave it out."
            )
        if not num_kept:
            raise UserError(
                f"--eval_share {self.reading.rows.eval_share} of the {self.num_read:,} rows of {_called(self.named)} "
                f"leaves none to {'train on. Lower it.' if self.side == 'train' else 'evaluate on. Raise it.'}"
            )
        if self.drawn:
            self.reading.say("mixture: " + ", ".join(f"{count:,} rows of {name}" for name, count in self.drawn.items()))
        told = self.side == "held_out" and not self.reading.for_evaluation  # when the training rows were read
        if self.num_skipped and not told:
            self.reading.say(
                f"{_called(self.named)}: {self.num_skipped:,} of {self.num_read:,} rows skipped. The first: "
                f"{self.first_error}"
            )

    def _of_source(self, names: Sequence[str]) -> Iterator[Example]:
        share = self.reading.rows.eval_share
        for raw in (row for name in names for row in self._raw(name)):
            example = self._example(raw)
            if example is None:
                continue
            if share is not None and self.side != "eval" and is_held_out(example, share) != (self.side == "held_out"):
                continue
            yield example

    def _raw(self, name: str) -> Iterator[RawRow]:
        evaluates = self.side == "eval"
        split = self.reading.rows.split if self.reading.for_evaluation or not evaluates else None
        usual = EVAL_SPLITS if evaluates else (TRAIN,)
        return read_rows(name, usual if split is None else (split,), asked=split is not None)

    def _example(self, raw: RawRow) -> Example | None:
        """The row as an Example; None if it can't be used and is to be skipped."""
        self.num_read += 1
        try:
            if raw.error is not None:
                raise raw.error
            return example_from_row(
                raw.columns,
                where=raw.where,
                id=f"{self.prefix}/{self.num_read - 1}",
                need_demonstration=self.need_demonstration,
                raw_text=self.reading.raw_text,
                columns=self.columns,
            )
        except UserError as error:
            if self.reading.rows.on_bad_row == "error":
                raise
            self.num_skipped += 1
            self.first_error = self.first_error or error
            return None


def mixed(streams: Sequence[Iterator[Example]], weights: Sequence[float], seed: int) -> Iterator[tuple[int, Example]]:
    """Draws each row from one of the streams, stream i with probability ``weights[i] / sum(weights)``; ends when the
    stream that was drawn has no more rows. Yields the stream's place in the list, and the row.

    Which stream draw number k takes depends on the seed and k alone.
    """
    total = sum(weights)
    draw = 0
    while True:
        point, place = uniform(f"mixture/{seed}/{draw}") * total, 0
        while place < len(weights) - 1 and point >= weights[place]:
            point, place = point - weights[place], place + 1
        example = next(streams[place], None)
        if example is None:
            return
        yield place, example
        draw += 1


def _called(named: str) -> str:
    """The data's name in messages: that of the file if there is only one."""
    return named[:80] if "," in named else named.rstrip("/").rpartition("/")[2][:80]
