"""Completes the prompts of a step: who writes each completion, and with which model."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfdistill.errors import UserError
from selfdistill.method.lengths import context_length
from selfdistill.method.other_teacher import OtherTeacher
from selfdistill.method.rollout.engine import RolloutEngine, Sampling
from selfdistill.method.rollout.engines import COPIES, describe, make_engine
from selfdistill.method.rollout.own import OwnEngine, why_not_own
from selfdistill.method.rollout.together import Judge, Prompts, Together, accept, interleave
from selfdistill.method.sources import source, teacher_writes
from selfdistill.method.teacher import Teacher
from selfdistill.settings.method import MethodConfig
from selfdistill.types import PromptPair, Rollout, Writer


class Completions:
    """Writes completions.

    Args:
        model: the student's module.
        config: the settings.
        teacher: the teacher; None if the method has none.
        tokenizer: the model's tokenizer.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        config: MethodConfig,
        teacher: Teacher | OtherTeacher | None,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self._model, self._config, self._teacher, self._source = model, config, teacher, source(config)
        self._module, self._own = model, None  # who computes the teacher's logits, and its engine if it needs one
        if isinstance(teacher, OtherTeacher):
            self._module = teacher.model
            if teacher_writes(config):
                name = "auto" if config.rollout_engine in COPIES else config.rollout_engine
                self._own = make_engine(teacher.model, tokenizer, name=name)
            elif self._source.together:
                make_engine(teacher.model, tokenizer, name="own")  # refuses a model that our loop does not know

    def check(self, engine: RolloutEngine) -> None:
        """Raises UserError if the source can't do with the engine."""
        config = self._config
        if config.shard_weights and engine.samples_elsewhere:
            raise UserError(
                f"{describe(engine)} samples from a copy of the weights, of which no process has all (shard_weights). "
                "Take rollout_engine own or generate."
            )
        if self._source.together and not isinstance(engine, OwnEngine):
            reason = why_not_own(self._model) or f"The engine is {describe(engine)}."
            raise UserError(
                f"completion_source={config.completion_source} takes our own decoding loop. {reason} Take "
                "completion_source student or mixture."
            )
        if self._source.mixes and engine.samples_elsewhere and config.sampler_correction_cap is not None:
            raise UserError(
                f"completion_source=mixture: what {describe(engine)} did not sample has no importance weight. Set "
                "sampler_correction_cap to None, or take rollout_engine own or generate."
            )

    def write(
        self,
        pairs: Sequence[PromptPair],
        writers: Sequence[Writer],
        anchors: Sequence[PromptPair],
        seeds: Sequence[int],
        engine: RolloutEngine,
    ) -> list[Rollout]:
        """Completions of ``pairs``, by the writer of each, then of ``anchors``, by the student. ``seeds``: one for each
        of them, in this order."""
        rows = [*pairs, *anchors]
        ways: list[str] = ["together" if self._source.together else writer for writer in writers]
        ways += ["student"] * len(anchors)
        write = {"teacher": self._taught, "together": self._together, "student": self._sampled, "demonstration": _shown}
        done: dict[int, Rollout] = {}
        for way, complete in write.items():
            places = [place for place, own in enumerate(ways) if own == way]
            if places:
                written = complete([rows[at] for at in places], [seeds[at] for at in places], engine)
                done |= zip(places, written, strict=True)
        return [done[place] for place in range(len(rows))]

    def _sampled(self, pairs: Sequence[PromptPair], seeds: Sequence[int], engine: RolloutEngine) -> list[Rollout]:
        engine.sync()
        return engine.generate([pair.student_ids for pair in pairs], self._sampling(seeds, engine))

    def _taught(self, pairs: Sequence[PromptPair], seeds: Sequence[int], engine: RolloutEngine) -> list[Rollout]:
        assert self._teacher is not None
        with self._teacher.active():
            engine = self._own or engine
            engine.sync()
            sampling = replace(self._sampling(seeds, engine), logprobs=False)  # which are not the student's
            return engine.generate([_teacher_ids(pair) for pair in pairs], sampling)

    def _together(self, pairs: Sequence[PromptPair], seeds: Sequence[int], engine: RolloutEngine) -> list[Rollout]:
        assert self._teacher is not None
        assert isinstance(engine, OwnEngine)
        judge: Judge = accept
        if self._config.completion_source == "interleaved":
            judge = partial(interleave, top_k=self._config.interleaved_top_k)
        made = Together(
            engine=engine,
            teacher=self._module,
            context=partial(self._teacher.active, dict(self._teacher.weights())),
            judge=judge,
            ends=self._config.completion_source == "accepted",
        )
        prompts = [Prompts(pair.student_ids, _teacher_ids(pair)) for pair in pairs]
        return made.generate(prompts, self._sampling(seeds, engine))

    def _sampling(self, seeds: Sequence[int], engine: RolloutEngine) -> Sampling:
        config, contexts = self._config, [context_length(model.config) for model in (self._model, self._module)]
        return Sampling(
            max_new_tokens=config.max_completion_length,
            temperature=config.temperature,
            top_p=config.top_p,
            seeds=tuple(seeds),
            logprobs=not engine.samples_elsewhere or config.sampler_correction_cap is not None,
            context=min((context for context in contexts if context is not None), default=None),
        )


def _shown(pairs: Sequence[PromptPair], seeds: Sequence[int], engine: RolloutEngine) -> list[Rollout]:
    return [Rollout(completion_ids=pair.demonstration_ids, finish_reason="stop") for pair in pairs]


def _teacher_ids(pair: PromptPair) -> tuple[int, ...]:
    """Token ids of the prompt that the teacher reads."""
    return pair.teacher_ids or pair.student_ids
