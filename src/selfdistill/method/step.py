"""One training step: roll out, select the loss tokens, score, compute the divergence, update the teacher.

In a step of SDFT the student samples a completion of each prompt; student and teacher, which also sees the
demonstration, score the same token ids; the loss is the divergence between them; the optimizer updates the student, and
the teacher follows. Other methods differ in who writes the completion and what the student is compared with
(``methods.METHODS``).
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfdistill.method.batch import (
    COMPARED,
    Likeliest,
    MicroBatch,
    Part,
    Sample,
    Scored,
    halved,
    loss_positions,
    micro_batches,
    weigh,
)
from selfdistill.method.completions import Completions
from selfdistill.method.contrast import OtherDemonstrations
from selfdistill.method.cost import training_flops
from selfdistill.method.master_weights import MasterWeights
from selfdistill.method.methods import METHODS
from selfdistill.method.needs import target_reads
from selfdistill.method.privileged import privileged
from selfdistill.method.processes import ALONE, Processes, exchanging
from selfdistill.method.prompts import think_end_ids
from selfdistill.method.rollout.copies import copy_options
from selfdistill.method.rollout.engine import RolloutEngine, row_seeds
from selfdistill.method.rollout.engines import make_engine
from selfdistill.method.scoring import (
    Predictions,
    chosen_target,
    chosen_token_weights,
    divergences,
    importance_weights,
    logprobs,
    predictions,
)
from selfdistill.method.sharded import Sharded, Sharding, Whole
from selfdistill.method.sources import rounded, source, target_of, writers
from selfdistill.method.teacher_server import TeacherServer
from selfdistill.method.teachers import make_teachers
from selfdistill.method.timer import PhaseTimer
from selfdistill.models.mode import without_noise
from selfdistill.models.tokens import pad_token_id, vocab_size
from selfdistill.settings.method import MethodConfig
from selfdistill.types import NamedScorer, PromptPair, Rollout, Target, Writer


@dataclass(frozen=True, slots=True, kw_only=True)
class PartLoss:
    """What a part of a micro-batch adds to the step's loss."""

    total: Tensor
    """Scalar in nats: the weighted sum over the part's N loss tokens, with gradients."""
    per_token: Tensor
    """[N]: each token's unweighted divergence or cross-entropy in nats, without gradients."""
    importance: Tensor | None = None
    """[N]: the importance weights used in ``total``; None if there are none."""
    token_weights: Tensor | None = None
    """[N]: the factors of ``token_weight`` used in ``total``; None if all are 1."""


