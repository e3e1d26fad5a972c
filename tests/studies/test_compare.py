"""A comparison with a tiny model: its files and record, budgets, the sweep of learning rates, the template."""

import io
import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from selfdistill import run_folder
from selfdistill.commands import compare as command
from selfdistill.method import turns
from selfdistill.method.turns import SIGN, ChatTurns
from selfdistill.models import loading
from selfdistill.models.tokens import MARK, chat_text
from selfdistill.records.studies import BaseRecord, CellRecord, CompareRecord
from selfdistill.studies import compare, runs
from selfdistill.studies.budget import Spent
from selfdistill.studies.compare import Comparison
from selfdistill.studies.measures import Meter
from tests.support.mistakes import mistake
from tests.support.study_home import SHOWN, compare_options, comparison, printed, read, sequences

PLACE = "lr-0.01/seed-0"


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [line for line in run_folder.read_jsonl(folder / run_folder.METRICS) if "loss" in line]


def cells(folder: Path, found: CompareRecord) -> list[CellRecord]:
    places = dict.fromkeys(each.run for each in found.checkpoints)
    return [run_folder.read_record(folder / place / run_folder.CELL, CellRecord) for place in places]


# -- what is left ----------------------------------------------------------------------------------------------------


def test_every_cell_leaves_checkpoints_and_answers(home: Path) -> None:
    shown = printed(lambda console: command.run(compare_options(home, seeds="0,1", **SHOWN), console))
    found = run_folder.read_record(home / "out" / run_folder.COMPARE, CompareRecord)
    assert sorted((each.arm, each.seed, each.step) for each in found.checkpoints) == [
        (arm, seed, step) for arm in ("sdft", "sft") for seed in (0, 1) for step in (2, 4)
    ]
    for each in found.checkpoints:
        assert each.skill.num_total == 6  # a fifth of 30 rows
        assert each.kl_per_token
        assert each.kl_per_token > 0
        assert each.prior == {}
        assert min(each.tokens, each.seconds) > 0
        assert each.chosen
    assert (found.base.kl_per_token, found.base.step, found.budget_amount) == (0, 0, 4)
    assert [(arm.name, arm.distils) for arm in found.arms] == [("sdft", True), ("sft", False)]
    assert {len(pair.seeds) for pair in found.tests} == {2}
    assert {(front.arm, front.seen_from) for front in found.fronts} == {("sdft", "sft"), ("sft", "sdft")}
    assert (home / "out" / "eval-before" / "one.samples.jsonl").is_file()
    assert (home / "out" / "sft" / "lr-0.01" / "seed-1" / "eval" / "drift.json").is_file()
    assert not list((home / "out").rglob("*.safetensors"))
    assert (home / "out" / "report.html").is_file()
    assert "cell 4 of 4: sft, lr 0.01, seed 1" in shown
    assert "Paired tests at the last checkpoint" in shown
    assert f"Does self-distillation keep more at the same skill? {found.verdict}" in " ".join(shown.split())


def test_every_arm_trains_on_the_same_rows_in_the_same_order(home: Path) -> None:
    comparison(home, seeds="0,1", checkpoints=1, **SHOWN).run()
    order = {
        (arm, seed): [
            row["id"] for row in run_folder.read_jsonl(home / f"out/{arm}/lr-0.01/seed-{seed}/rollouts.jsonl")
        ]
        for arm in ("sdft", "sft")
        for seed in (0, 1)
    }
    assert order["sdft", 0] == order["sft", 0]
    assert order["sdft", 1] == order["sft", 1]
    assert order["sdft", 0] != order["sdft", 1]
    assert len(order["sdft", 0]) == 16


def test_the_record_reads_back_as_what_the_run_returned(home: Path) -> None:
    found = comparison(home, **SHOWN).run()
    assert run_folder.read_record(home / "out" / run_folder.COMPARE, CompareRecord) == found


