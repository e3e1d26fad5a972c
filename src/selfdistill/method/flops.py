"""Floating-point operations of a step."""

from torch import nn
from transformers import PreTrainedModel

from selfdistill.method.batch import MicroBatch, Sample
from selfdistill.method.needs import target_reads
from selfdistill.method.sources import source
from selfdistill.models.output_head import output_head
from selfdistill.settings.method import MethodConfig


def flops(micro_batch: MicroBatch, config: MethodConfig, student: PreTrainedModel, teacher: PreTrainedModel) -> int:
    """Floating-point operations of a micro-batch: 2 per weight and token forward, 4 backward.

    Counts sampling, the student's pass, the teacher's and those of the other models that the target reads, each with
    the tokens it reads. Embedding look-ups count nothing.
    """
    passes = [_passes(sample, config) for sample in micro_batch.samples]
    own, other = _weights_read(student), _weights_read(teacher)
    return sum(by_student * own + by_teacher * other for by_student, by_teacher in passes)


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
