"""Settings that count only under others: where they would be ignored they are refused, by name."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from selfdistill.method import config as config_module
from selfdistill.method.config import SDFTConfig
from selfdistill.method.methods import METHODS
from selfdistill.method.needs import NEEDS, check_choices, check_needs, counts, deviations, ignored_settings
from selfdistill.settings.method import PAPER, MethodConfig
from tests.support.mistakes import mistake


class Use(NamedTuple):
    """A value other than a setting's default, and settings beside which it is ignored, and counts."""

    value: Any
    idle: dict[str, Any]
    counting: dict[str, Any]


SFT: dict[str, Any] = {"method": "sft"}
ANCHORED: dict[str, Any] = {"method": "cpt", "anchor_share": 0.25}
USES = {
    "divergence": Use("jsd", SFT, {}),
    "divergence_support": Use("top_k", {"method": "dft"}, ANCHORED),
    "vocab_clip": Use(0.5, {"divergence": "reverse_kl", "divergence_support": "sampled"}, ANCHORED),
    "target": Use("contrast", SFT | {"anchor_share": 0.25}, {"method": "offline"}),
    "target_weight": Use(0.25, {"target": "budget"}, {"target": "mix"}),
    "target_budget": Use(0.5, {"target": "mix"}, {"target": "budget"}),
    "target_reference": Use("student", {"target": "contrast"}, {"target": "mix"}),
    "token_weight": Use("support", ANCHORED, {"method": "reinvoke"}),
    "token_weight_half_life": Use(8.0, {"token_weight": "entropy"}, {"token_weight": "late"}),
    "completion_source": Use("accepted", {"method": "offline"}, {"method": "reinvoke"}),
    "mixture_share": Use(0.25, {"completion_source": "accepted"}, {"completion_source": "mixture"}),
    "mixture_of": Use("teacher", {}, {"completion_source": "mixture"}),
    "mixture_target": Use("tokens", {}, {"completion_source": "mixture"}),
    "mixture_steps": Use(9, {}, {"completion_source": "mixture"}),
    "interleaved_top_k": Use(9, {"completion_source": "mixture"}, {"completion_source": "interleaved"}),
    "stop_on_collapse": Use(True, {"method": "offline"}, {"method": "reinvoke"}),
    "num_rollouts": Use(2, ANCHORED, {"method": "offline"}),
    "divergence_clip": Use(1.0, {"method": "cpt"}, {"method": "reinvoke"}),
    "divergence_beta": Use(0.25, {"divergence": "reverse_kl"}, {"divergence": "jsd"}),
    "divergence_top_k": Use(5, {"divergence_support": "full"}, {"divergence_support": "top_k"}),
    "divergence_top_k_of": Use("student", {}, {"divergence_support": "top_k"}),
    "divergence_tail": Use(True, {}, {"divergence_support": "top_k"}),
    "teacher": Use("frozen", {"method": "reinvoke"}, {"method": "offline"}),
    "teacher_update_rate": Use(0.5, {"teacher": "frozen"}, {"teacher": "ema"}),
    "teacher_home": Use("host", {"teacher": "live"}, {"teacher": "frozen"}),
    "teacher_sync_steps": Use(2, {"teacher": "live"}, {"teacher": "ema"}),
    "teacher_restart_steps": Use(9, {"method": "reinvoke"}, {"teacher": "frozen"}),
    "teacher_model": Use("other", {"method": "reinvoke"}, {"method": "offline"}),
    "teacher_server": Use("http://there", {"method": "reinvoke"}, {"divergence_support": "top_k"}),
    "template": Use("prior_turn", {"method": "reinvoke"}, {"method": "offline"}),
    "template_file": Use("mine.jinja", SFT | {"template": "file"}, {"template": "file"}),
    "template_repeat": Use(2, {"template": "paper"}, {"template": "prior_turn"}),
    "max_prompt_length": Use(50, {"method": "cpt"}, SFT),
    "demonstration_from": Use("own_success", {"completion_source": "accepted"}, {"num_rollouts": 2}),
    "feedback_file": Use("own.py:words", {"method": "offline"}, {"num_rollouts": 2}),
    "max_teacher_prompt_length": Use(50, {"method": "reinvoke"}, {"method": "offline"}),
    "chat_template_kwargs": Use({"enable_thinking": False}, {"method": "cpt"}, ANCHORED),
    "student_chat_template_kwargs": Use({"enable_thinking": False}, {"method": "cpt"}, SFT),
    "teacher_chat_template_kwargs": Use({"enable_thinking": True}, {"method": "reinvoke"}, {"method": "offline"}),
    "temperature": Use(0.5, SFT, SFT | {"anchor_share": 0.25}),
    "top_p": Use(0.5, {"method": "dft"}, {"method": "offline"}),
    "rollout_engine": Use("generate", SFT, ANCHORED),
    "vllm_url": Use("http://there:8000", {"rollout_engine": "vllm"}, {"rollout_engine": "vllm-server"}),
    "vllm_weight_transfer": Use("folder", {"rollout_engine": "vllm"}, {"rollout_engine": "vllm-server"}),
    "vllm_memory_share": Use(0.5, {"rollout_engine": "vllm-server"}, {"rollout_engine": "vllm"}),
    "mask_truncated_completions": Use(True, {"method": "cpt"}, {"method": "reinvoke"}),
    "num_loss_tokens_to_skip": Use(3, SFT, {}),
    "sampler_correction_cap": Use(1.5, SFT, {}),
    "anchor_data": Use("general.jsonl", {"anchor_share": 0.0}, {"anchor_share": 0.25}),
}


