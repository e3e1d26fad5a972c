"""``selfdistill compare`` with a tiny model: files, budgets, the sweep, going on, what is refused."""

import io
import json
import time
from pathlib import Path

import pytest
from rich.console import Console
from study_home import make_home, printed, read, settings

from selfdistill import run_folder
from selfdistill.commands import compare, preflight, report
from selfdistill.commands.compare import Comparison
from selfdistill.settings.study import CompareOptions
from selfdistill.studies.folder import first_rows
from selfdistill.studies.measures import Measures
from selfdistill.types import Example, UserError


@pytest.fixture
def home(tmp_path, tiny_model, tokenizer) -> Path:
    model = tiny_model(vocab_size=len(tokenizer), max_position_embeddings=512)
    return make_home(tmp_path, model, tokenizer)


@pytest.fixture
def study(home, monkeypatch):
    """Runs the command, the report left out unless asked for; returns what it printed."""
    write = report.run

    def run(name="out", *, with_report=False, **options):
        monkeypatch.setattr(report, "run", write if with_report else lambda *_: None)
        data = {"dataset_path": str(home / "one.jsonl"), "seeds": "0", "max_steps": 4, "checkpoints": 2}
        return printed(compare.run, CompareOptions(**{**settings(home, name), **data, **options}))

    return run


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in run_folder.read_jsonl(folder / run_folder.METRICS) if "loss" in line]


def test_files_entries_and_the_same_rows_in_the_same_order(study, home):
    shown = study(seeds="0,1", with_report=True)
    found = read(home, "out", "compare.json")
    assert sorted((e["method"], e["seed"], e["step"]) for e in found["entries"]) == [
        (method, seed, step) for method in ("sdft", "sft") for seed in (0, 1) for step in (2, 4)
    ]
    for entry in found["entries"]:
        assert entry["new_task"]["num_total"] == 6  # a fifth of 30 rows
        assert entry["drift"]["kl_per_token"] > 0
        assert entry["prior"] == {}
        assert entry["tokens"] > 0
        assert entry["wall_s"] > 0
        assert entry["chosen"]
    assert found["base"]["drift"]["kl_per_token"] == 0
    assert {len(pair["seeds"]) for pair in found["tests"]} == {2}
    order = {
        (method, seed): [
            row["id"] for row in run_folder.read_jsonl(home / f"out/{method}/lr-0.01/seed-{seed}" / run_folder.ROLLOUTS)
        ]
        for method in ("sdft", "sft")
        for seed in (0, 1)
    }
    assert order["sdft", 0] == order["sft", 0]
    assert order["sdft", 1] == order["sft", 1]
    assert order["sdft", 0] != order["sdft", 1]
    assert len(order["sdft", 0]) == 16
    assert (home / "out" / "eval-before" / "one.samples.jsonl").is_file()
    assert (home / "out" / "sft" / "lr-0.01" / "seed-1" / "eval" / "drift.json").is_file()
    assert not list((home / "out").rglob("*.safetensors"))
    assert (home / "out" / "report.html").is_file()
    assert "cell 4 of 4: sft, lr 0.01, seed 1" in shown
    assert "Paired tests at the last checkpoint" in shown


def test_looks_at_the_model_do_not_change_training(study, home):
    study("one", checkpoints=1, methods="sdft")
    study("four", checkpoints=4, methods="sdft")
    place = "sdft/lr-0.01/seed-0"
    assert losses(home / "one" / place) == losses(home / "four" / place)
    assert len(read(home, "four", place, "cell.json")["entries"]) == 4
    last = [read(home, name, place, "cell.json")["entries"][-1] for name in ("one", "four")]
    assert [entry.pop("wall_s") > 0 for entry in last] == [True, True]
    assert last[0] == last[1]


def test_bars_of_training_and_scoring_share_a_terminal(home):
    data = {"dataset_path": str(home / "one.jsonl"), "seeds": "0", "max_steps": 2, "methods": "sft"}
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    compare.run(CompareOptions(**{**settings(home, "out"), **data}), console)
    assert "scoring one" in console.file.getvalue()
    assert "training" in console.file.getvalue()


