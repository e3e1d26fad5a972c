"""``selfdistill train`` in a folder that holds a run: it goes on with it, or says what differs."""

import json

import pytest

from selfdistill.checkpoints import space
from selfdistill.checkpoints.lock import locked
from selfdistill.training import run as training_run
from tests.support.killed import records, stopped
from tests.support.tiny_home import TinyHome, train

LONG = ("--max_steps=4", "--learning_rate=1e-2")


@pytest.mark.parametrize("flags", [(), ("--resume",)], ids=["same-command", "resume"])
@pytest.mark.parametrize("more", [(), ("--lora_r=2", "--seed=3")], ids=["whole", "lora"])
@pytest.mark.parametrize("step", [0, 1, 2, 4])
def test_a_killed_run_goes_on(
    home: TinyHome, monkeypatch: pytest.MonkeyPatch, step: int, more: tuple[str, ...], flags: tuple[str, ...]
) -> None:
    """Checkpoints are of steps 2 and 4; killed before the first one, the run starts again."""
    line = (*LONG, "--save_steps=2", *more)
    assert home.run(*train(*line, output="whole")).code == 0
    stopped(home, monkeypatch, step, *train(*line, output="cut"))
    if step == 0 and flags:
        assert "--resume: cut holds no run to go on with." in home.refused(*train(*line, *flags, output="cut"))
        flags = ()
    said = home.run(*train(*line, *flags, output="cut"))
    assert (said.code, said.err) == (0, "")
    assert ("Going on with the run in cut." in said.out) == (step == 4)
    assert records(home, "cut") == records(home, "whole")
    assert not list((home.folder / "cut").glob("earlier-*"))


@pytest.mark.parametrize("flags", [(), ("--resume",)], ids=["same-command", "resume"])
@pytest.mark.parametrize("saves", [(), ("--save_steps=1",)], ids=["no-checkpoint", "checkpoints"])
def test_a_finished_run_is_left_as_it_is(home: TinyHome, saves: tuple[str, ...], flags: tuple[str, ...]) -> None:
    assert home.run(*train(*saves)).code == 0
    before = home.files()
    said = home.run(*train(*saves, *flags))
    assert said.code == 0
    assert "The run in out is finished. Nothing is left to train.\n" in said.out
    assert home.files() == before


def test_what_a_crash_left_of_the_last_save_is_cleared_away(home: TinyHome) -> None:
    assert home.run(*train()).code == 0
    before = home.files()
    (home.folder / "out" / ".staging-model").mkdir()
    (home.folder / "out" / ".staging-model" / "half").touch()
    assert home.run(*train()).code == 0
    assert home.files() == before
    assert not (home.folder / "out" / ".staging-model").exists()


def test_a_run_that_was_killed_as_its_model_was_saved_saves_it(home: TinyHome) -> None:
    line = train("--save_steps=1")
    assert home.run(*line).code == 0
    before = records(home, "out")
    (home.folder / "out" / "manifest.json").unlink()
    (home.folder / "out" / "model.safetensors").write_bytes(b"half")
    assert home.run(*line).code == 0
    assert records(home, "out") == before
    assert (home.folder / "out" / "manifest.json").is_file()


