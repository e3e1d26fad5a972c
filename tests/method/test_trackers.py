"""What trackers are given, read back from their own files."""

import json
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers.integrations import MLflowCallback, TensorBoardCallback, TrackioCallback

from selfdistill.errors import UserError
from selfdistill.method.trackers import COLUMNS, table_rows
from selfdistill.records.runs import RolloutRecord
from tests.support.training import lines, make_trainer


@pytest.fixture(autouse=True)
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tracker writes into the test's folder and asks nobody."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlflow").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))


def trained(folder: Path, tracker: str, **settings: Any) -> Any:
    """A run of two steps that reports to ``tracker``; its report is two small files."""
    trainer = make_trainer(folder, max_steps=2, report_to=tracker, run_name="first", project="tests", **settings)

    def report() -> Path:
        (folder / "report.html").write_text("<p>a page</p>")
        (folder / "report.md").write_text("a page")
        return folder

    trainer.tracked.report = report
    trainer.train()
    return trainer


def completions(folder: Path, step: int) -> list[str]:
    return [row["completion"] for row in lines(folder, "rollouts.jsonl") if row["step"] == step]


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in lines(folder, "metrics.jsonl") if "loss" in row]


def test_tensorboard(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained(run, "tensorboard")
    [file] = run.rglob("events.out.tfevents.*")
    found = EventAccumulator(str(file))
    found.Reload()
    assert [one.value for one in found.Scalars("train/loss")] == pytest.approx(losses(run))
    tables = found.Tensors("rollouts/text_summary")
    assert [one.step for one in tables] == [1, 2]
    text = tables[1].tensor_proto.string_val[0].decode()
    assert text.startswith("| id | prompt | completion |")
    assert all(completion in text for completion in completions(run, 2))
    assert found.Tensors("report/text_summary")[0].tensor_proto.string_val == [b"a page"]


def test_mlflow(tmp_path: Path) -> None:
    import mlflow

    run = tmp_path / "run"
    trained(run, "mlflow")
    client = mlflow.MlflowClient()
    [found] = client.search_runs(["0"])
    assert found.info.run_name == "first"
    assert found.info.status == "FINISHED"
    assert [one.value for one in client.get_metric_history(found.info.run_id, "loss")] == pytest.approx(losses(run))
    table = Path(client.download_artifacts(found.info.run_id, "rollouts/step-000002.json"))
    values = json.loads(table.read_text())
    assert values["columns"] == list(COLUMNS)
    assert [row[2] for row in values["data"]] == completions(run, 2)
    assert Path(client.download_artifacts(found.info.run_id, "report.html")).read_text() == "<p>a page</p>"


def test_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio", reason="it needs a newer huggingface_hub than the lowest")
    from trackio import artifact, context_vars, sqlite_storage, utils

    for module in (artifact, sqlite_storage, utils):  # they read TRACKIO_DIR as they are imported
        if hasattr(module, "TRACKIO_DIR"):
            monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    run = tmp_path / "run"
    trained(run, "trackio")
    logged = sqlite_storage.SQLiteStorage.get_logs("tests", "first")
    assert [row["train/loss"] for row in logged if "train/loss" in row] == pytest.approx(losses(run))
    tables = [row["rollouts"] for row in logged if "rollouts" in row]
    assert [row["completion"] for row in tables[1]["_value"]] == completions(run, 2)
    assert context_vars.current_run.get() is None  # it was ended
    assert b"<p>a page</p>" in [path.read_bytes() for path in (tmp_path / "trackio").rglob("*") if path.is_file()]


def test_one_that_fails_is_named_once_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setattr(mlflow, "log_table", lambda *_: 1 / 0)
    said: list[str] = []
    trainer = make_trainer(tmp_path / "run", max_steps=2, report_to="mlflow")
    trainer.checkpoints.on_warning = said.append
    trainer.train()
    assert trainer.state.global_step == 2
    assert said == [
        "report_to=mlflow: it did not take a table of completions (division by zero). The run's folder has all of it."
    ]


def test_a_report_that_fails_costs_no_run(tmp_path: Path) -> None:
    """The model is saved only after the training has ended."""
    said: list[str] = []
    trainer = make_trainer(tmp_path / "run", report_to="mlflow")
    trainer.checkpoints.on_warning = said.append
    trainer.tracked.report = lambda: Path(str(1 / 0))
    trainer.train()
    trainer.save_model()
    assert said == ["report_to: the report can't be made (division by zero). selfdistill report makes it later."]


def test_one_that_cannot_begin_is_refused_before_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    def start(**_: Any) -> None:
        raise OSError("nobody answers")

    monkeypatch.setattr(mlflow, "start_run", start)
    trainer = make_trainer(tmp_path / "run", report_to="mlflow")
    with pytest.raises(UserError, match=r"^report_to=mlflow: it can't begin \(nobody answers\)"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_without_a_tracker_none_is_there(tmp_path: Path) -> None:
    kinds = (MLflowCallback, TensorBoardCallback, TrackioCallback)
    trainer = make_trainer(tmp_path / "run")
    assert not any(isinstance(one, kinds) for one in trainer.callback_handler.callbacks)
    trainer.train()


def test_the_loss_of_a_row_is_the_mean_of_what_is_finite() -> None:
    def record(**values: Any) -> RolloutRecord:
        return RolloutRecord(
            step=1,
            id="a",
            target="teacher",
            student_prompt="p",
            teacher_prompt="t",
            completion="c",
            completion_ids=[1],
            tokens=["c"],
            finish_reason="stop",
            loss_positions=[0],
            **values,
        )

    records = [
        record(per_token_kl=[0.25, None, 0.75]),
        record(per_token_cross_entropy=[2.0, 1.0]),
        record(),
    ]
    assert [row[-1] for row in table_rows(records)] == [0.5, 1.5, None]
    assert table_rows(records[:1])[0][:-1] == ["a", "p", "c", "student", "stop"]
