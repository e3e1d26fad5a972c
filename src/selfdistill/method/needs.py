"""Settings that have an effect only under other settings. A value that would be ignored is refused."""

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import Any

from selfdistill.errors import UserError, did_you_mean, quoted
from selfdistill.method.divergence import DIVERGENCES
from selfdistill.method.methods import METHODS, MethodSpec
from selfdistill.method.rollout.engines import ENGINES
from selfdistill.method.sources import SOURCES, source
from selfdistill.method.targets import TARGETS, Reference, references
from selfdistill.method.templates import TEMPLATES, shows_feedback
from selfdistill.method.token_weights import TOKEN_WEIGHTS
from selfdistill.settings.method import TABLES, MethodConfig, deviations_from_paper, method_settings


@dataclass(frozen=True, slots=True)
class Need:
    """The condition under which a setting has an effect."""

    met: Callable[[MethodConfig, MethodSpec], bool]
    words: str
    """The condition in words, as it follows "counts only"."""


def target_reads(config: MethodConfig) -> tuple[Reference, ...]:
    """The models that the target reads beside student and teacher; none if the method compares with no teacher."""
    return references(config.target, config.target_reference) if METHODS[config.method].compares else ()


def _takes(parameter: str, words: str) -> Need:
    """The need of a target's parameter."""
    return Need(
        lambda config, spec: _TARGET.met(config, spec) and parameter in TARGETS[config.target].parameters, words
    )


def _of_source(parameter: str) -> Need:
    """The need of a source's parameter."""
    (name,) = [name for name, spec in SOURCES.items() if parameter in spec.parameters]
    return Need(lambda config, spec: parameter in source(config).parameters, f"with completion_source={name}")


_COMPARED = Need(
    lambda config, spec: spec.compares or config.anchor_share > 0,
    "with a method that compares with a teacher, or anchor_share",
)
_SAMPLED = Need(
    lambda config, spec: spec.samples or config.anchor_share > 0, "with a method that samples, or anchor_share"
)
_TOP_K = Need(
    lambda config, spec: _COMPARED.met(config, spec) and config.divergence_support == "top_k",
    "with divergence_support=top_k",
)
_TAUGHT = Need(lambda config, spec: spec.compares, "with a method that compares with a teacher")
_TARGET = Need(
    lambda config, spec: spec.compares and (spec.shows_demonstration or not target_reads(config)),
    "with a method that compares with a teacher, and, where it reads the start model, shows it the demonstration",
)
_CHOSEN = Need(
    lambda config, spec: spec.has_teacher and spec.teacher == "setting", "with a method whose teacher can be chosen"
)
_TEACHER = Need(
    lambda config, spec: _CHOSEN.met(config, spec) and not config.has_other_teacher,
    f"{_CHOSEN.words}, without teacher_model or teacher_server",
)
_AVERAGE = Need(lambda config, spec: _TEACHER.met(config, spec) and config.teacher == "ema", "with an ema teacher")
_KEPT = Need(
    lambda config, spec: (
        config.anchor_share > 0
        or (spec.has_teacher and spec.teacher != "setting")
        or (_TEACHER.met(config, spec) and config.teacher != "live")
        or "start" in target_reads(config)
    ),
    "with a teacher that has weights of its own, or anchor_share, or a target that reads the start model",
)
_CHAT = Need(lambda config, spec: spec.prompt == "chat" or config.anchor_share > 0, "where a prompt is a chat")
_SHOWN = Need(lambda config, spec: spec.shows_demonstration, "with a method that shows the demonstration to a teacher")
_JUDGED = Need(
    lambda config, spec: (
        spec.shows_demonstration
        and spec.completion == "student"
        and config.completion_source == "student"
        and config.template != "question"
    ),
    "with method sdft, completion_source=student and a template that shows the demonstration",
)

