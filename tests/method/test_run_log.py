"""What a run records: means over tokens, each completion's own values, and text that belongs to each token."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from selfdistill import run_folder
from selfdistill.method.batch import MicroBatch, Sample, part
from selfdistill.method.run_log import RunLog, token_texts
from selfdistill.method.step import PartLoss
from selfdistill.records.runs import RolloutRecord, RunConfig, RunState
from selfdistill.types import Example, PromptPair, Rollout, Target
from tests.support.reads import reads
from tests.support.tiny import byte_tokenizer
from tests.support.training import lines, make_trainer, steps, student

CONFIG = RunConfig(model_name="m", num_training_rows=1, versions={}, settings={}, deviations_from_paper={})
ANCHORS = [{"prompt": f"Say {n} words."} for n in range(3)]


def sample(name: str, target: Target, positions: tuple[int, ...], *, length: int = 4, cut: bool = False) -> Sample:
    """A completion of "What?", some of whose tokens carry loss."""
    example = Example(id=name, prompt=({"role": "user", "content": "What?"},))
    pair = PromptPair(example=example, student_ids=(65, 66), teacher_ids=None if target == "tokens" else (65, 66, 67))
    rollout = Rollout(completion_ids=tuple(range(70, 70 + length)), finish_reason="length" if cut else "stop")
    return Sample(pair=pair, rollout=rollout, target=target, loss_positions=positions)


def log(folder: Path, kept: int | None = None) -> RunLog:
    made = RunLog(folder, byte_tokenizer(), kept)
    made.begin(0, CONFIG)
    return made


def add(made: RunLog, samples: list[Sample], values: list[float], importance: list[float] | None = None) -> None:
    """One part of a micro-batch with these values of its loss tokens."""
    one = part(samples[0].target, samples, 0, torch.device("cpu"))
    weights = None if importance is None else torch.tensor(importance)
    made.add_part(one, PartLoss(total=torch.zeros(()), per_token=torch.tensor(values), importance=weights))


# -- means over tokens ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "metric"), [("teacher", "divergence"), ("start", "anchor_divergence"), ("tokens", "cross_entropy")]
)
def test_a_mean_is_over_tokens_however_they_were_dealt_out(tmp_path: Path, target: Target, metric: str) -> None:
    made = log(tmp_path)
    add(made, [sample("a", target, (0,))], [8.0])  # a micro-batch of one token
    add(made, [sample("b", target, (0, 1, 2)), sample("c", target, (3,))], [1.0, 1.0, 1.0, 2.0])  # and of four
    assert made.means()[metric] == pytest.approx(13 / 5)  # not (8 + 5/4) / 2
    assert metric not in made.means()  # of nothing since


def test_targets_do_not_mix(tmp_path: Path) -> None:
    made = log(tmp_path)
    add(made, [sample("a", "teacher", (0, 1))], [1.0, 2.0], importance=[0.5, 1.5])
    add(made, [sample("b", "start", (0,))], [7.0])
    add(made, [sample("c", "tokens", (0,))], [3.0])
    means = made.means()
    found = {name: means[name] for name in ("divergence", "anchor_divergence", "cross_entropy", "importance_weight")}
    assert found == {"divergence": 1.5, "anchor_divergence": 7.0, "cross_entropy": 3.0, "importance_weight": 1.0}


def test_lengths_are_means_over_completions(tmp_path: Path) -> None:
    made = log(tmp_path)
    made.add_samples(1, [sample("a", "teacher", (0, 1), length=6), sample("b", "teacher", (), length=2, cut=True)])
    means = made.means()
    assert {name: means[name] for name in ("completion_tokens", "truncated_share", "loss_tokens")} == {
        "completion_tokens": 4.0,
        "truncated_share": 0.5,
        "loss_tokens": 1.0,
    }


def test_tokens_are_those_that_pass_through_the_student(tmp_path: Path) -> None:
    made = log(tmp_path)
    samples = [sample("a", "teacher", (0,), length=6), sample("b", "start", (0,), length=3)]
    parts = tuple(part(one.target, [one], 0, torch.device("cpu")) for one in samples)
    made.add_tokens(MicroBatch(parts=parts))
    assert made.means()["tokens_seen"] == (2 + 6) + (2 + 3)  # not the teacher's prompt of 3


@pytest.mark.parametrize("method", ["sdft", "sft", "dft"])
def test_a_runs_means_do_not_depend_on_micro_batches(tmp_path: Path, method: str) -> None:
    found = []
    for size, count in ((8, 1), (2, 4), (1, 8)):
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": count}
        anchored = {"anchor_share": 0.34, "max_completion_length": 64}
        options = {"anchor_dataset": ANCHORS}
        make_trainer(tmp_path / str(count), method=method, options=options, **settings, **anchored).train()
        (line,) = steps(tmp_path / str(count))
        names = ("loss", "divergence", "cross_entropy", "anchor_divergence", "loss_tokens", "tokens_seen")
        found.append({name: line[name] for name in names if name in line})
    assert len(found[0]) == 5
    assert found[1] == pytest.approx(found[0], rel=1e-5, abs=1e-6)
    assert found[2] == pytest.approx(found[0], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("method", ["sft", "dft"])
def test_cross_entropy_is_that_of_the_demonstrations_tokens_unweighted(tmp_path: Path, method: str) -> None:
    """dft weighs a token by the model's probability of it: that is in the loss alone."""
    trainer = make_trainer(tmp_path, method=method, max_completion_length=64)
    model, values, losses = student(), [], []
    pairs: Any = trainer.train_dataset
    for pair in pairs:
        ids = torch.tensor([[*pair.student_ids, *pair.demonstration_ids]])
        log_probs = model(input_ids=ids).logits[0].detach().log_softmax(-1)
        own = log_probs[len(pair.student_ids) - 1 : -1].gather(-1, ids[0, len(pair.student_ids) :, None])[:, 0]
        values.append(-own)
        losses.append((-own * (own.exp() if method == "dft" else 1)).mean())
    trainer.train()
    (line,) = steps(tmp_path)
    assert line["cross_entropy"] == pytest.approx(torch.cat(values).mean().item(), rel=1e-4)
    assert line["loss"] == pytest.approx(torch.stack(losses).mean().item(), rel=1e-4)


