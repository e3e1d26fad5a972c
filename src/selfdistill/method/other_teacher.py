"""Another model as the teacher: loaded beside the student, it never changes and is not saved with the run."""

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfdistill.errors import UserError
from selfdistill.method.config import SDFTConfig
from selfdistill.models.loading import load_config, load_model, load_tokenizer
from selfdistill.models.output_head import check_head, head_transform
from selfdistill.types import TeacherKind


class OtherTeacher:
    """A teacher with a module of its own; its methods are those of ``teacher.Teacher``.

    Args:
        model: the teacher, in the dtype to compute in, on the student's device.
    """

    kind: TeacherKind = "frozen"

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model.requires_grad_(False).eval()

    def restart(self) -> None:
        """Does nothing."""

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yields nothing: the student's module never has this teacher's weights."""
        yield from ()

    @contextmanager
    def active(self, weights: Mapping[str, Tensor] | None = None) -> Generator[None]:
        """Context in which ``model`` can be used; there is nothing to do."""
        yield

    def update(self, step: int) -> None:
        """Does nothing."""

    def wait(self) -> None:
        """Does nothing."""

    def state_dict(self) -> dict[str, Tensor]:
        """Returns nothing: a checkpoint names the model."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes nothing. Raises ValueError if there is something to take."""
        if state:
            raise ValueError(f"teacher weights do not fit: {min(state)!r} is the student's")


def check_vocabulary(
    name: str, tokenizer: PreTrainedTokenizerBase, config: Any, others: PreTrainedTokenizerBase, other_config: Any
) -> None:
    """Checks that the model ``name`` can teach: its predictions are of the same tokens, and made in the same way.

    Args:
        name: of the teacher.
        tokenizer: the student's.
        config: the student's transformers config.
        others: the teacher's tokenizer.
        other_config: the teacher's transformers config.

    Raises:
        UserError: it can't.
    """
    if tokenizer.get_vocab() != others.get_vocab():
        raise UserError(
            f"teacher_model {name} has other tokens than the model to train: their tokenizers' vocabularies differ. "
            "Take a model of the same family."
        )
    own, other = (each.get_text_config(decoder=True).vocab_size for each in (config, other_config))
    if own != other:
        raise UserError(
            f"teacher_model {name} predicts {other} tokens, the model to train {own}. Take one of the same size of "
            "vocabulary, padding included."
        )
    if head_transform(config) != head_transform(other_config):
        raise UserError(
            f"teacher_model {name} scales or caps its logits in another way than the model to train. Take a model of "
            "the same family."
        )


def named_teacher(
    args: SDFTConfig, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedModel | None:
    """The model that ``args.teacher_model`` names, in the student's dtype, on the training device; None without a name.

    Raises:
        UserError: it can't be loaded, or can't teach this student.
    """
    name = args.teacher_model
    if name is None:
        return None
    other, config = tokenizer_and_config(name)
    check_vocabulary(name, tokenizer, student.config, other, config)
    with _named_so():
        model = load_model(name, dtype=str(student.dtype).removeprefix("torch."), device=str(args.device))
        check_head(model)
    return model


def tokenizer_and_config(name: str) -> tuple[PreTrainedTokenizerBase, Any]:
    """Tokenizer and transformers config of a teacher. Raises UserError if there is none of that name."""
    with _named_so():
        return load_tokenizer(name), load_config(name)


@contextmanager
def _named_so() -> Generator[None]:
    """Says --teacher_model where loading a model says --model_name."""
    try:
        yield
    except UserError as error:
        raise type(error)(str(error).replace("--model_name", "--teacher_model")) from error
