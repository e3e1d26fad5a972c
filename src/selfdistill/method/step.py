"""One training step, in order: roll out, keep the tokens that are learned from, score, diverge, follow.

A step of SDFT takes prompts; the student samples a completion of each; the teacher, shown the demonstration, and the
student score the very same token ids; the loss is their divergence; the optimizer moves the student, and the teacher
follows. The other methods differ in who writes the completion and in what it is held to: a row of ``methods.METHODS``.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfdistill.method.batch import MicroBatch, Part, Sample, loss_positions, micro_batches, weigh
from selfdistill.method.lengths import context_length
from selfdistill.method.master_weights import MasterWeights
from selfdistill.method.methods import METHODS
from selfdistill.method.prompts import think_end_ids
from selfdistill.method.rollout.engine import RolloutEngine, Sampling, row_seeds
from selfdistill.method.rollout.engines import make_engine
from selfdistill.method.scoring import Predictions, divergences, importance_weights, logprobs, predictions
from selfdistill.method.teacher import Teacher
from selfdistill.method.timer import PhaseTimer
from selfdistill.models.mode import without_noise
from selfdistill.models.output_head import output_head
from selfdistill.models.tokens import pad_token_id
from selfdistill.settings.method import MethodConfig
from selfdistill.types import PromptPair, Rollout, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class PartLoss:
    """What a part of a micro-batch adds to the step's loss."""

    total: Tensor
    """The weighted sum over the part's N loss tokens, a scalar in nats, with its graph."""
    per_token: Tensor
    """[N], each token's divergence or cross-entropy in nats, unweighted, without a graph."""
    importance: Tensor | None = None
    """[N], the importance weights that ``total`` holds; None where there are none."""