def test_evaluation_is_not_in_the_seconds(study, home, monkeypatch):
    measure = Measures.measure

    def slow(self, model, **options):
        time.sleep(0.5)
        return measure(self, model, **options)

    monkeypatch.setattr(Measures, "measure", slow)
    study(methods="sft", checkpoints=4)
    lines = [line for line in run_folder.read_jsonl(home / "out/sft/lr-0.01/seed-0/metrics.jsonl") if "loss" in line]
    entries = read(home, "out", "compare.json")["entries"]
    assert lines[-1]["wall_seconds"] < 1.0  # four looks take two seconds
    assert entries[-1]["wall_s"] < 1.0


def test_budget_in_tokens_ends_every_run_at_the_first_step_that_reaches_it(study, home):
    study(budget="tokens", budget_amount=400, methods="sft", max_steps=-1)
    entries = read(home, "out", "compare.json")["entries"]
    assert len(entries) == 2
    lines = [row for row in run_folder.read_jsonl(home / "out/sft/lr-0.01/seed-0/metrics.jsonl") if "loss" in row]
    seen = [0, *(row["tokens_seen"] for row in lines)]
    assert seen[-2] < 400 <= seen[-1] == entries[-1]["tokens"]
    half = entries[0]["step"]
    assert seen[half - 1] < 200 <= seen[half]


def test_budget_in_seconds(study, home):
    study(budget="seconds", budget_amount=0.2, methods="sft", max_steps=-1, checkpoints=1)
    (entry,) = read(home, "out", "compare.json")["entries"]
    assert entry["wall_s"] >= 0.2


def test_settings_of_arms_reach_the_trainer(study, home):
    study(methods="", arm=("plain: method=sft", "held: method=sft, anchor_share=0.5, weight_decay=0.1"), max_steps=1)
    config = read(home, "out", "held", "lr-0.01", "seed-0", "run_config.json")
    assert config["settings"]["anchor_share"] == 0.5
    assert config["settings"]["weight_decay"] == 0.1
    assert config["settings"]["lr_scheduler_type"] == "constant_with_warmup"
    assert config["dataset"] == "one"
    assert read(home, "out", "plain", "lr-0.01", "seed-0", "run_config.json")["settings"]["anchor_share"] == 0


def test_finished_cells_are_not_run_again_and_half_finished_ones_are(study, home, monkeypatch):
    train = Comparison._train
    runs = []

    def breaks(self, cell):
        runs.append(cell.title)
        if len(runs) == 2:
            raise KeyboardInterrupt
        return train(self, cell)

    monkeypatch.setattr(Comparison, "_train", breaks)
    with pytest.raises(KeyboardInterrupt):
        study()
    half = home / "out" / "sft" / "lr-0.01" / "seed-0"
    half.mkdir(parents=True)
    (half / "rest").touch()
    monkeypatch.setattr(Comparison, "_train", lambda self, cell: runs.append(cell.title) or train(self, cell))
    shown = study()
    assert runs == ["sdft, lr 0.01, seed 0", "sft, lr 0.01, seed 0", "sft, lr 0.01, seed 0"]
    assert "cell 1 of 2: sdft, lr 0.01, seed 0: done before" in shown
    assert not (half / "rest").exists()
    first = read(home, "out", "compare.json")
    study()
    assert len(runs) == 3
    assert read(home, "out", "compare.json") == first


def test_a_study_grows_by_arms_seeds_and_rates(study, home, monkeypatch):
    trained = []
    train = Comparison._train
    monkeypatch.setattr(Comparison, "_train", lambda self, cell: trained.append(cell.place) or train(self, cell))
    options = {"max_steps": 1, "checkpoints": 1, "validation_rows": 4, "template": "prior_turn"}
    study(methods="sft", arm=("slow: method=sft",), learning_rates="sft:1e-3,2e-3;slow:1e-4", **options)
    trained.clear()
    grown = "sft:1e-3,2e-3,3e-3;slow:1e-4,1e-5"
    study(methods="sft,sdft", arm=("slow: method=sft",), learning_rates=grown, **options)
    assert trained == [
        f"{name}/seed-0" for name in ("sft/lr-0.003", "sdft/lr-0.01", "slow/lr-0.0001", "slow/lr-1e-05")
    ]  # slow's first rate once more: it has no validation score
    trained.clear()
    study(methods="sft", seeds="0,1", learning_rates="2e-3,1e-3", **options)  # and shrinks
    assert [Path(place).name for place in trained] == ["seed-1"]
    assert {entry["method"] for entry in read(home, "out", "compare.json")["entries"]} == {"sft"}
    with pytest.raises(UserError, match="another arm slow"):  # though the study before this one had it not
        study(methods=None, arm=("slow: method=dft",), learning_rates="2e-3,1e-3", **options)


