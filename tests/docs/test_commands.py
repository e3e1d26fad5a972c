"""Every command that a document or a help page shows is run on tiny settings, or at least parsed, its flags known."""

import glob
import io
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from selfdistill import cli
from selfdistill.settings import flat
from tests.support.documented import NOTEBOOKS, PAGES, ROOT, Shown, command, commands_of, spans
from tests.support.options import OPTIONS
from tests.support.tiny_home import QUICK, TinyHome, train

NOT_RUN = {
    "torchrun": "starts eight processes, on GPUs, or on two machines: tests/distributed starts two on this one",
    "accelerate launch": "the same",
    "python": "the reference's commands need its data and a model of 7B weights, the other programs hours",
    "make": "sets up an environment; that there is such a target is looked up",
    "pip": "installs",
    "vllm": "is vLLM's own",
    "selfdistill train --rollout_engine vllm": "needs vLLM: make test-vllm",
    "selfdistill train --model_name Qwen/Qwen2.5-1.5B-Instruct --lora_r 16 --rollout_engine vllm-server": "the same",
    "selfdistill train --model_name Qwen/Qwen2.5-1.5B-Instruct --rollout_engine vllm-server": "the same",
    "selfdistill train --model_name Qwen/Qwen2.5-7B-Instruct --teacher_server": "needs a server: make test-vllm",
    "selfdistill compare --executor ray": "starts a Ray cluster: tests/studies and examples/clusters/ray.sh do",
    "selfdistill export runs/mine --to mlx": "needs mlx_lm, and a machine of Apple's",
    "selfdistill export runs/mine --to merged --output_dir exported --push_to_hub": "uploads to the Hub",
}
"""Beginnings of the commands in blocks that are parsed and not run, and why."""
OF_OTHERS = {"enable-lora", "max-lora-rank", "max-logprobs", "max-model-len", "weight-transfer-config", "help", "only"}
"""Flags that documents mention and that are vLLM's, every program's, or of the programs beside the package."""
PLACEHOLDERS = {"N": "1", "NAME": "h200", "FORM": "gguf", "FILE": "demo-cpu"}
"""What stands in a sentence for a value that the parser checks."""
MODELS = ("Qwen/Qwen2.5-0.5B-Instruct", "smollm2-135m")
ALL = {name: commands_of(page) for page in (*PAGES, *NOTEBOOKS) for name in [page.relative_to(ROOT).as_posix()]}
"""Commands by page."""
MEASURED = ("--max_new_tokens=4", "--prior=none", "--drift_prompts=2", "--eval_limit=2", "--template=prior_turn")
LONGER = "--max_completion_length=200"
"""For demonstrations of assistant-tools."""
TINY: dict[str, tuple[str, ...]] = {
    "init": ("--dataset_path=mine.jsonl", "--model_name=M"),
    "preflight": ("--model_name=M", "--num_rows=2", "--dtype=float32", "--max_completion_length=16"),
    "train": ("--model_name=M", *QUICK),
    "eval": ("--dtype=float32", "--max_new_tokens=4", "--limit=2"),
    "compare": ("--model_name=M", *QUICK, *MEASURED, LONGER, "--max_steps=1", "--checkpoints=1", "--seeds=0"),
    "continual": ("--model_name=M", *QUICK, *MEASURED, "--stages=one.jsonl,two.jsonl"),
    "learn": ("--model_name=M", *QUICK, "--template=prior_turn", "--eval_limit=4"),
    "chat": ("--dtype=float32", "--max_new_tokens=4"),
}
"""Flags that take the place of the command's own."""


def reason(shown: Shown) -> str | None:
    """Why a command of a block is not run; None if it is."""
    return next((why for start, why in NOT_RUN.items() if shown.text.startswith(start)), None)


def without(words: list[str], flags: set[str]) -> list[str]:
    """The words without these flags and their values."""
    kept: list[str] = []
    values = False
    for word in words:
        if word.startswith("--"):
            values = word in flags
            if values or word.partition("=")[0] in flags:
                continue
        elif values:
            values = False
            continue
        kept.append(word)
    return kept