def test_what_is_concluded_is_a_function_of_the_cells_and_their_answers(home: Path) -> None:
    found = comparison(home, methods="sft", arm=("slow: method=sft, learning_rate=1e-5",), seeds="0,1").run()
    measured = run_folder.read_record(home / "out" / run_folder.BASE, BaseRecord).measured
    start = Spent(step=0, tokens=0, seconds=0.0)
    facts: dict[str, Any] = {"dataset": "one", "metric": found.metric, "seeds": [0, 1], "budget": ("steps", 4)}
    facts["base"] = compare.checkpoint(measured, "one", "", start)
    made = cells(home / "out", found)
    assert compare.conclude(home / "out", made, found.arms, **facts) == found
    # another rate chosen: no checkpoint of the arm counts any more
    others = [replace(found.arms[0], learning_rate=0.5), found.arms[1]]
    again = compare.conclude(home / "out", made, others, **facts)
    assert all(each.chosen == (each.arm == "slow") for each in again.checkpoints)
    assert (again.tests, again.equal_skill) == ([], [])
    assert made == cells(home / "out", found)


def test_settings_of_arms_reach_the_trainer(home: Path) -> None:
    arms = ("plain: method=sft", "held: method=sft, anchor_share=0.5, weight_decay=0.1")
    comparison(home, arm=arms, max_steps=1).run()
    config = read(home, "out", "held", PLACE, "run_config.json")
    assert config["settings"]["anchor_share"] == 0.5
    assert config["settings"]["weight_decay"] == 0.1
    assert config["settings"]["lr_scheduler_type"] == "constant_with_warmup"
    assert config["dataset"] == "one"
    assert read(home, "out", "plain", PLACE, "run_config.json")["settings"]["anchor_share"] == 0