def test_rates_are_chosen_on_validation_rows_and_the_sweep_is_shown(study, home, monkeypatch):
    accuracies = {1e-3: 0.25, 1e-2: 0.75, 1e-1: 0.75}
    monkeypatch.setattr(Measures, "accuracy", lambda self, model, test: accuracies[rate.pop()])
    rate = []
    train = Comparison._train
    monkeypatch.setattr(Comparison, "_train", lambda self, cell: rate.append(cell.rate) or train(self, cell))
    shown = study(methods="sft", learning_rates="1e-3,1e-2,1e-1", seeds="5,6", validation_rows=4, max_steps=1)
    found = read(home, "out", "compare.json")
    cells = {(e["learning_rate"], e["seed"]): e["chosen"] for e in found["entries"]}
    assert cells == {(1e-3, 5): False, (1e-2, 5): True, (1e-1, 5): False, (1e-2, 6): True}
    assert found["arms"][0]["learning_rate"] == 1e-2
    assert "sft on the validation rows: 0.001 25.0%, 0.01 75.0%, 0.1 75.0%; lr 0.01 is taken" in shown
    assert "not chosen" in shown
    record = read(home, "out", "sft", "lr-0.01", "seed-5", "cell.json")
    assert record["num_rows"] == 20  # 30, less 6 for evaluation, less 4
    assert record["validation"] == {"accuracy": 0.75, "num_rows": 4}


def test_validation_rows_are_the_last_ones_and_trained_on_by_nobody(home):
    data = {"dataset_path": str(home / "one.jsonl"), "seeds": "0", "validation_rows": 5}
    options = CompareOptions(**{**settings(home, "out"), **data, "methods": "sft", "learning_rates": "1e-3,1e-2"})
    comparison = Comparison(options, Console(quiet=True))
    assert [row.id for row in comparison.validation.examples] == [f"one/train/{n}" for n in range(19, 24)]
    assert [row.id for row in comparison.subject.train] == [f"one/train/{n}" for n in range(19)]
    assert [row.id for row in comparison.subject.test.examples] == [f"one/train/{n}" for n in range(24, 30)]
    options.learning_rates = None
    assert Comparison(options, Console(quiet=True)).validation is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": 2}, "another max_steps: 1, now 2"),
        ({"arm": ("a: method=dft, weight_decay=0.1",)}, 'another arm a: {"method": "dft"}, now'),
        ({"limit": 20}, "another limit: null, now 20"),
    ],
)
def test_other_settings_are_refused_by_name(study, home, options, message):
    study(methods="sft", max_steps=1, arm=("a: method=dft",))
    with pytest.raises(UserError, match="holds a study with") as error:
        study(**{"methods": "sft", "max_steps": 1, "arm": ("a: method=dft",), **options})
    assert message in str(error.value)
    assert len(str(error.value).split()) <= 40


