"""The method, readable top to bottom.

A step: take prompts, sample their completions (``_complete``), keep the tokens that are learned from
(``_samples``), and for every micro-batch let the teacher and the student score the same token ids and
step on the divergence (``_part_loss``). Then the optimizer moves the student and the teacher follows.
SFT, DFT and CPT differ only in where the completion comes from and in which loss its tokens carry.
"""

import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, Trainer, TrainerCallback

from selfdistill.method.batch import MicroBatch, Part, Sample, loss_positions, micro_batches, weigh
from selfdistill.method.config import SDFTConfig
from selfdistill.method.divergence import chunked_divergence, chunked_logprobs, chunked_sampled_divergence
from selfdistill.method.master_weights import MasterWeights
from selfdistill.method.prompts import as_examples, render_pairs, think_end_ids
from selfdistill.method.rollout.batched import make_engine
from selfdistill.method.rollout.engine import RolloutEngine, Sampling
from selfdistill.method.run_log import RunRecorder
from selfdistill.method.scoring import hidden_states, importance_weights
from selfdistill.method.teacher import Teacher, disable_dropout
from selfdistill.method.timer import PhaseTimer
from selfdistill.models.cpu import prepare_cpu
from selfdistill.models.loading import eos_token_ids, load_model, load_tokenizer, pad_token_id, require_chat_template
from selfdistill.models.output_head import check_head, head_transform, output_head
from selfdistill.settings.method import LEARNS_TOKENS
from selfdistill.types import Example, PromptPair, Rollout, UserError

MASTERS_FILE, TEACHER_FILE = "master_weights.safetensors", "teacher.safetensors"


