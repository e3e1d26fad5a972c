"""``--overwrite`` of ``train`` and ``demo``: all that can be refused is refused before anything is deleted."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from selfdistill import run_folder
from selfdistill.errors import UserError
from selfdistill.training import run as training_run
from tests.support.tiny_home import DEMO, TinyHome, demo, train


def train_into(home: TinyHome, output: str = "out") -> tuple[str, ...]:
    return train("--overwrite", output=output)


Line = Callable[[TinyHome, str], tuple[str, ...]]
both = pytest.mark.parametrize("line", [train_into, demo])


def earlier_run(home: TinyHome, name: str = "out") -> Path:
    """A folder that looks like a run of ours."""
    folder = home.folder / name
    folder.mkdir()
    run_folder.write_json(folder / run_folder.RUN_CONFIG, {"model_name": "M"})
    (folder / "model.safetensors").write_text("weights of an hour")
    return folder


def refused_untouched(home: TinyHome, *argv: str) -> str:
    """The message of a command that must fail, and change nothing."""
    before = home.files()
    said = home.refused(*argv)
    assert home.files() == before
    return said


@both
@pytest.mark.parametrize("output", [".", "..", "./", "sub/.."])
def test_the_working_directory_and_those_above_it_are_not_emptied(home: TinyHome, line: Line, output: str) -> None:
    (home.folder / "my_notes.txt").write_text("mine")
    (home.folder / "sub").mkdir()
    said = refused_untouched(home, *line(home, output))
    assert "--overwrite would delete the working directory" in said
    said = refused_untouched(home, *line(home, str(home.folder)))
    assert "--overwrite would delete the working directory" in said


@both
def test_a_folder_without_a_record_of_ours_is_not_emptied(home: TinyHome, line: Line) -> None:
    (home.folder / "photos").mkdir()
    (home.folder / "photos" / "holiday.txt").write_text("mine")
    assert "photos holds no record of ours" in refused_untouched(home, *line(home, "photos"))


@both
def test_the_home_folder_is_not_emptied(home: TinyHome, line: Line) -> None:
    earlier_run(home, "home")
    assert "--overwrite would delete your home folder" in refused_untouched(home, *line(home, "~"))


@pytest.mark.parametrize("inside", ["M", "rows.jsonl", "c.yaml", "anchors.jsonl", "t.jinja"])
def test_what_training_reads_is_not_deleted(home: TinyHome, inside: str) -> None:
    folder = earlier_run(home)
    home.yaml("c.yaml", learning_rate=1e-3)
    home.rows({"prompt": "Hi"}, name="anchors.jsonl")
    (home.folder / "t.jinja").write_text("{{ question }} {{ demonstration }}")
    shutil.move(home.folder / inside, folder / inside)
    at = {name: name for name in ("M", "rows.jsonl", "c.yaml", "anchors.jsonl", "t.jinja")} | {inside: f"out/{inside}"}
    said = refused_untouched(
        home,
        *train(
            "--overwrite",
            f"--config={at['c.yaml']}",
            "--anchor_share=0.5",
            f"--anchor_data={at['anchors.jsonl']}",
            "--template=file",
            f"--template_file={at['t.jinja']}",
            model=at["M"],
            rows=at["rows.jsonl"],
        ),
    )
    assert f"--overwrite would delete out/{inside}, " in said


def test_the_model_of_the_run_that_is_replaced_is_not_deleted(home: TinyHome) -> None:
    assert home.run(*train()).code == 0
    assert "--overwrite would delete out" in refused_untouched(home, *train("--overwrite", model="out"))


def test_the_base_of_an_adapter_is_not_deleted(home: TinyHome) -> None:
    assert home.run(*train(output="base")).code == 0
    assert home.run(*train("--lora_r=2", model="base", output="adapter")).code == 0
    said = refused_untouched(home, *train("--overwrite", model="adapter", output="base"))
    assert f"--overwrite would delete {home.folder}/base, " in said


def test_the_model_that_reinvoke_distils_from_is_not_deleted(home: TinyHome) -> None:
    assert home.run(*train(output="base")).code == 0
    assert home.run(*train(model="base", output="tuned")).code == 0
    said = refused_untouched(home, *train("--overwrite", "--method=reinvoke", model="tuned", output="base"))
    assert "--overwrite would delete base" in said


def test_nor_is_the_model_that_its_adapter_belongs_to(home: TinyHome) -> None:
    assert home.run(*train(output="base")).code == 0
    assert home.run(*train("--lora_r=2", model="base", output="adapter")).code == 0
    flags = ("--overwrite", "--method=reinvoke", "--base_model=adapter")
    assert f"--overwrite would delete {home.folder}/base, " in refused_untouched(home, *train(*flags, output="base"))


def test_the_tasks_data_are_not_deleted(home: TinyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    (earlier_run(home) / "data").mkdir()
    (home.folder / "out" / "data" / "rows").touch()
    monkeypatch.setenv("SELFDISTILL_DATA", "out/data")
    assert "--overwrite would delete out/data" in refused_untouched(home, *train("--overwrite"))


def test_a_file_beside_another_in_one_name_is_not_deleted(home: TinyHome) -> None:
    folder = earlier_run(home)
    shutil.copy(home.folder / "rows.jsonl", folder / "more.jsonl")
    said = refused_untouched(home, *train("--overwrite", rows="rows.jsonl:out/more.jsonl"))
    assert "out/more.jsonl" in said


def test_what_a_demo_reads_is_not_deleted(home: TinyHome) -> None:
    folder = earlier_run(home)
    line = demo(home)
    shutil.move(home.folder / "demo.yaml", folder / "demo.yaml")
    said = refused_untouched(home, *(part.replace("=demo.yaml", "=out/demo.yaml") for part in line))
    assert "--overwrite would delete out/demo.yaml" in said
    shutil.move(folder / "demo.yaml", home.folder / "demo.yaml")
    shutil.move(home.folder / "M", folder / "M")
    home.yaml("demo.yaml", **DEMO | {"model_name": "out/M"})
    assert "--overwrite would delete out/M" in refused_untouched(home, *line)


# -- mistakes that show late --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "named"),
    [
        ("--set=max_grad_nrm=1", "max_grad_nrm"),
        ("--max_prompt_length=5", "max_prompt_length"),
        ("--set=eval_strategy=steps", "eval_strategy"),
        ("--dtype=float16", "float16"),
    ],
)
def test_a_mistake_in_training_leaves_the_earlier_run(home: TinyHome, flag: str, named: str) -> None:
    earlier_run(home)
    assert named in refused_untouched(home, *train("--overwrite", flag))


@both
def test_a_model_that_does_not_load_leaves_the_earlier_run(home: TinyHome, line: Line) -> None:
    earlier_run(home)
    (home.folder / "M" / "model.safetensors").write_bytes(b"half")
    assert "Can't load --model_name M" in refused_untouched(home, *line(home, "out"))


@both
def test_too_little_memory_leaves_the_earlier_run(home: TinyHome, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier_run(home)
    monkeypatch.setattr("selfdistill.method.memory.available", lambda device: 1000)
    assert "--skip_memory_check" in refused_untouched(home, *line(home, "out"))


def no_use(*_: object, **__: object) -> None:
    raise UserError("preflight: nothing to teach here")


def test_a_preflight_that_refuses_leaves_the_earlier_run(home: TinyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier_run(home)
    monkeypatch.setattr(training_run, "choose_template", no_use)
    assert "nothing to teach" in refused_untouched(home, *train("--template=auto", "--overwrite"))
    line = demo(home, method="sdft", template="auto")
    assert "nothing to teach" in refused_untouched(home, *line)


def test_an_engine_that_does_not_fit_leaves_the_earlier_run(home: TinyHome) -> None:
    earlier_run(home)
    home.model(model_type="gemma2")  # which our decoding loop does not know
    assert "rollout_engine own" in refused_untouched(home, *train("--rollout_engine=own", "--overwrite"))
    line = demo(home, method="sdft", template="prior_turn", rollout_engine="own")
    assert "rollout_engine own" in refused_untouched(home, *line)


# -- a run that is replaced ---------------------------------------------------------------------------------------


def test_nothing_of_the_earlier_run_stays(home: TinyHome) -> None:
    folder = earlier_run(home)
    (folder / "checkpoint-7").mkdir()
    (folder / "checkpoint-7" / "weights").touch()
    assert home.run(*train("--overwrite")).code == 0
    assert not (folder / "checkpoint-7").exists()
    assert (folder / "model.safetensors").stat().st_size > 1000
    assert home.read("out/run_config.json")["num_training_rows"] == 3
    assert len(home.lines("out/rollouts.jsonl")) == 3


def test_a_link_to_a_run_is_emptied_and_stays_a_link(home: TinyHome) -> None:
    folder = earlier_run(home, "real")
    outside = home.folder / "elsewhere"
    outside.mkdir()
    (outside / "mine.txt").touch()
    (folder / "link").symlink_to(outside)
    (home.folder / "out").symlink_to(folder)
    (folder / "checkpoint-7").mkdir()
    assert home.run(*train("--overwrite")).code == 0
    assert (home.folder / "out").is_symlink()
    assert not (folder / "checkpoint-7").exists()
    assert not (folder / "link").exists()
    assert (outside / "mine.txt").exists()


def test_overwriting_what_is_not_there_is_no_mistake(home: TinyHome) -> None:
    assert home.run(*train("--overwrite")).code == 0