# -- completions ---------------------------------------------------------------------------------------


def test_each_completion_has_the_values_of_its_own_tokens(tmp_path: Path) -> None:
    made = log(tmp_path)
    compared = [sample("a", "teacher", (1, 3)), sample("b", "teacher", (0,))]
    given, general = sample("c", "tokens", (0, 1)), sample("d", "start", (2,))
    made.add_samples(3, [*compared, given, general])
    add(made, compared[::-1], [0.5, 1.234567, 2.0])
    add(made, [given], [3.0, 4.0])
    add(made, [general], [6.0])
    made.write_rollouts()
    rows = run_folder.read_records(tmp_path / run_folder.ROLLOUTS, RolloutRecord)
    assert [(row.id, row.step, row.target) for row in rows] == [
        ("a", 3, "teacher"),
        ("b", 3, "teacher"),
        ("c", 3, "tokens"),
        ("d", 3, "start"),
    ]
    assert [row.per_token_kl for row in rows] == [[1.23457, 2.0], [0.5], [], [6.0]]
    assert [row.per_token_cross_entropy for row in rows] == [[], [], [3.0, 4.0], []]
    assert [row.loss_positions for row in rows] == [[1, 3], [0], [0, 1], [2]]
    assert [row.teacher_prompt is None for row in rows] == [False, False, True, False]


@pytest.mark.parametrize(("kept", "written"), [(None, ["a", "b"]), (1, ["a"]), (0, [])])
def test_so_many_completions_of_a_step_are_kept(tmp_path: Path, kept: int | None, written: list[str]) -> None:
    made = log(tmp_path, kept)
    samples = [sample("a", "teacher", (0,)), sample("b", "teacher", (0,))]
    made.add_samples(1, samples)
    add(made, samples, [1.0, 2.0])
    made.write_rollouts()
    assert [row["id"] for row in lines(tmp_path, run_folder.ROLLOUTS)] == written


def test_a_run_of_demonstrations_and_general_prompts_names_what_it_measured(tmp_path: Path) -> None:
    settings = {"method": "sft", "anchor_share": 0.34, "max_completion_length": 64, "rollouts_logged_per_step": None}
    make_trainer(tmp_path, **settings, options={"anchor_dataset": ANCHORS}).train()
    rows = run_folder.read_records(tmp_path / run_folder.ROLLOUTS, RolloutRecord)
    assert [row.target for row in rows] == ["tokens"] * 8 + ["start"] * 4
    for row in rows:
        has, lacks = row.per_token_cross_entropy, row.per_token_kl
        if row.target == "start":
            has, lacks = lacks, has
        assert (len(has), lacks) == (len(row.loss_positions), [])


def test_what_a_part_leaves_is_read_when_it_is_written(tmp_path: Path) -> None:
    """On a GPU every read waits for all that is queued there."""
    made = log(tmp_path)
    samples = [sample("a", "teacher", (0, 1)), sample("b", "teacher", (2,))]
    made.add_samples(1, samples)
    with reads() as found:
        add(made, samples, [1.0, 2.0, 6.0], importance=[0.5, 0.5, 2.0])
        assert found == []
        made.write_rollouts()
        assert found == ["tolist in run_log.py"]
        means = made.means()
    assert found == ["tolist in run_log.py"]
    assert (means["divergence"], means["importance_weight"]) == (3.0, 1.0)
    rows = run_folder.read_records(tmp_path / run_folder.ROLLOUTS, RolloutRecord)
    assert [row.per_token_kl for row in rows] == [[1.0, 2.0], [6.0]]