class Step:
    """One model in both roles, and what a step does with it.

    The loop around it, for a list of batches, each of them a list of pairs::

        with step.masters.attached():
            for number, pairs in enumerate(batches):
                samples = step.rollout(pairs, number)
                for micro_batch in step.micro_batches(samples, count):
                    step.learn(micro_batch)
                optimizer.step()
                step.masters.write_back()
                optimizer.zero_grad()
                step.follow(number + 1)

    with an optimizer on ``[master for _, _, master in step.masters.items()]``. ``trainer.SDFTTrainer`` runs these
    lines from inside transformers' Trainer.

    Args:
        model: the model, in the dtype to compute in.
        tokenizer: its tokenizer.
        config: the settings.
        anchors: general prompts, needed where ``config.anchor_share`` is above 0.
        base_weights: what the teacher starts from and anchor prompts are held to, by parameter name; by default the
            model's own weights. ``method="reinvoke"`` needs them.
        engine: what samples completions; by default the one that ``config.rollout_engine`` names.
        timer: adds up seconds by phase.

    Raises:
        ValueError: anchors or base weights are missing, or nothing in the model is trainable.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: MethodConfig,
        *,
        anchors: Sequence[PromptPair] = (),
        base_weights: Mapping[str, Tensor] | None = None,
        engine: RolloutEngine | None = None,
        timer: PhaseTimer | None = None,
    ) -> None:
        self.model, self.config, self.spec = model, config, METHODS[config.method]
        self.masters = MasterWeights(model)
        self._base_weights = base_weights
        self.teachers = self._make_teachers()
        self.engine = engine or make_engine(model, tokenizer, name=config.rollout_engine)
        self.timer = timer or PhaseTimer(model.device)
        self.on_part: Callable[[Part, PartLoss], None] = lambda part, loss: None
        self._anchors = anchors
        self._pad_id, self._think_end = pad_token_id(tokenizer), think_end_ids(tokenizer)
        if config.anchor_share > 0 and not anchors:
            raise ValueError("anchor_share is above 0 but there are no anchor prompts")

    # -- from prompts to samples -------------------------------------------------------------------------------------

    def rollout(self, pairs: Sequence[PromptPair], number: int) -> list[Sample]:
        """Completions of the prompts of step ``number`` (from 0), and of its anchor prompts, each with the tokens that
        are learned from and their weight in the step's loss."""
        anchors = self.anchors(len(pairs), number)
        with self.timer.phase("rollout"):
            completions = self._complete(pairs, anchors, number)
        written = iter(completions)
        samples = [self._sample(pair, next(written), self.spec.target) for pair in pairs]
        samples += [self._sample(pair, next(written), "start") for pair in anchors]
        return weigh(samples, self.config.loss_reduction)

    def anchors(self, num_prompts: int, number: int) -> list[PromptPair]:
        """General prompts of step ``number``: so many that they are ``anchor_share`` of all prompts so far.

        Fractions are carried from step to step. They are drawn from shuffled passes over the anchor data, as a
        function of seed and step alone.
        """
        share = self.config.anchor_share
        if share == 0:
            return []
        prompts_a_step = self.config.per_device_train_batch_size * self.config.gradient_accumulation_steps
        before = number * prompts_a_step * share / (1 - share)
        first, end = _rounded(before), _rounded(before + num_prompts * share / (1 - share))
        size = len(self._anchors)
        drawn: list[PromptPair] = []
        order: list[int] = []
        for place in range(first, end):
            if not order or place % size == 0:
                order = random.Random(f"{self.config.seed}/{place // size}").sample(range(size), size)
            drawn.append(self._anchors[order[place % size]])
        return drawn

    def _complete(self, pairs: Sequence[PromptPair], anchors: Sequence[PromptPair], number: int) -> list[Rollout]:
        """Completions of rows, then of anchors: by the student, the teacher, or the demonstration itself."""
        if self.spec.completion == "student":
            return self._generate([*pairs, *anchors], number)
        if self.spec.completion == "teacher":
            with self.teachers["teacher"].active():
                written = self._generate(pairs, number, on_teacher_prompt=True)
        else:
            written = [Rollout(completion_ids=pair.demonstration_ids, finish_reason="stop") for pair in pairs]
        return written + self._generate(anchors, number)

    def _generate(self, pairs: Sequence[PromptPair], number: int, *, on_teacher_prompt: bool = False) -> list[Rollout]:
        if not pairs:
            return []
        config = self.config
        sampling = Sampling(
            max_new_tokens=config.max_completion_length,
            temperature=config.temperature,
            top_p=config.top_p,
            seeds=row_seeds(config.seed, number, [pair.example.id for pair in pairs]),
            logprobs=self.engine.samples_elsewhere and config.sampler_correction_cap is not None,
            context=context_length(self.model.config),
        )
        prompts = [(on_teacher_prompt and pair.teacher_ids) or pair.student_ids for pair in pairs]
        self.engine.sync()
        return self.engine.generate(prompts, sampling)

    def _sample(self, pair: PromptPair, rollout: Rollout, target: Target) -> Sample:
        """Keeps the tokens that are learned from: of a demonstration those that the assistant writes."""
        if target != "start" and self.spec.completion == "demonstration":
            mask = pair.demonstration_mask or [True] * len(rollout.completion_ids)
            positions = tuple(place for place, learned in enumerate(mask) if learned)
        else:
            positions = loss_positions(
                rollout,
                skip=self.config.num_loss_tokens_to_skip,
                mask_truncated=self.config.mask_truncated_completions,
                think_end=self._think_end,
            )
        return Sample(pair=pair, rollout=rollout, target=target, loss_positions=positions)

    # -- from samples to gradients -----------------------------------------------------------------------------------

    def micro_batches(self, samples: Sequence[Sample], count: int) -> list[MicroBatch]:
        """Exactly ``count`` micro-batches of the step's samples; one may be empty."""
        return micro_batches(samples, count, self._pad_id, self.model.device)

    def learn(self, micro_batch: MicroBatch, backward: Callable[[Tensor], Any] = Tensor.backward) -> Tensor:
        """Forward and backward of one micro-batch; returns its share of the step's loss, a scalar. One with nothing to
        learn leaves no gradient."""
        total = torch.zeros((), device=self.model.device)
        with without_noise(self.model):
            for part in micro_batch.parts:
                loss = self.loss(part)
                with self.timer.phase("backward"):
                    backward(loss.total)
                total += loss.total.detach()
                self.on_part(part, loss)
        return total

    def loss(self, part: Part) -> PartLoss:
        """What a part adds to the step's loss."""
        return self._cross_entropy(part) if part.target == "tokens" else self._divergence(part)

    def _cross_entropy(self, part: Part) -> PartLoss:
        """Weighted cross-entropy of given tokens; DFT weighs each by the model's own probability of it, too."""
        with self.timer.phase("student"):
            student = predictions(self.model, part.student)
        with self.timer.phase("divergence"):
            if self.spec.token_weight == "one":
                weighted = logprobs(student, part.token_ids, weights=-part.weights)
                return PartLoss(total=weighted.sum(), per_token=weighted.detach() / part.weights)
            values = logprobs(student, part.token_ids)
            weighted = -part.weights * values.detach().exp() * values
            return PartLoss(total=weighted.sum(), per_token=-values.detach())

    def _divergence(self, part: Part) -> PartLoss:
        """Weighted divergence between the target's teacher and the student at every loss token."""
        assert part.teacher is not None
        with self.timer.phase("teacher"), torch.no_grad(), self.teachers[part.target].active():
            teacher = predictions(self.model, part.teacher).detach()
        with self.timer.phase("student"):
            student = predictions(self.model, part.student)
        with self.timer.phase("divergence"):
            importance = self._importance(part, student)
            factor = part.weights if importance is None else part.weights * importance
            weighted = divergences(student, teacher, part.token_ids, self.config, weights=factor)
        return PartLoss(total=weighted.sum(), per_token=weighted.detach() / factor, importance=importance)

    def _importance(self, part: Part, student: Predictions) -> Tensor | None:
        """[N], or None where the engine gave no logprobs or no correction is wanted."""
        cap = self.config.sampler_correction_cap
        if part.sampler_logprobs is None or cap is None:
            return None
        ours = logprobs(student.detach(), part.token_ids, temperature=self.config.temperature)
        return importance_weights(ours, part.sampler_logprobs, part.counts, cap)

    # -- teachers ----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Called as training begins: weights that were put into the model meanwhile are those that start."""
        self.masters.refresh()
        if self._base_weights is None:
            for teacher in self.teachers.values():
                teacher.restart()

    def follow(self, number: int) -> None:
        """The teacher follows the student; call it after optimizer step ``number`` (from 1)."""
        with self.timer.phase("teacher_update"):
            for teacher in self.teachers.values():
                teacher.update(number)

    def _make_teachers(self) -> dict[Target, Teacher]:
        """The teacher, and the frozen model that anchor prompts are held to; one object where they are the same."""
        config, teachers = self.config, dict[Target, Teacher]()
        if self.spec.has_teacher:
            kind = "frozen" if self.spec.teacher == "base_model" else config.teacher
            teachers["teacher"] = Teacher(self.masters, kind, config.teacher_update_rate, config.teacher_sync_steps)
        if config.anchor_share > 0:
            frozen = [teacher for teacher in teachers.values() if teacher.kind == "frozen"]
            teachers["start"] = frozen[0] if frozen else Teacher(self.masters, "frozen")
        if self._base_weights is not None:
            for teacher in teachers.values():
                teacher.load_state_dict({name: self._base_weights[name] for name in self.masters.parameters})
        elif self.spec.teacher == "base_model":
            raise ValueError(f"method {config.method} needs base_weights: the model to distil from")
        return teachers

    # -- cost --------------------------------------------------------------------------------------------------------

    def flops(self, micro_batch: MicroBatch) -> int:
        """Floating-point operations that a micro-batch stands for: 2 for each weight and token forward, 4 backward.

        Sampling, the teacher and the student each count what they read. Embeddings are looked up, not multiplied.
        """
        head = output_head(self.model)
        tied = any(head is module.weight for module in self.model.modules() if isinstance(module, nn.Embedding))
        weights = self.model.num_parameters(exclude_embeddings=True) + (head.numel() if tied else 0)
        return sum(self._passes(sample) for sample in micro_batch.samples) * weights

    def _passes(self, sample: Sample) -> int:
        """Weight multiplications of a sample, by token: 6 of the student, 2 of the teacher, 2 of what sampled."""
        count = 6 * sample.student_tokens + 2 * sample.teacher_tokens
        if sample.target == "start" or self.spec.completion == "student":
            return count + 2 * sample.student_tokens
        return count + (2 * sample.teacher_tokens if self.spec.completion == "teacher" else 0)


def _rounded(value: float) -> int:
    return math.floor(value + 0.5)