@pytest.mark.parametrize("name", NEEDS)
def test_a_setting_is_refused_where_it_would_be_ignored_and_taken_where_it_counts(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(config_module, "check_engine", lambda *_, **__: None)  # vLLM need not be here
    value, idle, counting = USES[name]
    assert not counts(MethodConfig(**idle, **{name: value}), name)
    message = mistake(SDFTConfig, output_dir=str(tmp_path), **idle, **{name: value})
    assert message.startswith("template=" if name == "template_file" else f"{name}=")  # the two go together
    assert f"it counts only {NEEDS[name].words}." in message
    taken = SDFTConfig(output_dir=str(tmp_path), **counting, **{name: value})
    assert getattr(taken, name) == value
    assert counts(taken, name)


@pytest.mark.parametrize("name", sorted(NEEDS.keys() - {"template_file"}))
def test_its_default_is_never_refused(name: str):
    config = MethodConfig(**USES[name].idle)
    assert not counts(config, name)
    check_needs(config)


def test_every_entry_is_tried():
    assert USES.keys() == NEEDS.keys()


def test_all_that_would_be_ignored_is_listed():
    config = MethodConfig(method="sft", top_p=0.5, divergence="jsd", teacher="live", temperature=1.0)
    assert sorted(ignored_settings(config)) == ["divergence", "teacher", "top_p"]


def test_the_message_says_what_would_have_to_be_so():
    message = mistake(check_needs, MethodConfig(method="sft", top_p=0.5))
    assert message.startswith("top_p=0.5 would be ignored: it counts only with a method that samples, or anchor_share.")


@pytest.mark.parametrize("target", ["mix", "contrast"])
def test_the_start_model_is_no_reference_where_it_is_the_teacher(target: Any):
    """Reinvoke's teacher is the base model on the student's prompt: a mix of the two is the teacher."""
    assert ignored_settings(MethodConfig(method="reinvoke", target=target)) == ["target"]
    assert ignored_settings(MethodConfig(method="reinvoke", target="mix", target_reference="student")) == []
    assert ignored_settings(MethodConfig(method="reinvoke", target="budget")) == []


@pytest.mark.parametrize("other", [{"teacher_model": "other"}, {"teacher_server": "http://there"}], ids=str)
def test_a_teacher_that_is_another_model_has_no_kind(other: dict[str, Any]):
    chosen = MethodConfig(teacher="frozen", teacher_restart_steps=3, teacher_home="host", **other)
    assert sorted(ignored_settings(chosen)) == ["teacher", "teacher_home", "teacher_restart_steps"]
    assert ignored_settings(MethodConfig(teacher_home="host", anchor_share=0.5, **other)) == []


def test_a_live_teachers_start_model_has_a_home():
    assert ignored_settings(MethodConfig(teacher="live", target="mix", teacher_home="host")) == []
    assert ignored_settings(MethodConfig(teacher="live", target="budget", teacher_home="host")) == ["teacher_home"]


def test_whatever_is_in_no_need_always_counts():
    for method in METHODS:
        config = MethodConfig(method=method, learning_rate=1e-3, seed=1, loss_reduction="token_mean", overlong="drop")
        assert ignored_settings(config) == []
        assert counts(config, "learning_rate")


# -- what a run says of the paper ------------------------------------------------------------------


def test_deviations_are_of_settings_that_count():
    assert deviations(MethodConfig()) == {
        "teacher_update_rate": (0.02, 0.01),
        "max_prompt_length": (None, 1024),
        "num_loss_tokens_to_skip": (0, 3),
    }
    assert deviations(MethodConfig(teacher="frozen")).keys() == {
        "teacher",
        "max_prompt_length",
        "num_loss_tokens_to_skip",
    }
    assert deviations(MethodConfig(method="sft")) == {"max_prompt_length": (None, 1024)}
    assert deviations(MethodConfig(method="cpt")) == {}
    assert deviations(MethodConfig(**PAPER)) == {}


@pytest.mark.parametrize("method", METHODS)
def test_no_deviation_is_of_an_idle_setting(method: Any):
    for share in (0.0, 0.25):
        config = MethodConfig(method=method, anchor_share=share)
        assert all(counts(config, name) for name in deviations(config))


# -- names and settings that exclude each other ----------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"method": "offlin"},
            "'offlin' is not one of sdft, offline, reinvoke, sft, dft, cpt. Did you mean 'offline'?",
        ),
        ({"divergence": "kl"}, "divergence: 'kl' is not one of forward_kl, reverse_kl, jsd."),
        ({"target": "mixx"}, "target: 'mixx' is not one of teacher, mix, budget, contrast. Did you mean 'mix'?"),
        ({"token_weight": "two"}, "token_weight: 'two' is not one of one, support, position, late, entropy."),
        ({"template": "papr"}, "few_shot, file, question, auto. Did you mean 'paper'?"),
        (
            {"rollout_engine": "sglang"},
            "rollout_engine: 'sglang' is not one of own, generate, paged, vllm, vllm-server, ",
        ),
    ],
)
def test_a_name_that_no_table_has(settings: dict[str, Any], words: str):
    assert words in mistake(check_choices, MethodConfig(**settings))


SAMPLED: dict[str, Any] = {"divergence": "reverse_kl", "divergence_support": "sampled"}


@pytest.mark.parametrize("kind", ["forward_kl", "jsd"])
def test_the_sampled_token_estimates_the_reverse_kl_only(kind: Any):
    message = mistake(check_choices, MethodConfig(divergence=kind, divergence_support="sampled"))
    assert message.startswith("divergence_support: 'sampled' estimates the reverse KL only.")
    check_choices(MethodConfig(**SAMPLED))


@pytest.mark.parametrize(
    ("settings", "what"), [({"top_p": 0.5}, "top_p 0.5"), ({"method": "offline"}, "method offline")], ids=str
)
def test_the_sampled_token_must_be_the_students_own_draw(settings: dict[str, Any], what: str):
    """Else its mean is another number: of a reverse KL of 2.18 the estimates' mean was 2.87 and -2.22."""
    assert f"'sampled' is biased with {what}," in mistake(check_choices, MethodConfig(**SAMPLED, **settings))
    check_choices(MethodConfig(**settings))
    check_choices(MethodConfig(**SAMPLED, temperature=0.5, method="reinvoke"))