def test_a_damaged_checkpoint_is_told_of(home: TinyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    line = (*LONG, "--save_steps=1")
    assert home.run(*train(*line, output="whole")).code == 0
    stopped(home, monkeypatch, 4, *train(*line, output="cut"))
    (home.folder / "cut" / "checkpoint-3" / "state" / "optimizer.safetensors").unlink()
    said = home.run(*train(*line, output="cut"))
    assert said.code == 0
    text = "Warning: checkpoint-3: state/optimizer.safetensors is missing. The run goes on from checkpoint-2."
    assert text in said.out
    assert records(home, "cut") == records(home, "whole")


def test_the_template_that_was_chosen_stays(home: TinyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    """The preflight is not run again, and could choose another one by now."""
    line = ("--template=auto", "--max_steps=3", "--save_steps=1")
    assert home.run(*train(*line, output="whole")).code == 0
    stopped(home, monkeypatch, 2, *train(*line, output="cut"))
    chosen = home.read("cut/run_config.json")["settings"]["template"]
    monkeypatch.setattr(training_run, "choose_template", None)
    said = home.run(*train(*line, output="cut"))
    assert said.code == 0
    assert "Preflight" not in said.out
    assert home.read("cut/run_config.json")["settings"]["template"] == chosen
    assert records(home, "cut") == records(home, "whole")


@pytest.mark.parametrize(
    ("flag", "named"),
    [
        ("--seed=7", "seed 42, now 7"),
        ("--max_steps=5", "max_steps 2, now 5"),
        ("--limit=2", "training rows 3 ("),
        ("--template=few_shot", "template 'prior_turn', now 'few_shot'"),
        ("--per_device_train_batch_size=3", "per_device_train_batch_size 1, now 3"),
        ("--method=sft", "method 'sdft', now 'sft'"),
        ("--set=adam_beta2=0.9", "adam_beta2 0.999, now 0.9"),
    ],
)
@pytest.mark.parametrize("saves", [(), ("--save_steps=1",)], ids=["no-checkpoint", "checkpoints"])
def test_what_differs_is_named_before_the_model_is_loaded(
    home: TinyHome, monkeypatch: pytest.MonkeyPatch, saves: tuple[str, ...], flag: str, named: str
) -> None:
    stopped(home, monkeypatch, 2, *train(*saves))
    before = home.files()
    monkeypatch.setattr(training_run, "load_student", None)
    said = home.refused(*train(*saves, flag))
    assert said.startswith("out holds a run with ")
    assert named in said
    assert home.files() == before


def test_other_rows_and_another_model_are_named(home: TinyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(home, monkeypatch, 2, *train("--save_steps=1"))
    home.rows(*({"prompt": f"What is {n}+1?", "demonstration": str(n)} for n in range(3)))
    assert "training rows 3 (" in home.refused(*train("--save_steps=1"))
    home.rows(*({"prompt": f"What is {n}+1?", "demonstration": str(n + 1)} for n in range(3)))
    home.model("N", rope_theta=500.0)
    assert "model_name 'M', now 'N'" in home.refused(*train("--save_steps=1", model="N"))
    home.model("M", rope_theta=500.0)
    assert "checkpoint-1 was made with model config " in home.refused(*train("--save_steps=1"))


def test_changes_can_be_allowed(home: TinyHome) -> None:
    assert home.run(*train("--save_steps=1")).code == 0
    said = home.run(*train("--save_steps=1", "--max_steps=3", "--allow_changes"))
    assert said.code == 0
    assert "Warning: max_steps was 2 until step 2, from now on it is 3." in said.out
    assert [line["step"] for line in home.lines("out/metrics.jsonl") if "loss" in line] == [1, 2, 3]
    assert home.read("out/run_config.json")["settings"]["max_steps"] == 3


# -- a folder in use, a disk that is full ------------------------------------------------------------------------------


def test_a_folder_that_another_command_uses_is_refused_at_once(home: TinyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(home.folder / "out"):
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        for flags in ((), ("--overwrite",)):
            said = home.refused(*train(*flags))
            assert said == (
                "--output_dir out: another command is using it. Wait until it has finished, or name another folder."
            )
    finally:
        done.set()
        thread.join()
    assert home.run(*train()).code == 0


def test_a_model_that_would_not_fit_is_refused_before_training(home: TinyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    assert home.run(*train()).code == 0
    size = (home.folder / "out" / "model.safetensors").stat().st_size
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    said = home.refused(*train(output="new"), code=5)
    assert said.startswith("The trained model takes ")
    assert said.endswith("but new has 1.0 kB free. Free some, or name another --output_dir.")
    assert abs(float(said.split()[4]) * 1000 - size) < 4000
    assert not (home.folder / "new" / "metrics.jsonl").exists()


def test_no_pickle_is_written(home: TinyHome) -> None:
    assert home.run(*train("--save_steps=1", "--set=hub_token=secret")).code == 0
    for path, content in home.files().items():
        if path.startswith("out/"):
            assert not path.endswith((".bin", ".pt", ".pth", ".pkl"))
            assert b"secret" not in content
            assert content[:2] != b"PK"
            if path.endswith(".json"):
                json.loads(content)


def test_a_demo_wants_a_folder_of_its_own(home: TinyHome) -> None:
    assert home.run(*train()).code == 0
    assert "--output_dir out is not empty" in home.refused("demo", "--output_dir=out")
