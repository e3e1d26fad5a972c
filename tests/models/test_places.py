"""What a model's name means, and what is said where it means nothing."""

import json
import os
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors as hub_errors

from selfdistill.models import loading, places
from selfdistill.models.cache import EMBEDDED_FOLDER
from selfdistill.models.places import adapter_base, locate
from tests.support.mistakes import mistake


def test_a_folder_a_gguf_file_and_an_adapter_are_places(folder: Path, tmp_path: Path):
    assert locate(str(folder)) == folder
    (tmp_path / "small.gguf").write_bytes(b"")
    assert locate(str(tmp_path / "small.gguf")) == tmp_path / "small.gguf"
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    assert locate(str(tmp_path / "adapter")) == tmp_path / "adapter"


def test_the_home_folder_is_known(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert locate("~/base") == folder


def test_the_embedded_name_wins_over_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2-135m").mkdir()
    monkeypatch.setattr(places, "embedded_model_path", lambda: tmp_path / "cached")
    assert locate("smollm2-135m") == tmp_path / "cached"
    assert "has no config.json" in mistake(locate, "./smollm2-135m")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("smollm2-135", "Did you mean smollm2-135m?"),
        ("SmolLM2-135M", "Did you mean smollm2-135m?"),
        ("my-modle", "Did you mean my-model?"),
        ("./my-modle", "Did you mean my-model?"),
        ("gpt2", "Try smollm2-135m."),
        ("a/b/c", "Try smollm2-135m."),
        ("missing.gguf", "Try smollm2-135m."),
    ],
)
def test_unknown_name(name: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-model").mkdir()
    message = mistake(locate, name)
    assert f"--model_name {name} is" in message
    assert message.endswith(remedy)


@pytest.mark.parametrize("load", [loading.load_model, loading.load_config, loading.load_tokenizer])
def test_every_loader_looks_there(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert mistake(load, "gpt2") == mistake(locate, "gpt2")


def test_folder_without_a_model(tmp_path: Path):
    assert "has no config.json. Pass" in mistake(locate, str(tmp_path))
    for step, age in ((9, 0), (60, 100)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        file = tmp_path / f"checkpoint-{step}" / "config.json"
        file.write_text("{}")
        os.utime(file, (1000 + age, 1000 + age))
    assert f"Did you mean {tmp_path / 'checkpoint-60'}?" in mistake(locate, str(tmp_path))


def test_file_that_is_no_gguf(tmp_path: Path):
    (tmp_path / "model.bin").write_text("")
    assert "not a .gguf" in mistake(locate, str(tmp_path / "model.bin"))


# -- the Hub ------------------------------------------------------------------------------------------------------


def test_a_hub_id_stays_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    asked: list[Any] = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *names: asked.append(names))
    assert locate("owner/name-1.5B") == "owner/name-1.5B"
    assert asked == [("owner/name-1.5B", "config.json")]


def test_hub_id_offline(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = mistake(locate, "no-such-owner/no-such-model")
    assert "--model_name no-such-owner/no-such-model" in message
    assert "HF_HUB_OFFLINE" in message


def hub_error(kind: type[Exception]) -> Exception:
    error = kind.__new__(kind)
    error.args = ("word " * 50,)
    return error


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        (hub_errors.GatedRepoError, "hf auth login"),
        (hub_errors.RepositoryNotFoundError, "Check the spelling"),
        (hub_errors.LocalEntryNotFoundError, "Check the network"),
        (hub_errors.RemoteEntryNotFoundError, "no config.json on the Hub"),
        (hub_errors.HfHubHTTPError, "can't be fetched"),
        (hub_errors.HFValidationError, "can't be fetched"),
    ],
)
def test_hub_mistakes(kind: type[Exception], part: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def fail(*_: Any, **__: Any) -> None:
        raise hub_error(kind)

    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "first").mkdir(parents=True)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    message = mistake(locate, "runs/frist")
    assert "--model_name runs/frist" in message
    assert part in message
    assert message.endswith(f"Did you mean {os.path.join('runs', 'first')}?")


# -- an adapter's base --------------------------------------------------------------------------------------------


def adapter_of(folder: Path, base: Any, **settings: Any) -> Path:
    """A folder with nothing but the config of an adapter of ``base``."""
    folder.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": base} | settings
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_the_base_is_a_name_or_a_folder_beside_the_adapter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_: "config.json")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    assert adapter_base(adapter_of(tmp_path / "a", "owner/name")) == "owner/name"
    assert adapter_base(adapter_of(tmp_path / "b", str(tmp_path / "base"))) == str(tmp_path / "base")
    beside = adapter_base(adapter_of(tmp_path / "c", "../base"))
    assert Path(beside).resolve() == tmp_path / "base"


def test_the_embedded_model_is_found_on_any_machine(tmp_path: Path):
    """An adapter of the embedded model names a folder in the cache of the machine that made it."""
    assert adapter_base(adapter_of(tmp_path / "a", f"C:\\Users\\ada\\{EMBEDDED_FOLDER}")) == "smollm2-135m"
    assert adapter_base(adapter_of(tmp_path / "b", f"/home/ada/{EMBEDDED_FOLDER}")) == "smollm2-135m"


def test_adapters_without_a_base(tmp_path: Path):
    kinds = [
        adapter_of(tmp_path / "none", None),
        adapter_of(tmp_path / "self", "."),
        adapter_of(tmp_path / "other", "owner/name", peft_type="IA3"),
        adapter_of(tmp_path / "list of names", ["owner/name"]),
    ]
    broken = adapter_of(tmp_path / "broken", "owner/name")
    (broken / "adapter_config.json").write_text("{")
    no_object = adapter_of(tmp_path / "list", "owner/name")
    (no_object / "adapter_config.json").write_text("[]")
    for folder in (*kinds, broken, no_object):
        assert "base_model_name_or_path" in mistake(adapter_base, folder)
        assert "base_model_name_or_path" in mistake(loading.load_tokenizer, str(folder))


def test_a_base_that_is_not_there_is_told_as_the_adapters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Nobody typed its name."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    for number, base in enumerate(("/nowhere/base", "../empty", "no-such-owner/no-such-model")):
        folder = adapter_of(tmp_path / str(number), base)
        for load in (loading.load_config, loading.load_tokenizer, loading.load_model):
            message = mistake(load, str(folder))
            assert message.startswith(f"The base of the adapter {folder}, ")
            assert message.endswith("Mend base_model_name_or_path in its adapter_config.json.")
            assert "--model_name" not in message
