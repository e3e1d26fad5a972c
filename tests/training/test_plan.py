"""What fits which GPU, from a config alone."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import AutoConfig

from selfdistill.cli import main, parse
from selfdistill.commands import plan as command
from selfdistill.method import memory
from selfdistill.method.memory import MemoryCheck
from selfdistill.settings.plan import PlanOptions
from selfdistill.settings.train import method_config
from selfdistill.training import cards
from selfdistill.training.cards import CARDS, card_named
from selfdistill.training.plan import candidates
from selfdistill.types import Example, PromptPair
from tests.support.mistakes import mistake

QWEN_7B: dict[str, Any] = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
}
QWEN_1_5B: dict[str, Any] = QWEN_7B | {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
GIB = 2**30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen")
    AutoConfig.for_model("qwen2", **QWEN_7B).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def plans(folder: Path) -> dict[str, list[dict[str, Any]]]:
    config = AutoConfig.from_pretrained(folder)
    return {
        gpu: [candidate.as_dict() for candidate in candidates(PlanOptions(gpu=gpu), config, CARDS[gpu])]  # type: ignore[arg-type]
        for gpu in ("h200", "h100", "4090")
    }


def test_the_papers_run_fits_one_h200(plans: dict[str, list[dict[str, Any]]]) -> None:
    """Full weights, moving average, 32 prompts of 1,024 and 1,024 tokens."""
    fitting = [setting for setting in plans["h200"] if setting["fits"]]
    assert fitting[0]["name"].startswith("all weights, ema teacher")
    assert any(s["peak_bytes"] <= 125 * GIB for s in fitting if s["name"].startswith("all weights, ema teacher"))


def test_all_weights_fit_80_gb(plans: dict[str, list[dict[str, Any]]]) -> None:
    fitting = [setting for setting in plans["h100"] if setting["fits"]]
    assert fitting[0]["name"].startswith("all weights, ema teacher")
    assert any(s["peak_bytes"] <= 76 * GIB for s in fitting if s["name"].startswith("all weights, ema teacher"))


def test_an_adapter_fits_24_gb(plans: dict[str, list[dict[str, Any]]]) -> None:
    assert plans["4090"][0]["fits"]
    in_4_bits = [setting for setting in plans["4090"] if setting["name"].startswith("QLoRA, ema teacher")]
    assert in_4_bits[0]["fits"]
    assert in_4_bits[0]["peak_bytes"] <= 22 * GIB
    assert "--lora_r 16 --quantize 4bit" in in_4_bits[0]["command"]


def test_what_fits_comes_first_and_the_mildest_of_it_first(plans: dict[str, list[dict[str, Any]]]) -> None:
    for gpu, settings in plans.items():
        fits = [setting["fits"] for setting in settings]
        assert fits == sorted(fits, reverse=True)
        assert all(s["fits"] == (s["peak_bytes"] <= 0.93 * CARDS[gpu].memory * GIB) for s in settings)
        names = [setting["name"] for setting in settings]
        assert len(set(names)) == len(names)


def test_a_host_teacher_and_8_bit_moments_save_what_they_should(plans: dict[str, list[dict[str, Any]]]) -> None:
    of = {setting["name"]: setting["parts"] for setting in plans["h200"]}
    plain = of["all weights, ema teacher, micro-batch 2, activations recomputed"]
    host = of["all weights, ema teacher, on the host, micro-batch 2, activations recomputed"]
    short = of["all weights, ema teacher, adamw_8bit, micro-batch 2, activations recomputed"]
    weights = 7_615_616_512  # Qwen2.5-7B's own count
    assert plain["weights"] == 2 * weights
    assert plain["teacher"] == 4 * weights
    assert host["teacher"] == 0
    assert plain["masters_and_optimizer"] == 10 * weights
    assert short["masters_and_optimizer"] < 4.6 * weights


def test_what_the_host_keeps_of_a_7b_model(plans: dict[str, list[dict[str, Any]]]) -> None:
    """Four bytes per number, each tensor's rounded up to a power of two: queries and output; keys and values; three of
    the gated block; biases of queries; biases of keys and values; two norms. Then moments of 8 bits, in blocks of 256
    with an fp32 scale, and of 32 bits for embeddings."""
    layer = 2 * 2**26 + 2 * 2**23 + 3 * 2**29 + 2**14 + 2 * 2**11 + 2 * 2**14
    average = 28 * layer + 2 * 2**32 + 2**14  # embeddings, head, last norm
    of = {setting["name"]: setting["parts"] for setting in plans["h200"]}
    kept = of["all weights, ema teacher, on the host, micro-batch 2, activations recomputed"]
    assert kept["host"] == memory.PROGRAM_BYTES + average
    paged = of["all weights, ema teacher, on the host, paged_adamw_8bit, micro-batch 2, activations recomputed"]
    embeddings, weights = 152_064 * 3584, 7_615_616_512
    assert paged["host"] - kept["host"] == round(2 * (4 * embeddings + (weights - embeddings) * (1 + 4 / 256)))


def test_a_command_is_one_that_train_parses(plans: dict[str, list[dict[str, Any]]]) -> None:
    commands = [setting["command"].split() for settings in plans.values() for setting in settings]
    assert {tuple(words[:2]) for words in commands} == {("selfdistill", "train")}
    for words in {tuple(words): words for words in commands}.values():
        assert parse("train", words[2:]).recipe.max_completion_length == 1024


def test_json_is_one_object(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", f"--model_name={folder}", "--gpu=h200", "--json", "--steps=254", "--price=3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["card_bytes"] == round(139.5 * GIB)
    first = found["settings"][0]
    assert {"name", "command", "peak_bytes", "parts", "seconds_per_step", "fits", "hours", "cost"} <= first.keys()
    assert first["cost"] == pytest.approx(3 * first["hours"], abs=0.02)


def test_the_table_names_the_mildest_command(folder: Path) -> None:
    console = Console(width=160, record=True, file=None, quiet=False)
    with console.capture() as shown:
        command.run(PlanOptions(model_name=str(folder), gpu="4090"), console)
    text = shown.get()
    assert "selfdistill train --model_name" in text or "Nothing fits" in text
    assert "nothing of it was measured" in text
    assert "of the host's memory." in text


def test_a_price_without_a_length_is_refused() -> None:
    assert "--price 3 counts only with --steps" in mistake(PlanOptions(price=3).check)


@pytest.mark.parametrize(
    ("recipe", "gib"),
    [
        ("paper-tooluse-qwen2.5-7b", 139.5),
        ("paper-science-qwen2.5-7b", 139.5),
        ("paper-tooluse-qwen2.5-7b-80gb", 78.0),
        ("paper-science-qwen2.5-7b-80gb", 78.0),
        ("paper-sequence-qwen2.5-7b", 139.5),
        ("tooluse-qwen2.5-7b-24gb", 23.2),
        ("tooluse-qwen2.5-1.5b-16gb", 14.4),
    ],
)
def test_recipes_fit_where_they_say(folder: Path, monkeypatch: pytest.MonkeyPatch, recipe: str, gib: float) -> None:
    """By the check that ``train`` makes, on a card of that size; on one of a third it names the mildest change."""
    options = parse("train", ["--config", recipe])
    args = method_config(options)
    row = PromptPair(
        example=Example(id="", prompt=({"role": "user", "content": ""},)),
        student_ids=(0,) * 1024,
        teacher_ids=(0,) * 1024,
    )
    model = options.recipe.model
    check = MemoryCheck(
        AutoConfig.for_model("qwen2", **QWEN_1_5B)
        if "1.5B" in model.model_name
        else AutoConfig.from_pretrained(folder),
        [row] * 32,
        dtype="bfloat16",
        lora_r=options.recipe.adapter.lora_r,
        device=torch.device("cuda"),
        quantize=model.quantize,
    )
    needed = check.estimate(args)
    monkeypatch.setattr(memory, "available", lambda _: round(gib * GIB))
    assert check.shortage(args, needed) is None
    monkeypatch.setattr(memory, "available", lambda _: round(gib * GIB / 3))
    assert "Training takes about" in (check.shortage(args, needed) or "")


def test_the_page_on_scaling_shows_what_plan_says(folder: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
    config = AutoConfig.from_pretrained(folder)
    for gpu, card in CARDS.items():
        best = candidates(PlanOptions(gpu=gpu), config, card)[0]  # type: ignore[arg-type]
        shown = (
            f"| {best.name} | {best.parts.peak / GIB:.1f} | {best.seconds_per_step:.1f} |"
            if best.fits
            else "| nothing | | |"
        )
        assert f"| {gpu} | {card.memory:g} {shown}" in page


def test_several_cards_share_the_prompts_and_exchange_their_gradients(folder: Path) -> None:
    """Four cards of 8 prompts each: a quarter of the work, and 3/4 of 4 bytes a weight twice through the link."""
    config = AutoConfig.from_pretrained(folder)
    (one, four) = (candidates(PlanOptions(gpus=gpus), config, CARDS["h200"])[0] for gpus in (1, 4))
    assert one.name == four.name
    assert four.command.startswith("torchrun --nproc_per_node 4 -m selfdistill train ")
    assert "--per_device_train_batch_size 1 " in four.command  # 8 of them, which is the default
    assert "--gradient_accumulation_steps 32 " in one.command
    assert four.parts.peak <= one.parts.peak
    assert four.seconds["student"] == pytest.approx(one.seconds["student"] / 4)
    weights = 7_615_616_512  # of Qwen2.5-7B with a vocabulary of 152,064
    assert one.seconds["exchange"] == 0
    assert four.seconds["exchange"] == pytest.approx(2 * 3 / 4 * 4 * weights / 450e9, rel=1e-3)


def test_this_machine_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "available", lambda _: 5 * GIB)
    card = card_named("cpu")
    assert card.memory == 5
    assert card.device == "cpu"
    assert 0.001 < card.flops < 50
    assert 0.0005 < card.bandwidth < 5
    config = AutoConfig.for_model("qwen2", **QWEN_1_5B)
    found = candidates(PlanOptions(gpu="cpu", prompts=2, max_prompt_length=64, max_completion_length=64), config, card)
    assert {candidate.parts.host for candidate in found} == {0}
    assert not any("host" in candidate.name or "paged" in candidate.name for candidate in found)
    assert any(candidate.name.startswith("QLoRA") for candidate in found)


def test_apples_gpu_is_planned_for_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert "Plan on the Mac" in mistake(card_named, "mps")
    config = AutoConfig.for_model("qwen2", **QWEN_1_5B)
    mac = replace(CARDS["t4"], device="mps", memory=24.0)
    names = [candidate.name for candidate in candidates(PlanOptions(gpu="mps", prompts=2), config, mac)]
    assert names
    assert not any("QLoRA" in name or "8bit" in name or "host" in name for name in names)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (PlanOptions(gpu="cpu", gpus=2), "--gpus 2: cpu is this machine"),
        (PlanOptions(gpus=64), "--gpus 64 is more than --prompts 32"),
    ],
)
def test_more_cards_than_there_is_use_for(options: PlanOptions, words: str) -> None:
    assert words in mistake(options.check)