def tiny(shown: Shown) -> list[str]:
    """The command's arguments on tiny settings."""
    name, *words = shown.words[1:]
    own = list(TINY.get(name, ()))
    if name == "eval" and "drift" in words:
        own = ["--dtype=float32"]
    if name == "train" and "--method" not in words:
        own.append("--preflight_rows=2")  # which chooses the template
    if "--eval_steps" in words:
        own.append("--eval_steps=1")
    if "--learning_rates" in words:
        own.append("--validation_rows=4")
    if name == "learn" and Path("memory").exists():
        own.remove("--model_name=M")  # it goes on from the ledger's own
    words = ["M" if word in MODELS else word for word in words]
    words = [path for word in words for path in (sorted(glob.glob(word)) if "*" in word else [word])]
    return [name, *without(words, {flag.partition("=")[0] for flag in own}), *own]


# -- run ----------------------------------------------------------------------------------------------------------


def make_ready(home: TinyHome, words: list[str]) -> None:
    """Makes what the command reads, and what may not be there before it."""
    for word in words:
        for path in word.rpartition("=")[2].split(","):
            if path.endswith(".jsonl") and not (home.folder / path).exists():
                stem = Path(path).stem
                home.rows(*({"prompt": f"{stem} {n}?", "demonstration": f"It is {n}."} for n in range(60)), name=path)
    if words[0] != "train" and "runs/mine" in words and not (home.folder / "runs" / "mine").exists():
        assert home.run(*train(output="runs/mine")).code == 0
    if "DATA" in words:
        (home.folder / "DATA").mkdir()
    if words[0] == "export":
        shutil.rmtree(home.folder / "exported", ignore_errors=True)  # each line is another way to the same folder
    if "adapter" in words or "merged" in words:
        words[1] = "runs/adapter"
        if not (home.folder / "runs" / "adapter").exists():
            assert home.run(*train("--lora_r=2", output="runs/adapter")).code == 0


