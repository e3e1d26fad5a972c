"""``selfdistill demo`` on a tiny model: what it does, in which order, and what it leaves."""

from collections.abc import Callable
from typing import Any

import pytest

from selfdistill.commands import demo as demo_command
from selfdistill.evaluate import results, task_rows
from selfdistill.method.trainer import SDFTTrainer
from selfdistill.tasks import assistant_tools
from selfdistill.training import demo_size, duration
from selfdistill.training import run as training_run
from selfdistill.training.demo_size import Size
from selfdistill.types import EvalConfig, EvalResult, Example, ScoredSample
from tests.support.study_home import printed
from tests.support.tiny_home import DEMO, TinyHome, demo


def test_it_scores_trains_scores_again_and_reports(home: TinyHome) -> None:
    said = home.run(*demo(home))
    assert said.code == 0
    for name in ("eval-before", "eval"):
        assert home.read(f"out/{name}/assistant-tools.json")["num_total"] == 2
        assert len(home.lines(f"out/{name}/assistant-tools.samples.jsonl")) == 2
    for name in ("model.safetensors", "run_config.json", "metrics.jsonl", "report.html", "results.json"):
        assert (home.folder / "out" / name).is_file()
    drift = home.read("out/eval/drift.json")
    assert (drift["num_prompts"], len(home.lines("out/eval/drift.samples.jsonl"))) == (2, 2)
    for words in ("before [95% interval]", "after [95% interval]", "before: ", "after:  ", "Open out/report.html"):
        assert words in said.out
    (row,) = [line for line in said.out.splitlines() if "KL, nats per token" in line]
    assert row.split()[-4:-1] == ["0", "│", f"{drift['kl_per_token']:.3f}"]
    assert "the same rows by supervised fine-tuning" not in said.out  # these are not the demo's own settings


def test_without_drift_prompts_no_drift_is_measured(home: TinyHome) -> None:
    said = home.run(*demo(home), "--drift_prompts=0")
    assert said.code == 0
    assert "KL, nats per token" not in said.out
    assert not (home.folder / "out" / "eval" / "drift.json").exists()


def test_against_sft_one_report_compares_both(home: TinyHome) -> None:
    said = home.run(*demo(home, method="sdft", template="prior_turn"), "--against=sft", "--max_steps=3")
    assert said.code == 0
    assert "Does self-distillation keep more at the same skill?" in said.out
    assert (home.folder / "out" / "report.html").is_file()
    arms = {arm["name"]: arm for arm in home.read("out/compare.json")["arms"]}
    assert arms["sdft"]["settings"] == {"method": "sdft"}
    assert arms["sft"]["settings"] == {
        "method": "sft",
        "learning_rate": 6e-5,
        "anchor_share": 0.25,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 2,
    }
    steps = {(each["arm"], each["step"]) for each in home.read("out/compare.json")["checkpoints"]}
    assert steps == {(arm, step) for arm in arms for step in (1, 2, 3)}


def test_a_comparison_is_not_made_smaller(home: TinyHome) -> None:
    said = home.refused("demo", "--against=sft", "--minutes=3", "--output_dir=out")
    assert said.startswith("--minutes 3: a comparison takes what it takes.")


def test_a_method_is_not_compared_with_itself(home: TinyHome) -> None:
    said = home.refused(*demo(home), "--against=sft")
    assert said == "--against sft: demo.yaml trains by sft itself. Leave --config out, or name another."


@pytest.mark.parametrize(
    ("score", "said"), [(1.0, "(right)"), (0.0, "(wrong)"), (0.5, "(0.50)"), (None, "(not scored)")]
)
def test_a_sample_says_how_it_was_scored(score: float | None, said: str) -> None:
    sample = ScoredSample(
        example=Example(id="a", prompt=({"role": "user", "content": "Why?"},)),
        completion="So.",
        num_tokens=2,
        finish_reason="stop",
        scores={"m": score},
    )
    config = EvalConfig(task="toy", revision="1", metric="m", num_rows=1, prompt="chat")
    result = EvalResult(samples=(sample,), config=config)
    shown = printed(lambda console: demo_command._show_samples(result, result, console))
    assert said in shown
    assert "Why?" in shown