class SDFTTrainer(Trainer):
    """transformers' Trainer with self-distillation inside.

    Args:
        model: a causal language model in the dtype to compute in, or a name to load (see ``models``).
            Whatever the dtype, trainable weights are updated in fp32.
        args: the settings.
        train_dataset: rows with a prompt and a demonstration: Examples, or a ``datasets.Dataset`` or list
            of dicts in any schema of ``rows`` ({prompt, demonstration}, TRL's {prompt, privileged_context}, ...).
        processing_class: the model's tokenizer; loaded with the model where that is a name.
        peft_config: LoRA (or another adapter) to put on the model.
        anchor_dataset: general prompts, in the same forms, needed where ``args.anchor_share`` is above 0.
        base_weights: what the teacher starts from and anchor prompts are held to, by parameter name; by
            default the model's own weights. ``method="reinvoke"`` needs them.
        engine: what samples completions; by default the fastest that knows the model.
        facts: what else run_config.json is to hold, such as names of model and data.
        callbacks: as in Trainer.

    Raises:
        UserError: a row, a length or a setting is unusable.
    """

    args: SDFTConfig
    model: PreTrainedModel

    def __init__(
        self,
        model: PreTrainedModel | str,
        args: SDFTConfig,
        train_dataset: Iterable[Example | Mapping[str, Any]],
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        peft_config: PeftConfig | None = None,
        anchor_dataset: Iterable[Example | Mapping[str, Any]] = (),
        base_weights: dict[str, Tensor] | None = None,
        engine: RolloutEngine | None = None,
        facts: dict[str, Any] | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        if args.world_size > 1:
            raise UserError(
                f"{args.world_size} processes: training runs in one process only. Start it without a launcher."
            )
        student, tokenizer = _loaded(model, processing_class, peft_config)
        check_head(student)
        disable_dropout(student)
        examples = as_examples(train_dataset, "train", demonstrations=args.method != "reinvoke")
        train_pairs = render_pairs(examples, args, tokenizer, student.config)
        super().__init__(
            model=student,
            args=args,
            train_dataset=train_pairs,  # type: ignore[arg-type]  # a list is a map-style dataset
            processing_class=tokenizer,
            data_collator=list,  # type: ignore[arg-type]
            callbacks=[*(callbacks or ()), _AfterStep(self)],
        )
        anchors = as_examples(anchor_dataset, "anchor", demonstrations=False) if args.anchor_share else []
        self.anchor_pairs = render_pairs(anchors, args, tokenizer, student.config)
        self.remove_callback(PrinterCallback)  # prints every log line; the records and the progress bar do better
        self.masters = MasterWeights(student)
        self.teachers = self._make_teachers(base_weights)
        self.eos_ids = eos_token_ids(student, tokenizer)
        self.pad_id = pad_token_id(tokenizer)
        self.engine = engine or make_engine(student, self.eos_ids, self.pad_id)
        self.transform = head_transform(student.config)
        self.think_end = think_end_ids(tokenizer)
        self.timer = PhaseTimer(args.device)
        folder, kept = Path(str(args.output_dir)), args.rollouts_logged_per_step
        self.recorder = RunRecorder(folder, tokenizer, kept, self.is_world_process_zero())
        self.num_rows = len(train_pairs)
        self._facts = facts or {}
        self.tokens_seen = 0

    # -- a step, from prompts to loss ------------------------------------------------------------

    def get_batch_samples(
        self, epoch_iterator: Iterator[list[PromptPair]], num_batches: int, device: torch.device
    ) -> tuple[list[MicroBatch], None]:
        """All prompts of one optimizer step become micro-batches of scored completions."""
        prompts = [pairs for _, pairs in zip(range(num_batches), epoch_iterator, strict=False)]
        if not prompts:
            return [], None
        pairs = [pair for batch in prompts for pair in batch]
        anchors = self._anchors(len(pairs))
        with self.timer.phase("rollout"):
            samples = self._samples(pairs, self._complete(pairs), self._target)
            samples += self._samples(anchors, self._sample(anchors, on_teacher_prompt=False), "start")
        samples = weigh(samples, self.args.loss_reduction)
        self.recorder.add_samples(samples)
        return micro_batches(samples, len(prompts), self.pad_id, device), None

    def _complete(self, pairs: list[PromptPair]) -> list[Rollout]:
        """Where a completion comes from: the student, the teacher, or the demonstration."""
        if self.args.method in ("sdft", "reinvoke"):
            return self._sample(pairs, on_teacher_prompt=False)
        if self.args.method == "offline":
            with self.teachers["teacher"].active():
                return self._sample(pairs, on_teacher_prompt=True)
        return [Rollout(completion_ids=pair.demonstration_ids, finish_reason="stop") for pair in pairs]

    def _sample(self, pairs: list[PromptPair], *, on_teacher_prompt: bool) -> list[Rollout]:
        sampling = Sampling(
            max_new_tokens=self.args.max_completion_length,
            temperature=self.args.temperature,
            top_p=self.args.top_p,
            seed=self._rollout_seed(),
        )
        prompts = [pair.teacher_ids if on_teacher_prompt else pair.student_ids for pair in pairs]
        return self.engine.generate(prompts, sampling) if prompts else []

    def _rollout_seed(self) -> int:
        """Differs by run seed, step and process: a resumed run samples what the unbroken one would have."""
        text = f"{self.args.seed}/{self.state.global_step}/{self.args.process_index}"
        return random.Random(text).getrandbits(63)

    @property
    def _target(self) -> str:
        return "tokens" if self.args.method in LEARNS_TOKENS else "teacher"

    def _samples(self, pairs: list[PromptPair], rollouts: list[Rollout], target: str) -> list[Sample]:
        """Keeps the tokens that are learned from. Tokens of a demonstration all are."""
        skip = 0 if target == "tokens" else self.args.num_loss_tokens_to_skip
        mask_truncated = self.args.mask_truncated_completions
        return [
            Sample(
                pair=pair,
                rollout=rollout,
                target=target,
                loss_positions=loss_positions(
                    rollout, skip=skip, mask_truncated=mask_truncated, think_end=self.think_end
                ),
            )
            for pair, rollout in zip(pairs, rollouts, strict=True)
        ]

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of one micro-batch; one with nothing to learn leaves no gradient."""
        model.train()
        total = torch.zeros((), device=self.args.device)
        for part in inputs.parts:
            loss = self._part_loss(part)
            with self.timer.phase("backward"):
                self.accelerator.backward(loss)
            total += loss.detach()
        self.tokens_seen += inputs.num_tokens
        return total

    def _part_loss(self, part: Part) -> Tensor:
        """The weighted sum over the part's loss tokens, a scalar in nats."""
        weighted = self._token_loss(part) if part.target == "tokens" else self._divergence(part)
        self.recorder.add_per_token(part, weighted.detach() / part.weights)
        return weighted.sum()

    def _token_loss(self, part: Part) -> Tensor:
        """Weighted cross-entropy of given tokens, [N]; DFT weighs each by the model's own probability of it, too."""
        with self.timer.phase("student"):
            hidden, head = hidden_states(self.model, part.student), output_head(self.model)
        with self.timer.phase("divergence"):
            dft = self.args.method == "dft"
            logprobs = chunked_logprobs(
                hidden,
                head,
                part.token_ids,
                logit_scale=self.transform.scale,
                softcap=self.transform.softcap,
                weights=None if dft else -part.weights,
            )
        return -part.weights * logprobs.detach().exp() * logprobs if dft else logprobs

    def _divergence(self, part: Part) -> Tensor:
        """Weighted divergence between teacher and student at every loss token, [N]."""
        assert part.teacher is not None
        with self.timer.phase("teacher"), torch.no_grad(), self.teachers[part.target].active():
            teacher_hidden = hidden_states(self.model, part.teacher)
            teacher_head = output_head(self.model).detach()
        with self.timer.phase("student"):
            hidden, head = hidden_states(self.model, part.student), output_head(self.model)
        with self.timer.phase("divergence"):
            options = {
                "weights": part.weights * self._importance_weights(part, hidden, head),
                "temperature": self.args.temperature,
                "clip": self.args.divergence_clip,
                "logit_scale": self.transform.scale,
                "softcap": self.transform.softcap,
            }
            if self.args.divergence_support == "sampled":
                return chunked_sampled_divergence(hidden, head, teacher_hidden, teacher_head, part.token_ids, **options)
            return chunked_divergence(
                hidden,
                head,
                teacher_hidden,
                teacher_head,
                kind=self.args.divergence,
                beta=self.args.divergence_beta,
                top_k=self.args.divergence_top_k if self.args.divergence_support == "top_k" else None,
                top_k_of=self.args.divergence_top_k_of,
                tail=self.args.divergence_tail,
                **options,
            )

    def _importance_weights(self, part: Part, hidden: Tensor, head: Tensor) -> Tensor | float:
        """[N], or 1 where the engine gave no logprobs or no correction is wanted."""
        if part.sampler_logprobs is None or self.args.sampler_correction_cap is None:
            return 1.0
        logprobs = chunked_logprobs(
            hidden.detach(),
            head.detach(),
            part.token_ids,
            temperature=self.args.temperature,
            logit_scale=self.transform.scale,
            softcap=self.transform.softcap,
        )
        counts = [len(sample.loss_positions) for sample in part.samples]
        weights = importance_weights(logprobs, part.sampler_logprobs, counts, self.args.sampler_correction_cap)
        self.recorder.add("importance_weight", weights.mean().item())
        return weights

    # -- teachers and anchors --------------------------------------------------------------------

    def _make_teachers(self, base_weights: dict[str, Tensor] | None) -> dict[str, Teacher]:
        """The teacher, and the frozen model that anchor prompts are held to."""
        teachers: dict[str, Teacher] = {}
        if self._target == "teacher":
            kind = "frozen" if self.args.method == "reinvoke" else self.args.teacher
            rate, every = self.args.teacher_update_rate, self.args.teacher_sync_steps
            teachers["teacher"] = Teacher(self.masters, kind, rate, every)
        if self.args.anchor_share > 0:
            frozen = [teacher for teacher in teachers.values() if teacher.kind == "frozen"]
            teachers["start"] = frozen[0] if frozen else Teacher(self.masters, "frozen")
        if base_weights is not None:
            for teacher in teachers.values():
                teacher.load_state_dict({name: base_weights[name] for name in self.masters.parameters})
        elif self.args.method == "reinvoke":
            raise ValueError("method reinvoke needs base_weights: the model to distil from")
        return teachers

    def _anchors(self, num_prompts: int) -> list[PromptPair]:
        """General prompts of this step: so many that they are ``anchor_share`` of the batch.

        Drawn from shuffled passes over the anchor data, as a function of seed and step alone.
        """
        share = self.args.anchor_share
        if share == 0:
            return []
        if not self.anchor_pairs:
            raise ValueError("anchor_share is above 0 but no anchor_dataset was given")
        count = round(num_prompts * share / (1 - share))
        size = len(self.anchor_pairs)
        drawn: list[PromptPair] = []
        for place in range(self.state.global_step * count, (self.state.global_step + 1) * count):
            order = random.Random(f"{self.args.seed}/{place // size}").sample(range(size), size)
            drawn.append(self.anchor_pairs[order[place % size]])
        return drawn

    # -- optimizer on fp32 masters ---------------------------------------------------------------

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer that ``args.optim`` names, on the fp32 masters."""
        if self.optimizer is None:
            decay = set(self.get_decay_parameter_names(self.model))
            groups = [
                {
                    "params": [master for name, _, master in self.masters.items() if (name in decay) == decayed],
                    "weight_decay": self.args.weight_decay if decayed else 0.0,
                }
                for decayed in (True, False)
            ]
            optimizer_class, kwargs = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = optimizer_class([group for group in groups if group["params"]], **kwargs)
            self.optimizer.register_step_post_hook(lambda *_: self.masters.write_back())
        return self.optimizer

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        masters = [master for _, _, master in self.masters.items()]
        return nn.utils.clip_grad_norm_(masters, self.args.max_grad_norm)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        if grad_norm is None:
            gradients = [m.grad for _, _, m in self.masters.items() if m.grad is not None]
            grad_norm = nn.utils.get_total_norm(gradients)
        return grad_norm

    # -- checkpoints -----------------------------------------------------------------------------

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            states = {MASTERS_FILE: self.masters.state_dict(), TEACHER_FILE: self._teachers_state()}
            for name, state in states.items():
                save_file({key: tensor.contiguous() for key, tensor in state.items()}, f"{output_dir}/{name}")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.masters.load_state_dict(load_file(f"{checkpoint}/{MASTERS_FILE}"))
            state = load_file(f"{checkpoint}/{TEACHER_FILE}")
            for role, teacher in self.teachers.items():
                own = {key.removeprefix(f"{role}/"): t for key, t in state.items() if key.startswith(f"{role}/")}
                teacher.load_state_dict(own)

    def _teachers_state(self) -> dict[str, Tensor]:
        return {
            f"{role}/{name}": tensor
            for role, teacher in self.teachers.items()
            for name, tensor in teacher.state_dict().items()
        }

    # -- what a run leaves behind ----------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds to a step's line: means since the last one, seconds by phase, tokens and FLOPs so far."""
        if "loss" in logs:
            logs |= self.recorder.means()
            logs |= {f"seconds/{name}": seconds for name, seconds in self.timer.drain().items()}
            logs |= {"tokens_seen": self.tokens_seen, "flos": self.state.total_flos}
        super().log(logs, start_time)
        self.recorder.write_metrics(self.state.global_step, logs)

    def begin_run(self) -> None:
        """Called as training begins."""
        facts = {"model_name": self.model.name_or_path, "num_training_rows": self.num_rows} | self._facts
        self.recorder.begin(self.state.global_step, self.args.to_dict(), facts)

    def end_step(self) -> None:
        """Called after the optimizer's step: the teacher follows, the step's rollouts are written."""
        with self.timer.phase("teacher_update"):
            for teacher in self.teachers.values():
                teacher.update(self.state.global_step)
        self.recorder.write_rollouts(self.state.global_step)

    def floating_point_ops(self, inputs: Any) -> int:
        """2 per weight and token forward, 4 backward; sampling and the teacher are forward passes."""
        weights = self.model.num_parameters(exclude_embeddings=True) + output_head(self.model).numel()
        passes = 6 if self._target == "tokens" else 10
        return passes * weights * inputs.num_tokens


class _AfterStep(TrainerCallback):
    def __init__(self, trainer: SDFTTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._trainer.begin_run()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._trainer.end_step()


def _loaded(
    model: PreTrainedModel | str, tokenizer: PreTrainedTokenizerBase | None, peft_config: PeftConfig | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    prepare_cpu()
    if isinstance(model, str):
        tokenizer = tokenizer or load_tokenizer(model)
    if tokenizer is None:
        raise UserError("processing_class: give the tokenizer along with a model that is already loaded.")
    student: Any = load_model(model) if isinstance(model, str) else model
    require_chat_template(tokenizer, student.name_or_path)
    if peft_config is not None:
        student = get_peft_model(student, peft_config)
    return cast(PreTrainedModel, student), tokenizer
