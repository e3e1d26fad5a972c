"""The command: every form gives the model's logits by the library that it is for, or nothing is written."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from selfdistill.export import run as exporting
from selfdistill.export.compare import difference, is_the_model
from selfdistill.export.forms import FORMS
from selfdistill.models.loading import load_model
from tests.support.tiny_home import TinyHome

IDS = torch.tensor([[5, 80, 33, 100, 7, 9, 11]])


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits[0]


def own(folder: Path) -> Tensor:
    """Logits of a run's model, an adapter added to its base but not merged, where there is one."""
    kind: Any = AutoPeftModelForCausalLM if (folder / "adapter_config.json").exists() else AutoModelForCausalLM
    return logits(kind.from_pretrained(str(folder), dtype=torch.float32))


@pytest.mark.parametrize(
    ("run", "form"),
    [("full", "safetensors"), ("lora", "safetensors"), ("lora", "merged"), ("lora/checkpoint-1", "merged")],
)
def test_a_whole_model_loads_by_transformers_and_has_the_models_logits(home: TinyHome, run: str, form: str) -> None:
    assert home.run("export", run, f"--to={form}", "--output_dir=out").code == 0
    found = logits(AutoModelForCausalLM.from_pretrained("out"))
    assert torch.allclose(found, own(home.folder / run), atol=1e-4)
    assert AutoTokenizer.from_pretrained("out")("Hi").input_ids == AutoTokenizer.from_pretrained("M")("Hi").input_ids


def test_training_left_a_trace_in_what_is_compared(home: TinyHome) -> None:
    assert not torch.allclose(own(home.folder / "lora"), own(home.folder / "M"), atol=1e-2)


def test_merged_weights_are_rounded_once_and_only_if_asked(home: TinyHome) -> None:
    assert home.run("export", "lora", "--to=merged", "--output_dir=out", "--dtype=bfloat16").code == 0
    exact = dict(load_model("lora", dtype="float32", device="cpu").state_dict())
    with safe_open("out/model.safetensors", "pt") as file:
        names = list(file.keys())
        assert "model.layers.0.self_attn.q_proj.weight" in names
        for name in names:
            assert torch.equal(file.get_tensor(name), exact[name].bfloat16())
    assert home.read("out/config.json")["dtype"] == "bfloat16"


def test_an_adapter_loads_by_peft_from_anywhere_on_this_machine(
    home: TinyHome, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert home.run("export", "lora", "--to=adapter", "--output_dir=out").code == 0
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    found = logits(AutoPeftModelForCausalLM.from_pretrained(str(home.folder / "out")))
    assert torch.allclose(found, own(home.folder / "lora"), atol=1e-4)


@pytest.mark.parametrize("form", ["gguf", "ollama"])
def test_a_gguf_file_loads_by_transformers(home: TinyHome, form: str) -> None:
    assert home.run("export", "lora", f"--to={form}", "--output_dir=out").code == 0
    model = AutoModelForCausalLM.from_pretrained("out", gguf_file="model.gguf", dtype=torch.float32)
    assert torch.allclose(logits(model), own(home.folder / "lora"), atol=1e-4)
    assert (home.folder / "out" / "Modelfile").exists() == (form == "ollama")


def test_the_folder_holds_nothing_of_the_run_and_others_can_read_it(home: TinyHome) -> None:
    home.run("export", "full", "--to=safetensors", "--output_dir=out")
    files = {path.name for path in (home.folder / "out").iterdir()}
    assert not files & {"rollouts.jsonl", "metrics.jsonl", "run_config.json", "state"}
    assert all((home.folder / "out" / name).stat().st_mode & 0o777 == 0o644 for name in files)
    assert set(home.read("out/manifest.json")["files"]) == files - {"manifest.json"}


def test_the_current_version_of_a_ledger_is_exported(home: TinyHome) -> None:
    skill = {"name": "s", "source": "s.jsonl", "rows_sha256": "a" * 64, "num_rows": 3, "items_sha256": "b" * 64}
    skill |= {"num_items": 3, "metric": "exact", "task": None, "scorer": "exact", "max_new_tokens": 4}
    version = {"number": 1, "parent": 0, "created": "2026-01-01", "refused": False, "skill": skill, "method": {}}
    version |= {"max_forgetting": 0.1, "confidence": 0.95, "verdicts": []}
    shutil.copytree(home.folder / "full", home.folder / "memory" / "versions" / "0001")
    record = {"base": "M", "current": 1, "held": ["s"], "versions": [version], "format": 1}
    (home.folder / "memory" / "ledger.json").write_text(json.dumps(record))
    for number, name in enumerate(("memory", "memory/versions/0001")):
        assert home.run("export", name, "--to=safetensors", f"--output_dir=out{number}").code == 0
        assert torch.allclose(logits(AutoModelForCausalLM.from_pretrained(f"out{number}")), own(home.folder / "full"))
        assert "| 1 | s | 3 | `aaaaaaaaaaaa` |" in (home.folder / f"out{number}" / "README.md").read_text()


# -- what is refused, and that nothing is left of it ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["full"], "--to is missing"),
        (["full", "--to=merged"], "without an adapter. Write it with --to safetensors"),
        (["full", "--to=adapter"], "without an adapter"),
        (["full", "--to=gguf", "--output_dir=M"], "--output_dir M is not an empty folder"),
        (["full", "--to=merged", "--quantize=q8_0"], "--quantize q8_0 goes with --to gguf, ollama or mlx"),
        (["full", "--to=gguf", "--quantize=4bit"], "--quantize 4bit is not one of q8_0"),
        (["lora", "--to=adapter", "--dtype=float16"], "an adapter is written as it is"),
        (["full", "--to=safetensors", "--public"], "--public goes with --push_to_hub"),
        (["full", "--to=safetensors", "--push_to_hub=me"], "is not OWNER/NAME"),
        (["nowhere", "--to=gguf"], "nowhere is neither"),
    ],
    ids=str,
)
def test_a_mistake_is_told_before_anything_is_loaded(
    home: TinyHome, monkeypatch: pytest.MonkeyPatch, argv: list[str], words: str
) -> None:
    monkeypatch.setattr(exporting, "load_model", lambda *_, **__: pytest.fail("loaded"))
    before = home.files()
    more = [] if any(flag.startswith("--output_dir") for flag in argv) else ["--output_dir=out"]
    assert words in home.refused("export", *argv, *more)
    assert home.files() == before