NEEDS: dict[str, Need] = {
    "divergence": _COMPARED,
    "divergence_support": _COMPARED,
    "divergence_clip": _COMPARED,
    "vocab_clip": Need(
        lambda config, spec: (
            _COMPARED.met(config, spec)
            and config.divergence_support != "sampled"
            and DIVERGENCES[config.divergence].terms is not None
        ),
        "where a divergence is a sum over the vocabulary",
    ),
    "target": _TARGET,
    "target_weight": _takes("weight", "with a target that takes a weight (mix)"),
    "target_budget": _takes("budget", "with a target that takes a budget"),
    "target_reference": Need(
        lambda config, spec: _TARGET.met(config, spec) and TARGETS[config.target].reference_can_be_student,
        "with a target that takes a reference (mix)",
    ),
    "token_weight": _TAUGHT,
    "token_weight_half_life": Need(
        lambda config, spec: _TAUGHT.met(config, spec) and "half_life" in TOKEN_WEIGHTS[config.token_weight].reads,
        "with token_weight=position or late",
    ),
    "completion_source": Need(
        lambda config, spec: spec.completion == "student" and spec.compares,
        "with a method whose student writes the completions (sdft, reinvoke)",
    ),
    **{name: _of_source(name) for spec in SOURCES.values() for name in spec.parameters},
    "num_rollouts": Need(lambda config, spec: spec.samples, "with a method that samples"),
    "stop_on_collapse": Need(
        lambda config, spec: spec.completion == "student", "with a method whose student writes the completions"
    ),
    "divergence_beta": Need(
        lambda config, spec: _COMPARED.met(config, spec) and "beta" in DIVERGENCES[config.divergence].parameters,
        "with a divergence that takes beta",
    ),
    "divergence_top_k": _TOP_K,
    "divergence_top_k_of": _TOP_K,
    "divergence_tail": _TOP_K,
    "teacher": _TEACHER,
    "teacher_update_rate": _AVERAGE,
    "teacher_sync_steps": _AVERAGE,
    "teacher_restart_steps": Need(
        lambda config, spec: _TEACHER.met(config, spec) and config.teacher == "frozen", "with a frozen teacher"
    ),
    "teacher_model": _CHOSEN,
    "teacher_server": _CHOSEN,
    "teacher_home": _KEPT,
    "template": _SHOWN,
    "template_file": _SHOWN,
    "template_repeat": Need(
        lambda config, spec: (
            spec.shows_demonstration and config.template in TEMPLATES and TEMPLATES[config.template].takes_repeat
        ),
        "with a template that repeats (prior_turn, few_shot)",
    ),
    "demonstration_from": _JUDGED,
    "feedback_file": _JUDGED,
    "max_teacher_prompt_length": _SHOWN,
    "max_prompt_length": _CHAT,  # a raw text's prompt is its first token
    "chat_template_kwargs": _CHAT,
    "student_chat_template_kwargs": _CHAT,
    "teacher_chat_template_kwargs": _SHOWN,
    "temperature": Need(
        lambda config, spec: _COMPARED.met(config, spec) or _SAMPLED.met(config, spec), _COMPARED.words
    ),
    "top_p": _SAMPLED,
    "rollout_engine": _SAMPLED,
    "vllm_url": Need(
        lambda config, spec: _SAMPLED.met(config, spec) and config.rollout_engine == "vllm-server",
        "with rollout_engine=vllm-server",
    ),
    "vllm_weight_transfer": Need(
        lambda config, spec: _SAMPLED.met(config, spec) and config.rollout_engine == "vllm-server",
        "with rollout_engine=vllm-server",
    ),
    "vllm_memory_share": Need(
        lambda config, spec: _SAMPLED.met(config, spec) and config.rollout_engine == "vllm", "with rollout_engine=vllm"
    ),
    "mask_truncated_completions": _SAMPLED,
    "num_loss_tokens_to_skip": _SAMPLED,
    "sampler_correction_cap": _SAMPLED,
    "anchor_data": Need(lambda config, spec: config.anchor_share > 0, "with anchor_share above 0"),
}
"""Settings that have an effect only under a condition. All others always have one."""


def counts(config: MethodConfig, name: str) -> bool:
    """Whether the setting ``name`` has an effect, given the other settings."""
    return name not in NEEDS or NEEDS[name].met(config, METHODS[config.method])


def deviations(config: MethodConfig) -> dict[str, tuple[Any, Any]]:
    """Returns (this run's value, the paper's value) by name, for the settings that have an effect and differ."""
    differing = deviations_from_paper(method_settings(config))
    return {name: values for name, values in differing.items() if counts(config, name)}


