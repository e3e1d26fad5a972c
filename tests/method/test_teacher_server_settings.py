"""Which servers can teach, what goes with one, its key, what a run costs, and the command."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.models import BPE

from selfdistill.cli import main
from selfdistill.errors import EngineError
from selfdistill.method import teacher_server as module
from selfdistill.method.memory import MemoryCheck
from selfdistill.method.step import Step
from selfdistill.method.teacher_server import KEY_VARIABLE, TeacherServer
from tests.support.mistakes import mistake
from tests.support.served_teacher import RUN, TAIL, WIDE, FakeTeacher, made, saved, teaching
from tests.support.tiny import byte_tokenizer, one_token_a_byte
from tests.support.training import ROWS, make_config, steps, student


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTeacher]:
    monkeypatch.setattr(module, "FIRST_WAIT", 0.001)
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with teaching(student(**WIDE)) as served:
        yield served


# -- a server that can't teach -----------------------------------------------------------------------


def refused(server: FakeTeacher, folder: Path, **settings: Any) -> str:
    return mistake(made, folder, teacher_server=server.url, **{**TAIL, **settings})


def test_a_server_with_a_lower_limit_is_told_its_flag(tmp_path: Path) -> None:
    with teaching(student(), max_logprobs=19) as server:
        text = refused(server, tmp_path)
        assert text == (
            f"teacher_server {server.url} refuses a prompt: Requested prompt logprobs of 20, which is greater than max "
            "allowed: 19. Serve with --max-logprobs 20, or lower divergence_top_k."
        )
        assert made(tmp_path / "lower", teacher_server=server.url, **{**TAIL, "divergence_top_k": 19})


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    ids, turned = one_token_a_byte().get_vocab(), byte_tokenizer()
    backwards = {token: 93 - id if id < 94 else id for token, id in ids.items()}  # what can be printed
    turned.backend_tokenizer.model = BPE(vocab=backwards, merges=[])
    with teaching(student(), turned) as server:
        text = refused(server, tmp_path)
        assert f"teacher_server {server.url}: teacher has another vocabulary: token " in text
        assert text.endswith("Serve a model of the student's family.")
    with teaching(student(vocab_size=200)) as server:
        text = refused(server, tmp_path)
        assert "refuses a prompt: Token id 259 is out of vocabulary. Serve a model of the student's vocab" in text
    larger = student(vocab_size=400)
    with torch.no_grad():
        larger.lm_head.weight[300:] *= 100
    with teaching(larger) as server:
        assert "is none of the student's 300. Serve a model of the student's vocabulary" in refused(server, tmp_path)


def test_tokens_without_names_are_refused(tmp_path: Path, server: FakeTeacher) -> None:
    def nameless(choice: dict[str, Any]) -> None:
        for found in choice["prompt_logprobs"][1:]:
            for one in found.values():
                one["decoded_token"] = None

    server.change = nameless
    assert "names no token in its answers, so its vocabulary can't be compared" in refused(server, tmp_path)


def test_a_server_that_reads_less_than_a_row_is_refused_before_the_run(tmp_path: Path) -> None:
    with teaching(student(), context=30) as server:
        text = refused(server, tmp_path)
        longest = int(text.partition("may have ")[2].partition(",")[0])
        assert text == (
            f"teacher_server {server.url} reads 30 tokens; a prompt with its completion may have {longest}, and one is "
            f"sampled. Serve with --max-model-len {longest + 1}."
        )
    with teaching(student(), context=longest) as server:
        assert f"--max-model-len {longest + 1}" in refused(server, tmp_path)
    for enough in (longest + 1, None):
        with teaching(student(), context=enough) as server:
            made(tmp_path, teacher_server=server.url, **TAIL)


def test_an_address_without_a_server_is_refused(tmp_path: Path) -> None:
    with teaching(student()) as server:
        pass
    assert f"teacher_server {server.url}: no server of models answers there" in refused(server, tmp_path)
    assert mistake(TeacherServer, "localhost:8000", 20, 300).startswith(
        "teacher_server: 'localhost:8000' is no address"
    )
    assert mistake(TeacherServer, "http://[::1", 20, 300).startswith("teacher_server: 'http://[::1' is no address")
    assert mistake(TeacherServer, server.url, 300, 300).startswith("divergence_top_k: 300 is not below the size of the")


# -- its key -----------------------------------------------------------------------------------------


def test_the_key_goes_to_the_server_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT", 0.001)
    with teaching(student(), key="sk-secret") as server:
        monkeypatch.delenv(KEY_VARIABLE, raising=False)
        assert refused(server, tmp_path).endswith(f"refuses: HTTP 401. Set {KEY_VARIABLE}.")
        monkeypatch.setenv(KEY_VARIABLE, "sk-secret")
        trainer = made(tmp_path / "run", teacher_server=server.url, **RUN)
        trainer.train()
        locked_out = made(tmp_path / "run", teacher_server=server.url, **TAIL)
        server.key = "sk-new"
        with pytest.raises(EngineError) as caught:
            locked_out.train()
        assert "Unauthorized: Bearer ***." in str(caught.value)
    for path in (tmp_path / "run").rglob("*"):
        assert not path.is_file() or b"sk-secret" not in path.read_bytes()
    said = capsys.readouterr()
    assert "sk-secret" not in said.out + said.err


@pytest.mark.parametrize("key", ["sk-\nsecret", "sk-sécret"])
def test_a_key_that_http_forbids_is_not_shown(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    text = mistake(TeacherServer, "http://localhost:1", 20, 300, key)
    assert text == f"{KEY_VARIABLE} has a character that HTTP forbids. Set it anew."


@pytest.mark.parametrize("url", ["http://me:sk-secret@there:8000", "https://there/v1?key=sk-secret"])
def test_an_address_holds_no_secret(url: str) -> None:
    text = mistake(TeacherServer, url, 20, 300)
    assert text.startswith("teacher_server: the address of there holds a password or a query")
    assert "sk-secret" not in text


# -- settings, memory, commands ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"divergence_support": "full", "divergence_top_k": 100, "divergence_tail": False}, "divergence_support=full "),
        (
            {
                "divergence": "reverse_kl",
                "divergence_support": "sampled",
                "divergence_top_k": 100,
                "divergence_tail": False,
            },
            "divergence_support=sampled ",
        ),
        ({"divergence_top_k_of": "student"}, "divergence_top_k_of=student "),
        ({"temperature": 0.7}, "temperature=0.7 "),
        ({"target": "mix"}, "target=mix "),
        ({"target": "budget"}, "target=budget "),
        ({"target": "contrast"}, "target=contrast "),
        ({"token_weight": "support"}, "token_weight=support "),
        ({"token_weight": "entropy"}, "token_weight=entropy "),
        ({"method": "offline"}, "method=offline "),
        ({"completion_source": "interleaved"}, "completion_source=interleaved "),
        ({"completion_source": "accepted"}, "completion_source=accepted "),
        ({"completion_source": "mixture", "mixture_of": "teacher"}, "mixture_of=teacher "),
        ({"teacher_model": "other"}, "teacher_model "),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_takes_more_than_the_likeliest_tokens_is_refused(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    text = mistake(make_config, tmp_path, teacher_server="http://there:8000", **{**TAIL, **settings})
    assert text.startswith(f"{words}does not go with teacher_server, which gives its likeliest tokens")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"divergence_tail": False, "temperature": 0.7},
        {"token_weight": "position"},
        {"completion_source": "mixture"},
        {"vocab_clip": 0.5, "divergence_clip": 2.0},
        {"anchor_share": 0.25, "teacher_home": "host"},
    ],
    ids=str,
)
def test_the_rest_goes_with_it(tmp_path: Path, settings: dict[str, Any]) -> None:
    assert make_config(tmp_path, teacher_server="http://there:8000", **{**TAIL, **settings}).has_other_teacher


@pytest.mark.parametrize(
    "settings",
    [{"teacher": "frozen"}, {"teacher_update_rate": 0.5}, {"teacher_sync_steps": 2}, {"teacher_home": "host"}],
)
def test_settings_of_the_students_own_teacher_would_be_ignored(tmp_path: Path, settings: dict[str, Any]) -> None:
    text = mistake(make_config, tmp_path, teacher_server="http://there:8000", **TAIL, **settings)
    assert text.startswith(f"{next(iter(settings))}=")
    assert "would be ignored" in text


def test_a_step_needs_the_server_that_its_settings_name(tmp_path: Path) -> None:
    config = make_config(tmp_path, teacher_server="http://there:8000", **TAIL)
    with pytest.raises(ValueError, match="give the setting, and the server that it names"):
        Step(student(), byte_tokenizer(), config)


def test_the_estimate_and_the_flops_leave_the_teacher_to_its_server(tmp_path: Path, server: FakeTeacher) -> None:
    trainer = made(tmp_path, teacher_server=server.url, **TAIL)
    pairs = list(trainer.train_dataset)
    shared: dict[str, Any] = {"dtype": "float32", "lora_r": None, "device": torch.device("cpu")}
    check, config = MemoryCheck(trainer.model.config, pairs, **shared), trainer.args
    own = make_config(tmp_path, **TAIL)
    assert check.estimate(config).teacher == 0
    assert check.estimate(own).teacher > 0
    rows = 8 * config.max_completion_length
    assert check.estimate(config).loss - check.estimate(own).loss == rows * (12 * 20 - 4 * 16)
    samples = trainer.step.rollout(pairs, 0)
    (batch,) = trainer.step.micro_batches(samples, 1)
    read = sum(p.numel() for name, p in trainer.model.named_parameters() if "embed" not in name)
    assert trainer.step.flops(batch) == 8 * sum(sample.student_tokens for sample in samples) * read


def test_a_command_trains_with_it(tmp_path: Path, server: FakeTeacher, capsys: pytest.CaptureFixture[str]) -> None:
    model, rows, run = saved(tmp_path / "model"), tmp_path / "rows.jsonl", tmp_path / "run"
    rows.write_text("\n".join(map(json.dumps, ROWS)))
    words = ["train", "--model_name", model, "--dataset_path", str(rows), "--teacher_server", f"{server.url}/v1"]
    words += ["--divergence_support", "top_k", "--divergence_top_k", "20", "--divergence_tail", "--dtype", "float32"]
    words += ["--max_steps", "2", "--max_completion_length", "8", "--per_device_train_batch_size", "2"]
    assert main([*words, "--output_dir", str(run), "--template", "prior_turn", "--lora_r", "2"]) == 0
    assert [line["step"] for line in steps(run)] == [1, 2]
    assert main([*words, "--dry_run", "--template", "question"]) == 0
    capsys.readouterr()
    assert main([*words, "--output_dir", str(run)]) == 2
    assert "and no --teacher_server. Name a template." in " ".join(capsys.readouterr().err.split())
    preflight = ["preflight", *words[1:3], "--teacher_server", server.url]
    assert main(preflight) == 2
    assert "--teacher_server: a preflight measures the student as its own teacher." in capsys.readouterr().err
    server.lives_for = 2  # it answers before the weights are loaded, and once more before the run
    assert main([*words, "--output_dir", str(tmp_path / "dead"), "--template", "prior_turn"]) == 7
    assert "give the same command again to go on from the last" in " ".join(capsys.readouterr().err.split())