def test_an_output_folder_must_be_named(home: TinyHome) -> None:
    assert "--output_dir is missing" in home.refused("export", "full", "--to=gguf")


def test_an_adapter_on_an_adapter_can_only_be_merged(home: TinyHome) -> None:
    shutil.copytree(home.folder / "lora", home.folder / "second")
    config = home.folder / "second" / "adapter_config.json"
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(home.folder / "lora")})
    )
    assert "is an adapter itself" in home.refused("export", "second", "--to=adapter", "--output_dir=out")
    assert home.run("export", "second", "--to=merged", "--output_dir=out").code == 0


def test_mlx_needs_its_library(home: TinyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfdistill.export.forms.util.find_spec", lambda _: None)
    assert "pip install mlx-lm" in home.refused("export", "full", "--to=mlx", "--output_dir=out")


def test_what_has_other_logits_is_not_kept(home: TinyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(FORMS["safetensors"], logits=lambda job, folder, ids: torch.zeros(ids.shape[1], 264))
    monkeypatch.setitem(FORMS, "safetensors", other)
    before = home.files()
    assert "gives other logits" in home.refused("export", "full", "--to=safetensors", "--output_dir=new/out", code=6)
    assert home.files() == before


def test_what_fails_half_way_leaves_nothing(home: TinyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(job: Any, folder: Path) -> str:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device", str(folder))

    monkeypatch.setitem(FORMS, "safetensors", replace(FORMS["safetensors"], write=full))
    before = home.files()
    home.refused("export", "full", "--to=safetensors", "--output_dir=out", code=5)
    assert home.files() == before


def test_the_difference_by_hand() -> None:
    expected = torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    found = difference(expected, torch.tensor([[0.0, 0.0], [0.0, 3.0]]))
    assert (found.largest, found.relative, found.same_top) == (3.0, 1.0, 0.5)
    p = torch.sigmoid(torch.tensor(3.0))
    assert found.kl == pytest.approx(float(0.5 * (2 * p - 1) * 3), rel=1e-5)  # half of (p - q) log(p / q)
    assert is_the_model(found, torch.float32, quantized=True)
    assert not is_the_model(found, torch.bfloat16, quantized=False)
    assert not is_the_model(difference(expected, expected * float("nan")), torch.float32, quantized=True)
    near = difference(expected, expected + 0.01)
    assert is_the_model(near, torch.bfloat16, quantized=False)
    assert not is_the_model(near, torch.float32, quantized=False)


# -- the folders of training, as servers read them --------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["full", "full/checkpoint-1", "full/checkpoint-2", "lora", "lora/checkpoint-1"])
def test_a_runs_folder_is_a_model_and_nothing_else_to_a_server(home: TinyHome, folder: str) -> None:
    """Servers take every ``*.safetensors`` at the top of a folder for the model's weights."""
    path = home.folder / folder
    adapter = folder.startswith("lora")
    assert [file.name for file in path.glob("*.safetensors")] == [
        "adapter_model.safetensors" if adapter else "model.safetensors"
    ]
    assert not [*path.glob("*.bin"), *path.glob("*.pt"), *path.glob("*.pth")]
    if adapter:
        return
    before, after = home.read("M/config.json"), home.read(f"{folder}/config.json")
    assert after.get("use_cache") == before.get("use_cache")
    generation = GenerationConfig.from_pretrained(path)
    generation.validate(strict=True)
    assert generation.eos_token_id == 256
