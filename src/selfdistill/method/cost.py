"""Floating-point operations of training on samples."""

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel

from selfdistill.method.batch import Sample
from selfdistill.method.needs import target_reads
from selfdistill.method.sources import source
from selfdistill.models.output_head import output_head
from selfdistill.settings.method import MethodConfig


def training_flops(
    samples: Sequence[Sample], config: MethodConfig, model: PreTrainedModel, taught_by: PreTrainedModel | None
) -> int:
    """Floating-point operations of a step's samples: 2 per weight and token forward, 4 backward.

    Counts sampling, the student's pass, the teacher's and those of the other models that the target reads, each with
    the tokens it reads. Embedding look-ups count nothing.

    Args:
        samples: of the step.
        config: the settings.
        model: the student.
        taught_by: the module that the teacher's passes take; None if a server makes them, which count nothing.
    """
    passes = [_passes(sample, config) for sample in samples]
    own, teacher = _weights_read(model), 0 if taught_by is None else _weights_read(taught_by)
    return sum(by_student * own + by_teacher * teacher for by_student, by_teacher in passes)


def _passes(sample: Sample, config: MethodConfig) -> tuple[int, int]:
    """Operations per weight for a sample, of the student's module and of the teacher's: per token 6 for the student's
    learning, 2 for sampling and every other pass."""
    taught = sample.target == "teacher"
    student = 6 * sample.student_tokens
    student += 2 * sample.student_tokens * ((taught and "start" in target_reads(config)) + (sample.writer == "student"))
    judged = taught and source(config).together
    reads = 2 * sample.teacher_tokens * (1 + judged + (sample.writer == "teacher")) + 2 * sample.other_tokens
    return (student, reads) if taught else (student + reads, 0)


def _weights_read(model: PreTrainedModel) -> int:
    """Weights that a pass of one token reads; embedding look-ups count nothing."""
    head = output_head(model)
    tied = any(head is module.weight for module in model.modules() if isinstance(module, nn.Embedding))
    return model.num_parameters(exclude_embeddings=True) + (head.numel() if tied else 0)