def test_other_rows_are_refused(study, home):
    study(methods="sft", max_steps=1)
    with (home / "one.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "new?", "demonstration": "new"}) + "\n")
    with pytest.raises(UserError, match="another training rows"):
        study(methods="sft", max_steps=1)


def test_an_edited_scorer_is_refused(study, home):
    scorer = home / "own.py"
    scorer.write_text("def right(completion, example):\n    return 1.0\n")
    study(methods="sft", max_steps=1, scorer=f"{scorer}:right")
    scorer.write_text("def right(completion, example):\n    return 0.0\n")
    with pytest.raises(UserError, match="another scorer of one"):
        study(methods="sft,dft", max_steps=1, scorer=f"{scorer}:right")


def test_a_study_gone_on_with_keeps_the_versions_it_began_with(study, home, monkeypatch):
    study(methods="sft", max_steps=1)
    began = read(home, "out", "study.json")["versions"]
    monkeypatch.setattr(run_folder, "versions", lambda: {"torch": "another"})
    study(methods="sft,dft", max_steps=1)
    assert read(home, "out", "study.json")["versions"] == began


def test_limited_evaluation_rows_are_the_first_of_every_part():
    rows = [Example(id=f"{part}{n}", prompt=(), part=part) for part, size in (("a", 4), ("b", 2)) for n in range(size)]
    assert [row.id for row in first_rows(rows, 3)] == ["a0", "a1", "b0"]
    assert first_rows(rows, None) == rows
    assert [row.id for row in first_rows(rows[:4], 2)] == ["a0", "a1"]


def test_overwrite_starts_anew_and_a_strange_folder_is_left_alone(study, home):
    study(methods="sft", max_steps=1)
    study(methods="sft", max_steps=2, overwrite=True)
    assert read(home, "out", "compare.json")["entries"][-1]["step"] == 2
    (home / "mine").mkdir()
    (home / "mine" / "thesis.txt").touch()
    with pytest.raises(UserError, match="is not empty and holds no compare"):
        study("mine")
    with pytest.raises(UserError, match="unheard_of"):  # what the trainer refuses is refused before anything is deleted
        study(methods="sft", max_steps=1, overwrite=True, set=("optim=unheard_of",))
    assert (home / "out" / "compare.json").is_file()


def test_prior_slices_are_scored_where_they_are(study, home):
    (home / "prior").mkdir()
    arc = {"query": "Question: hot?", "choices": ["fire", "ice"], "gold": 0}
    (home / "prior" / "arc_easy.jsonl").write_text((json.dumps(arc) + "\n") * 3)
    study(methods="sft", max_steps=1, prior="auto", data_dir=str(home))
    found = read(home, "out", "compare.json")
    assert [set(entry["prior"]) for entry in (found["base"], *found["entries"])] == [{"arc_easy"}] * 2
    assert read(home, "out", "eval-before", "prior-quick.json")["num_total"] == 3


def test_one_preflight_settles_the_template_of_all_arms(study, home, monkeypatch):
    asked = []
    monkeypatch.setattr(preflight, "choose_template", lambda *_: asked.append(1) or ("system", 1))
    arms = ("own: method=sdft, template=prior_turn", "b: method=sdft, temperature=0.9")
    study(methods="sft,sdft", arm=arms, template="auto", max_steps=1, seeds="0,1")
    assert len(asked) == 1
    used = {
        arm: read(home, "out", arm, "lr-0.01", "seed-1", "run_config.json")["settings"]["template"]
        for arm in ("sft", "sdft", "own", "b")
    }
    assert used == {"sft": "paper", "sdft": "system", "own": "prior_turn", "b": "system"}


def test_the_first_arm_that_needs_a_template_gets_one_later(study, home, monkeypatch):
    monkeypatch.setattr(preflight, "choose_template", lambda *_: ("prior_turn", 1))
    study(methods="sft", template="auto", max_steps=1, checkpoints=1)
    assert read(home, "out", "base.json")["templates"] == {}
    study(methods="sft,sdft", template="auto", max_steps=1, checkpoints=1)
    assert read(home, "out", "base.json")["templates"] == {"one": ["prior_turn", 1]}
    assert read(home, "out", "base.json")["tasks"]["one"]["num_total"] == 6


def test_models_are_kept_where_wanted_and_lora_trains(study, home):
    study(methods="sft", max_steps=1, save_models=True, lora_r=2)
    assert (home / "out" / "sft" / "lr-0.01" / "seed-0" / "adapter_model.safetensors").is_file()


def test_a_task_without_a_scorer_for_its_training_rows_has_no_sweep(study):
    with pytest.raises(UserError, match="leaves none of the 24 training rows"):
        study(learning_rates="1e-3,1e-2", validation_rows=24)