@pytest.mark.parametrize(
    "page", [name for name, found in ALL.items() if any(each.in_block and not reason(each) for each in found)]
)
def test_the_commands_of_a_page_run_one_after_another(
    page: str, home: TinyHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.rows({"prompt": "other?", "demonstration": "Other."}, name="more/rows.jsonl")
    for shown in ALL[page]:
        if shown.in_block and not reason(shown):
            words = tiny(shown)
            make_ready(home, words)
            monkeypatch.setattr(sys, "stdin", io.StringIO("Hi\n"))
            said = home.run(*words)
            assert said.code == 0, (shown.place, words, said)


def test_the_quick_start_of_the_help_page_runs(home: TinyHome) -> None:
    [line] = [line for line in cli.HELP.splitlines() if line.startswith("Quick start:")]
    shown = command("--help", line.removeprefix("Quick start:"), in_block=True)
    assert shown is not None
    assert home.run(*tiny(shown)).code == 0
    assert (home.folder / "runs" / "first" / "model.safetensors").is_file()


def test_the_python_of_the_readme_runs(home: TinyHome) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    rows = [{"prompt": f"What is {n}?", "demonstration": f"It is {n}."} for n in range(3)]
    assert "max_completion_length=256" in code
    exec(
        code.replace(MODELS[0], "M").replace("max_completion_length=256", "max_completion_length=8"),
        {"rows": rows, "held_out_rows": rows},
    )
    assert (home.folder / "runs" / "mine" / "model.safetensors").is_file()


# -- parsed -------------------------------------------------------------------------------------------------------


def parsed(words: tuple[str, ...]) -> Any:
    """The options of a command of ours, placeholders filled in."""
    given = [PLACEHOLDERS.get(word, word) for word in words if word != "..."]
    return cli.parse(given[0], given[1:])


def sources(words: tuple[str, ...]) -> list[Path]:
    """The files of a program of ours that Python starts."""
    name = words[2].replace(".", "/") if words[1] == "-m" else words[1].removesuffix(".py")
    return [ROOT / f"{name}.py"] if (ROOT / f"{name}.py").is_file() else sorted((ROOT / name).glob("*.py"))


def check(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> str:
    """Fails unless the command is one that is there, and its flags are known. Returns what it was held against; empty
    if that is not of this project."""
    words = shown.words
    if "selfdistill" in words[:-1]:
        rest = words[words.index("selfdistill") + 1 :]
        if rest[0] in cli.COMMANDS:
            options = parsed(rest)
            if shown.in_block and words[0] != "selfdistill":
                options.check()
        else:
            assert rest[0].isupper() or rest[0] in ("--help", "--version"), shown
        return "command line"
    if words[0] == "make":
        targets = (ROOT / "Makefile").read_text(encoding="utf-8")
        for target in words[1:]:
            assert "=" in target or re.search(rf"^{target}:", targets, re.MULTILINE), shown
        return "Makefile"
    if words[0] == "pytest":
        assert (ROOT / words[1]).is_file(), shown
        return "tests"
    if words[0] == "python" and not words[2 if words[1] == "-m" else 1].startswith("vllm"):
        text = "".join(path.read_text(encoding="utf-8") for path in sources(words))
        assert text, shown
        if shown.in_block and "cli import main" in text:
            check_reference(words, monkeypatch)
        else:
            assert [word for word in words if word.startswith("--") and word.strip("-") not in text] == [], shown
        return "program"
    return ""


def check_reference(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails unless ours parses what a command of the reference implementation hands to it."""
    given: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(cli, "main", lambda argv: given.extend(argv) or 0)
        patch.setattr(sys, "argv", list(words[1:]))
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / words[1]), run_name="__main__")
    assert ended.value.code == 0
    assert given
    parsed(tuple(given))


@pytest.mark.parametrize("page", [name for name, found in ALL.items() if found])
def test_the_commands_of_a_page_are_there_and_take_their_flags(
    page: str, home: TinyHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_others = [shown.text for shown in ALL[page] if not check(shown, monkeypatch)]
    assert [text for text in of_others if "selfdistill" in text.split()[0] or text.startswith("make")] == []
    assert len(of_others) < len(ALL[page])


@pytest.mark.parametrize("script", sorted((ROOT / "examples").rglob("*.sh")), ids=lambda path: path.name)
def test_the_commands_of_a_script_take_their_flags(script: Path) -> None:
    text = script.read_text(encoding="utf-8").replace("\\\n", " ")
    found = [line for line in text.splitlines() if " -m selfdistill " in line]
    assert found
    for line in found:
        words = shlex.split(line.replace('"$@"', ""))
        parsed(tuple(words[words.index("selfdistill") + 1 :]))


def test_what_a_message_or_a_help_page_names_is_there(home: TinyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Shown] = []
    for path in (ROOT / "src").rglob("*.py"):
        spoken = (command(path.name, span, in_block=False) for span in spans(path.read_text(encoding="utf-8")))
        found += [each for each in spoken if each is not None]
    assert len(found) > 5
    for shown in found:
        check(shown, monkeypatch)


@pytest.mark.parametrize("page", [name for name in ALL if "from_other_tools" not in name])
def test_every_flag_that_a_sentence_names_is_a_flag(page: str) -> None:
    known = OF_OTHERS.union(*(flat.leaves(options) for options in OPTIONS.values()))
    named = [span for span in spans((ROOT / page).read_text(encoding="utf-8")) if span.startswith("--")]
    assert [span for span in named if not set(re.findall(r"(?<!\S)--([\w-]+)", span)) <= known] == []


@pytest.mark.parametrize("start", NOT_RUN)
def test_what_is_not_run_is_still_shown(start: str) -> None:
    assert any(shown.in_block and shown.text.startswith(start) for found in ALL.values() for shown in found)


def test_a_wrong_flag_would_be_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = command("x", "torchrun --nproc_per_node 8 -m selfdistill train --lerning_rate 1", in_block=True)
    assert wrong is not None
    with pytest.raises(SystemExit):
        check(wrong, monkeypatch)
    for text in ("make tset", "python benchmarks/stop.py", "python benchmarks/step.py --stops 1"):
        wrong = command("x", text, in_block=True)
        assert wrong is not None
        with pytest.raises(AssertionError):
            check(wrong, monkeypatch)