# -- a run that goes on ----------------------------------------------------------------------------------


def test_what_a_run_had_used_up_is_added_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("selfdistill.method.run_log.time.perf_counter", lambda: now[0])
    made = log(tmp_path)
    made.begin(2, CONFIG, RunState(tokens_seen=30, seconds=7.0))
    now[0] += 5
    made.add_tokens(MicroBatch(parts=(part("tokens", [sample("a", "tokens", (0,))], 0, torch.device("cpu")),)))
    with made.left_out():
        now[0] += 1000
    lines = {"metrics.jsonl": 0, "rollouts.jsonl": 0, "answers.jsonl": 0}
    assert made.state(loss=2.0) == RunState(tokens_seen=36, seconds=12.0, lines=lines, loss=2.0)
    made.begin(0, CONFIG)
    assert made.state() == RunState(tokens_seen=0, seconds=0.0, lines=lines)


def test_means_go_on_from_the_sums_of_the_checkpoint(tmp_path: Path) -> None:
    """Completions of 1 and 2 tokens before it, of 3 after it; a sum that is no number stays so."""
    made = log(tmp_path)
    before = RunState(
        tokens_seen=0,
        seconds=0.0,
        sums={"completion_tokens": 3.0, "divergence": None},
        counts={"completion_tokens": 2.0, "divergence": 4.0},
    )
    made.begin(2, CONFIG, before)
    assert made.state().sums["completion_tokens"] == 3.0
    made.add_samples(3, [sample("a", "teacher", (0,))])
    tokens = len(sample("a", "teacher", (0,)).rollout.completion_ids)
    means = made.means()
    assert means["completion_tokens"] == (3 + tokens) / 3
    assert math.isnan(means["divergence"])


def test_lines_that_are_missing_are_named(tmp_path: Path) -> None:
    made = log(tmp_path)
    made.begin(0, CONFIG)
    for step in (1, 2):
        made.write_metrics(step, {"loss": 0.5})
    before = replace(made.state(), lines={"metrics.jsonl": 2, "rollouts.jsonl": 0})
    assert made.begin(2, CONFIG, before) == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    assert made.begin(2, CONFIG, before) == ["metrics.jsonl"]


def test_the_summary_counts_what_was_trained_before(tmp_path: Path) -> None:
    """30 steps of 60 rows in 5 seconds after 10 others are 2 steps and 4 rows a second."""
    made = log(tmp_path)
    made.begin(20, CONFIG, RunState(tokens_seen=0, seconds=10.0))
    rates = {"train_steps_per_second": 6.0, "train_samples_per_second": 12.0}
    assert made.of_the_whole_run({"train_runtime": 5.0, **rates, "train_loss": 0.5}) == {
        "train_runtime": 15.0,
        "train_steps_per_second": 2.0,
        "train_samples_per_second": 4.0,
        "train_loss": 0.5,
    }


def test_lines_after_the_step_that_a_run_goes_on_from_are_dropped(tmp_path: Path) -> None:
    made = log(tmp_path)
    for step in (1, 2, 3):
        made.add_samples(step, [sample("a", "teacher", (0,))])
        made.write_rollouts()
        made.write_metrics(step, {"loss": 0.5})
    made.add_samples(4, [sample("b", "teacher", (0,))])  # of a step that was interrupted
    add(made, [sample("b", "teacher", (0,))], [9.0])
    made.begin(2, CONFIG)
    for name in (run_folder.METRICS, run_folder.ROLLOUTS):
        assert [line["step"] for line in lines(tmp_path, name)] == [1, 2]
    made.write_rollouts()
    assert len(lines(tmp_path, run_folder.ROLLOUTS)) == 2
    assert set(made.means()) == {"tokens_seen", "wall_seconds"}


# -- text ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        pytest.param("ab c", ["a", "b", " ", "c"], id="one token a byte"),
        pytest.param("é!", ["", "é", "!"], id="a character of two tokens belongs to the last"),
        pytest.param("🦊", ["", "", "", "🦊"], id="a character of four"),
        pytest.param("a<|end|>", ["a", "<|end|>"], id="special tokens are shown"),
        pytest.param("", [], id="empty"),
    ],
)
def test_token_texts(tokenizer: PreTrainedTokenizerFast, text: str, tokens: list[str]) -> None:
    assert token_texts(tokenizer, tokenizer(text)["input_ids"]) == tokens


def test_a_character_cut_in_the_middle_is_shown_as_such(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("aé")["input_ids"][:-1]
    assert token_texts(tokenizer, ids) == ["a", "\N{REPLACEMENT CHARACTER}"]