def test_it_says_beforehand_how_long_it_takes_here(home: TinyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows are scored and two general prompts answered, twice each; one step is taken."""
    asked: list[int] = []

    def measured(model: Any, sequences: Any) -> duration.Speed:
        asked.extend(sequences)
        return duration.Speed(0.0, dict.fromkeys(sequences, 1.0))

    monkeypatch.setattr(duration, "measured", measured)
    monkeypatch.setattr(duration, "machine", lambda device: f"an abacus, {device}")
    said = home.run(*demo(home)).out
    assert asked == [2]
    assert "This takes about 4 minutes on this machine (an abacus, cpu)." in said  # 2 x 48 and 2 x 64 steps
    assert said.index("This takes about") < said.index("Scoring M on 2 evaluation rows")


FLAGS = ("--config=demo.yaml", "--output_dir=out", "--drift_prompts=0")


def a_second_a_row(monkeypatch: pytest.MonkeyPatch, *, units: bool) -> None:
    """A machine that scores a row in a second and takes eight for a step."""
    work = duration.Work
    monkeypatch.setattr(duration, "has_bf16_units", lambda device: units)
    monkeypatch.setattr(duration, "scoring_work", lambda prepared, num_rows, most: work(num_rows, {}))
    monkeypatch.setattr(duration, "training_work", lambda prepared: work(8 * prepared.config.max_steps, {}))
    monkeypatch.setattr(duration, "measured", lambda model, sequences: duration.Speed(1 / duration.PADDED, {}))


@pytest.mark.parametrize(
    ("flags", "rows", "steps"),
    [
        (("--minutes=16",), 400, 16),  # 2 x 400 + 128 s
        (("--minutes=15",), 200, 16),
        (("--minutes=7",), 100, 16),  # 2 x 100 + 128 s
        ((), 100, 16),
        (("--minutes=5.4",), 100, 12),
        (("--minutes=4.7",), 100, 8),
        (("--minutes=1",), 100, 4),  # the smallest, however long it takes
        (("--minutes=1", "--max_steps=20"), 100, 20),
        (("--minutes=1", "--limit=300"), 300, 4),
    ],
)
def test_on_a_slow_machine_it_does_less_and_says_so(
    home: TinyHome, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], rows: int, steps: int
) -> None:
    a_second_a_row(monkeypatch, units=True)
    sizes: list[Size] = []
    whole = demo_size.demo_size
    monkeypatch.setattr(demo_size, "demo_size", lambda *given: sizes.append(whole(*given)) or 1 / 0)
    home.yaml("demo.yaml", **DEMO | {"max_steps": 16})
    with pytest.raises(ZeroDivisionError):  # after which it would train
        home.run("demo", *FLAGS, *flags)
    (size,) = sizes
    assert (size.rows, size.steps) == (rows, steps)
    assert (f"{rows} of 400 evaluation rows" in size.said) == (rows < 300)
    assert (f"{steps} of 16 steps" in size.said) == (steps < 16)


def test_without_bf16_units_it_may_take_twice_as_long(home: TinyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    a_second_a_row(monkeypatch, units=False)
    said: list[str] = []
    whole = demo_size.demo_size
    monkeypatch.setattr(demo_size, "demo_size", lambda *given: said.append(whole(*given).said) or 1 / 0)
    home.yaml("demo.yaml", **DEMO | {"max_steps": 16})
    with pytest.raises(ZeroDivisionError):
        home.run("demo", *FLAGS)
    (text,) = said
    assert text.startswith("This takes about 9 minutes on this machine (no bf16 units, ")
    assert text.endswith("It takes 200 of 400 evaluation rows: all would take about 15 minutes (--minutes N).")


def test_what_was_left_out_is_neither_scored_nor_trained(home: TinyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest size: a quarter of the four rows and of the four steps."""
    monkeypatch.setattr(demo_size, "SHARES", ((0.25, 0.25),))
    rows_of = assistant_tools.evaluation_rows
    monkeypatch.setattr(assistant_tools, "evaluation_rows", lambda: rows_of()[:4])
    home.yaml("demo.yaml", **DEMO | {"max_steps": 4})
    said = home.run("demo", *FLAGS)
    assert said.code == 0
    assert "It takes 1 of 4 evaluation rows and 1 of 4 steps: " in said.out
    assert home.read("out/eval/assistant-tools.json")["num_total"] == 1
    assert home.read("out/run_config.json")["settings"]["max_steps"] == 1


@pytest.mark.parametrize(("more", "steps"), [((), 1), (("--max_steps=3",), 3)])
def test_the_number_of_steps_may_be_given(
    home: TinyHome, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], steps: int
) -> None:
    taken: list[int] = []
    monkeypatch.setattr(
        demo_size, "demo_size", lambda _, prepared, *rest: taken.append(prepared.config.max_steps) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):  # after which it would train
        home.run(*demo(home), *more)
    assert taken == [steps]


def test_a_demo_without_rows_to_score_is_refused_before_anything_is_loaded(home: TinyHome) -> None:
    assert "limit: 0 is not at least 1." in home.refused("demo", "--limit=0")
    assert not (home.folder / "runs").exists()


def noted(name: str, inner: Callable[..., Any], done: list[str]) -> Callable[..., Any]:
    """``inner``, which says in ``done`` that it was called."""

    def call(*given: Any, **named: Any) -> Any:
        done.append(name)
        return inner(*given, **named)

    return call


def test_nothing_is_emptied_before_all_is_made_and_nothing_trained_before_it_is_scored(
    home: TinyHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    watched = (
        (training_run, "check_overwrite"),
        (training_run, "load_student"),
        (training_run, "settled"),
        (training_run, "make_trainer"),
        (training_run, "empty_folder"),
        (task_rows, "score_rows"),
        (results, "write_evaluation"),
        (SDFTTrainer, "train"),
        (SDFTTrainer, "save_model"),
    )
    for owner, name in watched:
        monkeypatch.setattr(owner, name, noted(name, getattr(owner, name), done))
    assert home.run(*demo(home)).code == 0
    assert done == [
        "check_overwrite",
        "load_student",
        "settled",
        "make_trainer",
        "empty_folder",
        "score_rows",
        "write_evaluation",
        "train",
        "save_model",
        "score_rows",
        "write_evaluation",
    ]
