"""Hostile files, of models, data, settings and ledgers: each ends in a named error, and executes nothing."""

import json
import os
import pickle
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from selfdistill.data.readers import load_rows
from selfdistill.data.rows import examples_from_rows
from selfdistill.errors import UserError
from selfdistill.export.gguf_model import write_gguf
from selfdistill.models.loading import load_config, load_model, load_tokenizer
from selfdistill.settings.train import TrainOptions
from selfdistill.settings.yaml_files import options_from_file, parse_assignments
from selfdistill.tasks.custom import custom_task
from selfdistill.tasks.scorers import multiple_choice, regex
from selfdistill.types import Example
from tests.support.clock import within
from tests.support.mistakes import MOST_WORDS, mistake
from tests.support.tiny import byte_tokenizer, random_model


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f"touch {self.canary}",)


@pytest.fixture
def canary(tmp_path: Path) -> Any:
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tokenizer = byte_tokenizer()
    random_model(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "M")
    tokenizer.save_pretrained(tmp_path / "M")
    return tmp_path / "M"


def damaged(whole: bytes, number: int) -> bytes:
    """A GGUF file with a change in the first 6,000 bytes, where its settings and names are."""
    chance = random.Random(number)
    content, at = bytearray(whole), chance.randrange(6000)
    kind = ("flipped", "cut", "zeroed", "huge", "longer")[number % 5]
    if kind == "cut":
        return bytes(content[: chance.randrange(len(content))])
    if kind == "flipped":
        content[at] ^= 1 << chance.randrange(8)
    elif kind == "longer":
        content[at:at] = chance.randbytes(5)
    else:
        length = 64 if kind == "zeroed" else 8
        content[at : at + length] = (b"\0" if kind == "zeroed" else b"\xff") * length
    return bytes(content)


# -- models -------------------------------------------------------------------------------------------------------


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_a_damaged_gguf_file_is_loaded_or_refused_by_name(tmp_path: Path) -> None:
    file, told = tmp_path / "m.gguf", list[str]()
    write_gguf(
        random_model(vocab_size=264).float(), byte_tokenizer(), file, name="m", dtype=torch.float32, quantize=None
    )
    whole = file.read_bytes()
    for number in range(40):
        file.write_bytes(damaged(whole, number))
        try:
            load_config(str(file))
            load_tokenizer(str(file))
            load_model(str(file), dtype="float32", device="cpu")
        except UserError as error:
            told.append(str(error))
    assert len(told) > 20
    assert max(len(text.split()) for text in told) <= MOST_WORDS


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin"])
def test_pickled_weights_are_refused(model: Path, name: str, canary: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / name).write_bytes(pickle.dumps(Bomb(canary)))
    told = mistake(load_model, str(model))
    assert name in told
    assert "safetensors" in told


def test_a_pickle_beside_safetensors_is_not_read(model: Path, canary: Path) -> None:
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        (model / name).write_bytes(pickle.dumps(Bomb(canary)))
    assert load_model(str(model)).config.model_type == "llama"


def test_a_pickle_in_the_name_of_safetensors_is_not_run(model: Path, canary: Path) -> None:
    (model / "model.safetensors").write_bytes(pickle.dumps(Bomb(canary)))
    assert "Can't load" in mistake(load_model, str(model))


def test_a_pickled_adapter_is_refused(model: Path, tmp_path: Path, canary: Path) -> None:
    adapter = tmp_path / "A"
    adapter.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": str(model), "r": 2, "target_modules": ["q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    torch.save({"x": Bomb(canary)}, adapter / "adapter_model.bin")
    assert "adapter_model.bin, a pickle" in mistake(load_model, str(adapter))


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_a_model_is_not_run(model: Path, file: str, canary: Path) -> None:
    (model / "own.py").write_text(f"open({str(canary)!r}, 'w')\nclass Own: pass\n")
    names = ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")
    change(model / file, auto_map=dict.fromkeys(names, "own.Own"), model_type="own_kind")
    try:
        load_model(str(model))
    except ValueError as error:
        assert len(str(error).split()) <= 40  # noqa: PT017
    assert not canary.exists()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_a_kernel_from_the_hub_is_refused(model: Path, key: str) -> None:
    change(model / "config.json", **{key: "somebody/kernel"})
    assert f"{key} in its config.json names code" in mistake(load_config, str(model))


def test_an_index_that_leaves_the_folder_is_refused(model: Path) -> None:
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "../other/model.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "outside the folder" in mistake(load_model, str(model))


# -- rows ---------------------------------------------------------------------------------------------------------