def test_rows_are_rendered_once_for_all_arms(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def renders(**arms: Any) -> tuple[int, int]:
        """Uses of the chat template by preparing all arms, and by preparing one of them once more."""
        study = comparison(home, **arms)
        calls: list[Any] = []

        def counted(tokenizer: Any, messages: Any, **options: Any) -> str:
            if SIGN not in str(messages) and MARK not in str(messages):  # which ask what the template shows
                calls.append(messages)
            return chat_text(tokenizer, messages, **options)

        monkeypatch.setattr(turns, "chat_text", counted)
        study.runs.check(study.arms, [study.subject])
        first = len(calls)
        study.runs.prepared(study.arms[-1], study.subject, {"seed": 7})
        return first, len(calls) - first

    assert renders(methods="sft") == (2 * 24, 0)  # each of 24 rows as a prompt, and with its answer
    slow = "slow: method=sft, learning_rate=1e-5"
    assert renders(methods="sft,dft", arm=(slow,)) == (2 * 24, 0)
    one, _ = renders(methods="sft,sdft", **SHOWN)
    assert renders(methods="sft,sdft,dft", arm=("warm: method=sdft, temperature=0.9", slow), **SHOWN) == (one, 0)


def test_models_are_kept_where_wanted_and_lora_trains(home: Path) -> None:
    comparison(home, methods="sft", max_steps=1, save_models=True, lora_r=2).run()
    assert (home / "out" / "sft" / PLACE / "adapter_model.safetensors").is_file()


def test_prior_slices_are_scored_where_they_are(home: Path) -> None:
    (home / "prior").mkdir()
    arc = {"query": "Question: hot?", "choices": ["fire", "ice"], "gold": 0}
    (home / "prior" / "arc_easy.jsonl").write_text((json.dumps(arc) + "\n") * 3)
    found = comparison(home, methods="sft", max_steps=1, prior="auto", data_dir=str(home)).run()
    assert [set(each.prior) for each in (found.base, *found.checkpoints)] == [{"arc_easy"}] * 2
    assert read(home, "out", "eval-before", "prior-quick.json")["num_total"] == 3


def test_every_prompt_is_rendered_with_the_chat_template_kwargs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training, evaluation and drift alike: scores on other prompts than those trained on would mislead."""
    moods: list[Any] = []
    text = ChatTurns.text

    def recorded(self: ChatTurns, messages: Any, variables: Any, **options: Any) -> str:
        moods.append(variables.get("mood"))
        return text(self, messages, variables, **options)

    monkeypatch.setattr(ChatTurns, "text", recorded)
    comparison(home, methods="sft", max_steps=1, checkpoints=1, chat_template_kwargs={"mood": "glad"}).run()
    assert len(moods) > 2 * 24  # more than the training rows
    assert set(moods) == {"glad"}


def test_every_prompt_is_rendered_with_the_chat_template_of_the_study(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[str] = []
    text = ChatTurns.text

    def recorded(self: ChatTurns, *arguments: Any, **options: Any) -> str:
        texts.append(text(self, *arguments, **options))
        return texts[-1]

    monkeypatch.setattr(ChatTurns, "text", recorded)
    (home / "own.jinja").write_text("#{% for m in messages %}{{ m.content }}{% endfor %}")
    comparison(home, methods="sft", max_steps=1, checkpoints=1, chat_template=str(home / "own.jinja")).run()
    assert len(texts) > 2 * 24  # more than the training rows
    assert {text[0] for text in texts} == {"#"}


# -- devices ---------------------------------------------------------------------------------------------------------


def test_every_model_is_loaded_on_the_device_of_the_training_runs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``use_cpu`` on a machine with a GPU, a base model on the GPU could not be compared with the trained ones."""
    load, devices = loading.load_model, list[Any]()
    monkeypatch.setattr(
        loading, "load_model", lambda *a, device=None, **k: devices.append(device) or load(*a, device=device, **k)
    )
    comparison(home, methods="sft", max_steps=1, checkpoints=1, set=("use_cpu=true",)).run()
    sequences(home, "sequence", method="sft", max_steps=1, set=("use_cpu=true",)).run()
    assert len(devices) == 2 + 4  # the base, then each run
    assert set(devices) == {"cpu"}


def test_arms_on_different_devices_are_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = comparison(home, methods="sft,dft")
    monkeypatch.setattr(runs, "require_memory", lambda prepared: None)
    on = {"sft": "cuda:0", "dft": "cpu"}
    monkeypatch.setattr(study.runs, "prepared", lambda arm, *_: SimpleNamespace(device=on[arm.name]))
    said = mistake(study.runs.check, study.arms, [study.subject])
    assert said.startswith("The arms train on different devices: cpu, cuda:0.")


def test_measuring_keeps_the_random_state_and_touches_no_other_device(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork, devices = torch.random.fork_rng, list[Any]()
    monkeypatch.setattr(torch.random, "fork_rng", lambda **k: devices.append(k["devices"]) or fork(**k))
    meter = comparison(home, methods="sft").meter
    before = torch.get_rng_state()
    meter.measure(meter.load_base(), is_base=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert devices == [[]]


# -- looks at the model, and the budget ------------------------------------------------------------------------------


def test_looks_at_the_model_do_not_change_training(home: Path) -> None:
    last = []
    for name, count in (("one", 1), ("four", 4)):
        found = comparison(home, name, checkpoints=count, methods="sdft", **SHOWN).run()
        assert len(found.checkpoints) == count
        last.append(replace(found.checkpoints[-1], seconds=0.0))
    losses = [[line["loss"] for line in metrics(home / name / "sdft" / PLACE)] for name in ("one", "four")]
    assert losses[0] == losses[1]
    assert last[0] == last[1]


def test_bars_of_training_and_scoring_share_a_terminal(home: Path) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=200)
    comparison(home, console=console, max_steps=2, methods="sft").run()
    assert "scoring one" in file.getvalue()
    assert "training" in file.getvalue()


def test_evaluation_is_not_in_the_seconds(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = Meter.measure
    pause = 5.0

    def slow(self: Meter, *arguments: Any, **options: Any) -> Any:
        now = time.perf_counter
        monkeypatch.setattr(time, "perf_counter", lambda: now() + pause)  # as if the look had taken so long
        return measure(self, *arguments, **options)

    monkeypatch.setattr(Meter, "measure", slow)
    found = comparison(home, methods="sft", checkpoints=4).run()
    assert metrics(home / "out/sft" / PLACE)[-1]["wall_seconds"] < pause
    assert found.checkpoints[-1].seconds < pause


def test_budget_in_tokens_ends_every_run_at_the_first_step_that_reaches_it(home: Path) -> None:
    found = comparison(home, budget="tokens", budget_amount=400, methods="sft", max_steps=-1).run()
    half, last = found.checkpoints
    seen = [0, *(row["tokens_seen"] for row in metrics(home / "out/sft" / PLACE))]
    assert seen[-2] < 400 <= seen[-1] == last.tokens
    assert seen[half.step - 1] < 200 <= seen[half.step]
    assert (found.budget, found.budget_amount) == ("tokens", 400)


def test_budget_in_seconds(home: Path) -> None:
    found = comparison(home, budget="seconds", budget_amount=0.2, methods="sft", max_steps=-1, checkpoints=1).run()
    (last,) = found.checkpoints
    assert last.seconds >= 0.2


# -- learning rates --------------------------------------------------------------------------------------------------


def test_rates_are_chosen_on_validation_rows_and_the_sweep_is_shown(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracies = {1e-3: 0.25, 1e-2: 0.75, 1e-1: 0.75}
    rate: list[float] = []
    monkeypatch.setattr(Meter, "accuracy", lambda self, model, test: accuracies[rate[-1]])
    train = Comparison._train
    monkeypatch.setattr(
        Comparison, "_train", lambda self, cell, *rest: rate.append(cell.rate) or train(self, cell, *rest)
    )
    options = compare_options(
        home, methods="sft", learning_rates="1e-3,1e-2,1e-1", seeds="5,6", validation_rows=4, max_steps=1
    )
    shown = printed(lambda console: command.run(options, console))
    found = run_folder.read_record(home / "out" / run_folder.COMPARE, CompareRecord)
    chosen = {(each.learning_rate, each.seed): each.chosen for each in found.checkpoints}
    assert chosen == {(1e-3, 5): False, (1e-2, 5): True, (1e-1, 5): False, (1e-2, 6): True}
    assert found.arms[0].learning_rate == 1e-2
    assert "sft on the validation rows: 0.001 25.0%, 0.01 75.0%, 0.1 75.0%; lr 0.01 is chosen" in shown
    assert "not chosen" in shown
    cell = run_folder.read_record(home / "out/sft/lr-0.01/seed-5" / run_folder.CELL, CellRecord)
    assert cell.num_rows == 20  # 30, less 6 for evaluation, less 4
    assert cell.validation == 0.75


def test_validation_rows_are_the_last_ones_and_trained_on_by_nobody(home: Path) -> None:
    study = comparison(home, validation_rows=5, methods="sft", learning_rates="1e-3,1e-2")
    assert study.validation is not None
    assert [row.id for row in study.validation.examples] == [f"one/train/{n}" for n in range(19, 24)]
    assert [row.id for row in study.subject.train] == [f"one/train/{n}" for n in range(19)]
    assert [row.id for row in study.subject.test.examples] == [f"one/train/{n}" for n in range(24, 30)]
    assert comparison(home, validation_rows=5, methods="sft").validation is None


def test_validation_rows_leave_something_to_train_on(home: Path) -> None:
    said = mistake(comparison, home, methods="sft", learning_rates="1e-3,1e-2", validation_rows=24)
    assert "leaves none of the 24 training rows" in said


# -- the template ----------------------------------------------------------------------------------------------------


def test_one_preflight_settles_the_template_of_all_arms(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(runs, "choose_template", lambda *_: asked.append(1) or ("system", 1))
    arms = ("own: method=sdft, template=prior_turn", "b: method=sdft, temperature=0.9")
    comparison(home, methods="sft,sdft", arm=arms, max_steps=1, seeds="0,1", checkpoints=1).run()
    assert len(asked) == 1
    used = {
        arm: read(home, "out", arm, "lr-0.01", "seed-1", "run_config.json")["settings"]["template"]
        for arm in ("sft", "sdft", "own", "b")
    }
    assert used == {"sft": "paper", "sdft": "system", "own": "prior_turn", "b": "system"}


def test_the_first_arm_that_needs_a_template_gets_one_later(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "choose_template", lambda *_: ("prior_turn", 1))
    comparison(home, methods="sft", max_steps=1, checkpoints=1).run()
    assert read(home, "out", "base.json")["templates"] == {}
    comparison(home, methods="sft,sdft", max_steps=1, checkpoints=1).run()
    base = read(home, "out", "base.json")
    assert base["templates"] == {"one": ["prior_turn", 1]}
    assert base["measured"]["tasks"]["one"]["num_total"] == 6