def ignored_settings(config: MethodConfig) -> list[str]:
    """Names of settings whose value differs from the default but would have no effect."""
    return [
        setting.name
        for setting in fields(MethodConfig)
        if setting.name in NEEDS
        and getattr(config, setting.name) != (setting.default if setting.default is not MISSING else {})
        and not counts(config, setting.name)
    ]


def check_choices(config: MethodConfig) -> None:
    """Raises UserError if a name is not in its table, or if ``divergence_support=sampled`` or the source of the
    completions does not fit the rest."""
    tables = (METHODS, DIVERGENCES, TARGETS, TOKEN_WEIGHTS, SOURCES, TEMPLATES, ENGINES)
    for name, table in zip(TABLES, tables, strict=True):
        value, choices = getattr(config, name), [*table, *(["auto"] if name in ("template", "rollout_engine") else [])]
        if value not in choices:
            hint = did_you_mean(str(value), choices)
            raise UserError(f"{name}: {quoted(value)} is not one of {', '.join(choices)}.{hint}")
    if config.divergence_support == "sampled":
        _check_sampled(config)
    _check_source(config)


def check_needs(config: MethodConfig) -> None:
    """Raises UserError if a setting would be ignored, naming the first."""
    for name in ignored_settings(config):
        raise UserError(
            f"{name}={quoted(getattr(config, name))} would be ignored: it counts only {NEEDS[name].words}. Leave it "
            "out, or change the other setting."
        )


def _check_sampled(config: MethodConfig) -> None:
    """Raises UserError unless the sampled token gives an unbiased estimate: of the reverse KL, drawn from the student's
    full distribution."""
    if config.divergence != "reverse_kl":
        raise UserError(
            "divergence_support: 'sampled' estimates the reverse KL only. "
            "Set divergence to reverse_kl, or divergence_support to full or top_k."
        )
    taught, own = METHODS[config.method].completion == "teacher", source(config).draws_from_student
    if config.top_p < 1 or taught or not own:
        what = f"top_p {config.top_p:g}" if config.top_p < 1 else f"method {config.method}"
        what = what if own else f"completion_source {config.completion_source}"
        raise UserError(
            f"divergence_support: 'sampled' is biased with {what}, whose tokens are not the student's own draws. Use "
            "full or top_k."
        )


def _check_source(config: MethodConfig) -> None:
    """Raises UserError for a source that the engine or the method has no use for, for a teacher that knows no more than
    the student, for a single completion of a prompt, which has no other's success, and for words that are not shown."""
    chosen, engine = source(config), config.rollout_engine
    if config.demonstration_from == "own_success" and config.num_rollouts < 2 and counts(config, "demonstration_from"):
        raise UserError(
            "demonstration_from=own_success shows a completion another one's success, and num_rollouts is "
            f"{config.num_rollouts}. Set num_rollouts to 2 or more."
        )
    if config.template == "question" and METHODS[config.method].shows_demonstration and not config.has_other_teacher:
        raise UserError(
            "template: question shows no demonstration, so the model as its own teacher has nothing to teach. Give "
            "--teacher_model or --teacher_server, or take another template."
        )
    shown = config.template_file
    if config.feedback_file is not None and shown is not None and not shows_feedback(shown):
        raise UserError(
            f"template_file: {shown} does not show the words of feedback_file. Put {{{{ feedback }}}} into it, or "
            "leave feedback_file out."
        )
    if chosen.together and engine not in ("auto", "own"):
        raise UserError(
            f"completion_source={config.completion_source} takes our own decoding loop, in which the teacher looks at "
            f"every token, not rollout_engine {engine}. Take rollout_engine own."
        )
    always = config.mixture_of == "demonstration" and config.mixture_share == 1 and config.mixture_steps is None
    if chosen.mixes and config.mixture_target == "tokens" and always:
        raise UserError(
            "mixture_target=tokens with mixture_share=1 and no mixture_steps learns demonstrations alone. Take method "
            "sft, a smaller share, or mixture_steps."
        )
    if chosen.mixes and config.mixture_of == "demonstration" and not METHODS[config.method].needs_demonstration:
        raise UserError(
            f"mixture_of: method {config.method} has no demonstrations. Take mixture_of teacher, or another method."
        )