class Step:
    """The operations of a training step on one model, which is both student and teacher.

    A training loop, where ``batches`` is a list of lists of pairs::

        with step.masters.attached():
            for number, pairs in enumerate(batches):
                samples = step.rollout(pairs, number)
                for micro_batch in step.micro_batches(samples, count):
                    step.learn(micro_batch)
                step.masters.update(optimizer.step)
                step.follow(number + 1)

    The optimizer is made for ``[master for _, _, master in step.masters.items()]``. ``trainer.SDFTTrainer`` does the
    same inside transformers' Trainer.

    Args:
        model: the model, in the dtype to compute in.
        tokenizer: its tokenizer.
        config: the settings.
        anchors: general prompts, needed if ``config.anchor_share`` is above 0.
        rows: all training rows, needed if ``config.target`` is ``contrast``. The template ``few_shot`` draws from them.
        scorer: tells which completions succeeded, needed if ``config.demonstration_from`` is ``own_success``.
        base_weights: weights by parameter name that the teacher starts from and the start model has; by default the
            model's own. ``method="reinvoke"`` needs them.
        teacher_model: the model that ``config.teacher_model`` names.
        teacher_server: the server that ``config.teacher_server`` names.
        engine: samples completions; by default the one that ``config.rollout_engine`` names.
        timer: adds up seconds by phase.

    Raises:
        ValueError: anchors, base weights, a teacher or a scorer are missing, or nothing in the model is trainable.
        UserError: ``contrast`` has fewer than two rows with a demonstration, or as ``privileged.Privileged``.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: MethodConfig,
        *,
        anchors: Sequence[PromptPair] = (),
        rows: Sequence[PromptPair] = (),
        scorer: NamedScorer | None = None,
        base_weights: Mapping[str, Tensor] | None = None,
        teacher_model: PreTrainedModel | None = None,
        teacher_server: TeacherServer | None = None,
        engine: RolloutEngine | None = None,
        timer: PhaseTimer | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.processes = processes
        self.model, self.config, self.spec = model, config, METHODS[config.method]
        self._reads = target_reads(config)
        self._others = OtherDemonstrations(rows, config, tokenizer, model.config) if "other" in self._reads else None
        self._privileged = privileged(config, tokenizer, model.config, rows, scorer)
        self.sharding: Sharding = Sharded(model, processes) if config.shard_weights else Whole()
        copy = copy_options(config, model.config, [*rows, *anchors])
        with self.sharding.gathered():
            self.engine = engine or make_engine(model, tokenizer, name=config.rollout_engine, options=copy)
        self.masters = MasterWeights(model)
        self._restarts_teachers = base_weights is None
        self._taught_by, self.teacher_server = model if teacher_model is None else teacher_model, teacher_server
        if (config.teacher_server is None) != (teacher_server is None):
            raise ValueError("teacher_server: give the setting, and the server that it names")
        self.teachers = make_teachers(config, self.masters, model, self._taught_by, self.sharding, base_weights)
        self.completions = Completions(model, config, self.teachers.get("teacher"), tokenizer)
        self.completions.check(self.engine)
        self.timer = timer or PhaseTimer(model.device)
        self.on_part: Callable[[Part, PartLoss], None] = lambda part, loss: None
        self._anchors, self._samples = anchors, self.spec.samples or config.anchor_share > 0
        self._pad_id, self._think_end = pad_token_id(tokenizer, vocab_size(model)), think_end_ids(tokenizer)
        if config.anchor_share > 0 and not anchors:
            raise ValueError("anchor_share is above 0 but there are no anchor prompts")

    # -- from prompts to samples -------------------------------------------------------------------------------------

    def rollout(self, pairs: Sequence[PromptPair], number: int, *, anchored: bool = True) -> list[Sample]:
        """Completes the prompts of step ``number`` (from 0) and, if ``anchored``, its anchor prompts. With several
        processes ``pairs`` are those of all, and each completes its own share of them and of the anchors.

        Returns ``num_rollouts`` samples of each prompt, one after the other, with their loss positions and their weight
        in the step's loss: first those of ``pairs``, then the anchors'.
        """
        copies = range(self.config.num_rollouts)
        all_pairs = [pair for pair in pairs for _ in copies]
        all_prompts = all_pairs + [pair for pair in self.anchors(len(pairs) if anchored else 0, number) for _ in copies]
        ids = [pair.example.id for pair in all_prompts]
        seeds = self.processes.own(row_seeds(self.config.seed, number, ids))
        a_step = self.prompts_a_step * len(copies)
        authors = self.processes.own(writers(self.config, number, ids[: len(all_pairs)], a_step))
        own, count = self.processes.own(all_prompts), len(authors)
        pairs, anchors = own[:count], own[count:]
        gathered = self.sharding.gathered() if self._samples else nullcontext()
        with self.timer.phase("rollout"), gathered:
            completions = iter(self.completions.write(pairs, authors, anchors, seeds, self.engine))
        written = zip(pairs, authors, strict=True)
        samples = [self._sample(pair, next(completions), target_of(self.config, by), by) for pair, by in written]
        if self._privileged is not None:
            with self.timer.phase("rollout"):
                samples = self._privileged.shown(samples, self.processes)
        if self._others is not None:
            shown = self._others.prompts(pairs, number, all_pairs)
            samples = [replace(sample, other_ids=ids) for sample, ids in zip(samples, shown, strict=True)]
        samples += [self._sample(pair, next(completions), "start") for pair in anchors]
        return weigh(samples, self.config.loss_reduction, self.processes.totals)

    def anchors(self, num_prompts: int, number: int) -> list[PromptPair]:
        """Returns the anchor prompts of step ``number`` (from 0), which has ``num_prompts`` other prompts.

        Their share of all prompts is ``anchor_share`` over the run; fractions are carried from step to step. They come
        from shuffled passes over the anchor data and depend only on seed and step.
        """
        share = self.config.anchor_share
        if share == 0:
            return []
        before = number * self.prompts_a_step * share / (1 - share)
        first, end = rounded(before), rounded(before + num_prompts * share / (1 - share))
        size = len(self._anchors)
        drawn: list[PromptPair] = []
        order: list[int] = []
        for place in range(first, end):
            if not order or place % size == 0:
                order = random.Random(f"{self.config.seed}/{place // size}").sample(range(size), size)
            drawn.append(self._anchors[order[place % size]])
        return drawn

    @property
    def prompts_a_step(self) -> int:
        """Prompts of a whole step of all processes, without anchors."""
        config = self.config
        return config.per_device_train_batch_size * config.gradient_accumulation_steps * self.processes.size

    def _sample(self, pair: PromptPair, rollout: Rollout, target: Target, writer: Writer = "student") -> Sample:
        """Adds the loss positions. In a demonstration they are among the tokens that the assistant writes, and all of
        them where the demonstration is the target, too."""
        positions = tuple(range(len(rollout.completion_ids)))
        if target != "tokens" or writer != "demonstration":
            positions = loss_positions(
                rollout,
                skip=self.config.num_loss_tokens_to_skip,
                mask_truncated=self.config.mask_truncated_completions,
                think_end=self._think_end,
            )
        if writer == "demonstration" and (mask := pair.demonstration_mask):
            positions = tuple(place for place in positions if mask[place])
        mixed = target != "start" and source(self.config).mixes
        return Sample(pair=pair, rollout=rollout, target=target, loss_positions=positions, writer=writer, mixed=mixed)

    # -- from samples to gradients -----------------------------------------------------------------------------------

    def micro_batches(self, samples: Sequence[Sample], count: int, *, halvings: int = 0) -> list[MicroBatch]:
        """Splits the step's samples into exactly ``count`` micro-batches, some of which may be empty, and scores them.
        ``halvings``: how often their parts are halved before.

        The teachers score the whole step here, before any gradient exists: their weights in the dtype to compute in and
        the gradients are never in memory together. What is kept is hidden states [N, H'] and the teacher's output head,
        or of a teacher behind a server its k likeliest tokens.

        Raises:
            EngineError: the server does not answer as it should.
        """
        batches = [
            self.halved(batch, halvings) for batch in micro_batches(samples, count, self._pad_id, self.model.device)
        ]
        batches = self.sharding.alike(batches, self._pad_id)
        for teacher in self.teachers.values():
            teacher.wait()
        parts = [part for batch in batches for part in batch.parts]
        compared: dict[Target, list[Part]] = {
            target: [part for part in parts if part.target == target] for target in COMPARED
        }
        scored: dict[Target, Iterator[Part]] = {
            target: iter(self._score(target, of_target)) for target, of_target in compared.items() if of_target
        }
        return [
            MicroBatch(parts=tuple(next(scored[part.target]) if part.teacher else part for part in batch.parts))
            for batch in batches
        ]

    def _score(self, target: Target, parts: Sequence[Part]) -> list[Part]:
        """The parts, one or more, with the hidden states at the loss tokens, and the output heads, of their teacher and
        of the other models that its target reads."""
        if target == "teacher" and self.teacher_server is not None:
            with self.timer.phase("teacher"):
                return self.teacher_server.scored(parts)
        reads = self._reads if target == "teacher" else ()
        found: dict[str, list[Predictions]] = {}
        module = self._taught_by if target == "teacher" else self.model
        with self.timer.phase("teacher"), torch.no_grad(), without_noise(self.model):
            with self.teachers[target].active():
                found["teacher"] = self._constant(module, [part.teacher or () for part in parts])
                if "other" in reads:
                    found["other"] = self._constant(module, [part.other or () for part in parts])
            if "start" in reads:
                with self.teachers["start"].active():
                    found["start"] = self._constant(self.model, [part.student for part in parts])
        return [
            replace(
                part,
                teacher_hidden=found["teacher"][index].hidden,
                teacher_head=found["teacher"][index].head,
                references=tuple((found[name][index].hidden, found[name][index].head) for name in reads),
            )
            for index, part in enumerate(parts)
        ]

    def _constant(self, module: PreTrainedModel, passes: Sequence[Sequence[Scored]]) -> list[Predictions]:
        """Predictions, without gradients, that stay when the module's weights change; they share one output head."""

        def scored() -> list[Predictions]:
            found = [predictions(module, one).detach() for one in passes]
            head = self.sharding.lasting(found[0].head)
            return [replace(one, head=head) for one in found]

        return self.sharding.inside(scored)

    def halved(self, micro_batch: MicroBatch, times: int = 1) -> MicroBatch:
        """The micro-batch with its parts halved ``times`` times; a part is what one backward pass takes."""
        for _ in range(times):
            micro_batch = halved(micro_batch, self._pad_id, self.model.device)
        return micro_batch

    def learn(
        self, micro_batch: MicroBatch, backward: Callable[[Tensor], Any] = Tensor.backward, *, report: bool = True
    ) -> Tensor:
        """Runs forward and backward passes of a micro-batch and returns its share of the step's loss, a scalar in nats.

        An empty micro-batch returns 0 and adds no gradient. ``report``: call ``on_part`` for each part at the end.
        """
        total, done = torch.zeros((), device=self.model.device), list[tuple[Part, PartLoss]]()
        with without_noise(self.model):
            for part in micro_batch.parts:
                loss = self.loss(part)
                with self.timer.phase("backward"), exchanging():
                    backward(loss.total)
                total += loss.total.detach()
                if part.samples:
                    done.append((part, replace(loss, total=loss.total.detach())))
        for part, loss in done if report else ():
            self.on_part(part, loss)
        return total

    def loss(self, part: Part) -> PartLoss:
        """Computes what a part adds to the step's loss."""
        kind = self._cross_entropy if part.target == "tokens" else self._divergence
        done: list[PartLoss] = []

        def computed() -> Tensor:
            done.append(kind(part) if part.samples else self._nothing(part))
            return done[0].total

        total = self.sharding.inside(computed)
        return replace(done[0], total=total)

    def _nothing(self, part: Part) -> PartLoss:
        """The loss of a part without samples, which other processes have: 0, with gradients of zeros."""
        student = predictions(self.model, part.student)
        total = student.hidden.float().sum() + student.head[:0].float().sum()
        return PartLoss(total=total, per_token=part.weights)

    def _cross_entropy(self, part: Part) -> PartLoss:
        """Weighted cross-entropy of given tokens. DFT also weighs each token by the student's own probability of it."""
        with self.timer.phase("student"):
            student = predictions(self.model, part.student)
        with self.timer.phase("divergence"):
            if self.spec.cross_entropy_weight == "one":
                weighted = logprobs(student, part.token_ids, weights=-part.weights)
                return PartLoss(total=weighted.sum(), per_token=weighted.detach() / part.weights)
            values = logprobs(student, part.token_ids)
            weighted = -part.weights * values.detach().exp() * values
            return PartLoss(total=weighted.sum(), per_token=-values.detach())

    def _divergence(self, part: Part) -> PartLoss:
        """Weighted divergence between the student and what the part is held to, at every loss token."""
        with self.timer.phase("student"):
            student = predictions(self.model, part.student)
        teacher: Predictions | Likeliest | None = part.likeliest
        if teacher is None:
            assert part.teacher_hidden is not None
            assert part.teacher_head is not None
            teacher = replace(student, hidden=part.teacher_hidden, head=part.teacher_head)
        with self.timer.phase("divergence"):
            importance = self._importance(part, student)
            factor = part.weights if importance is None else part.weights * importance
            target = token_weights = None
            if part.target == "teacher":  # anchor prompts are held to the start model as it is
                target = chosen_target(self.config, part.references)
                token_weights = chosen_token_weights(part, student, teacher, self.config)
            if token_weights is not None:
                factor = factor * token_weights
            weighted = divergences(student, teacher, part.token_ids, self.config, target=target, weights=factor)
        per_token = weighted.detach() / factor
        return PartLoss(total=weighted.sum(), per_token=per_token, importance=importance, token_weights=token_weights)

    def _importance(self, part: Part, student: Predictions) -> Tensor | None:
        """Importance weights [N]; None if the engine samples from these very weights or reported no logprobs, or
        correction is off."""
        cap = self.config.sampler_correction_cap
        if not self.engine.samples_elsewhere or part.sampler_logprobs is None or cap is None:
            return None
        ours = logprobs(student.detach(), part.token_ids, temperature=self.config.temperature)
        return importance_weights(ours, part.sampler_logprobs, part.counts, cap)

    # -- teachers ----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Call when training begins: takes over weights that were loaded into the model after this object was made."""
        self.masters.refresh()
        if self._restarts_teachers:
            for teacher in self.teachers.values():
                teacher.restart()

    def follow(self, number: int) -> None:
        """Updates the teachers; call it after optimizer step ``number`` (from 1)."""
        with self.timer.phase("teacher_update"):
            for teacher in self.teachers.values():
                teacher.update(number)

    def flops(self, micro_batch: MicroBatch) -> int:
        """Floating-point operations of a micro-batch; see ``training_flops``."""
        taught_by = self._taught_by if self.teacher_server is None else None
        return training_flops(micro_batch.samples, self.config, self.model, taught_by)