ROWS: dict[str, tuple[str, str]] = {
    "a key twice": ('{"prompt": "a", "prompt": "b"}', "has the key 'prompt' twice"),
    "a key twice, deep": ('{"prompt": [{"role": "user", "role": "user", "content": "a"}]}', "'role' twice"),
    "NaN": ('{"prompt": "a", "answer": NaN}', "holds NaN"),
    "infinity": ('{"prompt": "a", "answer": -Infinity}', "holds -Infinity"),
    "too large": ('{"prompt": "a", "answer": 1e400}', "holds 1e400"),
    "digits": ('{"prompt": "a", "answer": ' + "9" * 5000 + "}", "too large to read"),
    "depth": ('{"prompt": "a", "answer": ' + "[" * 100_000 + "]" * 100_000 + "}", "deeper than 200 levels"),
    "half a character": ('{"prompt": "a\\ud800"}', "holds \\ud800, half a character"),
    "half a character, deep": ('{"prompt": [{"role": "user", "content": "\\udfff"}]}', "half a character"),
    "half in an answer": ('{"prompt": "a", "answer": "x \\udc80"}', "half a character"),
    "half after a whole": ('{"prompt": "\\ud83d\\ude00 \\ud83d"}', "half a character"),
}


@pytest.mark.parametrize(("line", "part"), ROWS.values(), ids=ROWS)
def test_rows_that_are_refused(line: str, part: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(f'{{"prompt": "fine"}}\n{line}\n', encoding="utf-8")

    def load() -> None:
        rows, source = load_rows(str(tmp_path / "rows.jsonl"))
        examples_from_rows(rows, source=source, prefix="x", need_demonstration=False)

    told = mistake(load)
    assert part in told
    assert "2" in told


def test_whole_characters_and_backslashes_pass(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "\\ud83d\\ude00 \\\\ud83d", "answer": 1e300}\n')
    rows, source = load_rows(str(tmp_path / "rows.jsonl"))
    (example,) = examples_from_rows(rows, source=source, prefix="x", need_demonstration=False)
    assert example.prompt[0]["content"] == "😀 \\ud83d"


def test_places_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    started = time.monotonic()
    for path in (tmp_path / "pipe.jsonl", "/dev/zero", "/dev/null", tmp_path / "loop.jsonl", "x" * 5000, "a\0b"):
        mistake(load_rows, str(path))
        mistake(custom_task, None, str(path))
    assert time.monotonic() - started < 10


def test_a_long_jsonl_is_not_held_as_text(tmp_path: Path) -> None:
    """Lines that are blank make no rows: what is taken at once is one line, not the file."""
    import tracemalloc

    with (tmp_path / "rows.jsonl").open("wb") as file:
        file.write(b'{"prompt": "a"}\n')
        for _ in range(64):
            file.write(b" " * (1 << 20) + b"\n")
    tracemalloc.start()
    try:
        assert load_rows(str(tmp_path / "rows.jsonl"))[0] == [{"prompt": "a"}]
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


# -- settings -----------------------------------------------------------------------------------------------------

BILLION = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 10)}]\n" for n in range(9)
)
YAML = {
    "billion laughs": BILLION + "seed: *j\n",
    "in itself": "seed: &a [*a]\n",
    "digits": "seed: " + "9" * 5000 + "\n",
    "depth": "seed: " + "[" * 3000 + "]" * 3000 + "\n",
    "code": "seed: !!python/object/apply:os.system ['touch CANARY']\n",
    "another tag": "seed: !!python/name:os.system\n",
    "merge of a list": "<<: [1, 2]\nseed: 1\n",
    "NUL": "seed: \0\n",
    "a list of settings": "- seed\n",
    "twice": "seed: 1\nseed: 2\n",
    "text": "just text",
    "NaN": "learning_rate: .nan\n",
}


@pytest.mark.parametrize("text", YAML.values(), ids=YAML)
def test_settings_that_are_refused(text: str, tmp_path: Path, canary: Path) -> None:
    (tmp_path / "c.yaml").write_text(text.replace("CANARY", str(canary)), encoding="utf-8")

    def load() -> None:
        options_from_file(TrainOptions, str(tmp_path / "c.yaml")).check()

    with within(10):
        told = mistake(load)
    assert told.startswith((str(tmp_path / "c.yaml"), "learning_rate: nan"))  # where to look


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 3000, "!!python/name:os.system"])
def test_assignments_that_are_refused(value: str) -> None:
    told = mistake(parse_assignments, [f"weight_decay={value}"], ["weight_decay"])
    assert told.startswith("--set weight_decay=")
    assert len(told) < 300


# -- scorers ------------------------------------------------------------------------------------------------------


def test_a_users_pattern_has_a_time_limit() -> None:
    row = Example(id="x/0", prompt=(), reference="a")
    with within(10):
        told = mistake(regex("(a+)+$"), "a" * 60 + "!", row)
    assert "row 1 (x/0): it takes longer than 2 seconds" in told
    score = regex("(a+)$")
    assert (score("ba", row), score("b", row), score("aa", row)) == (1.0, 0.0, 0.0)


def test_a_choice_is_found_in_linear_time() -> None:
    row = Example(id="x/0", prompt=(), reference="B")
    for text in ("answer" + " " * 100_000, "answer" + "*" * 100_000, "answer is" + ":" * 100_000):
        worked = threading.Event()
        thread = threading.Thread(target=lambda text=text, worked=worked: (multiple_choice(text, row), worked.set()))
        thread.daemon = True
        thread.start()
        assert worked.wait(10), text[:20]
    assert multiple_choice("The answer is ** (B)", row) == 1.0
    assert multiple_choice("answer: *B*", row) == 1.0
