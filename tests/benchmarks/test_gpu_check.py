"""The check for GPUs runs to its end on a CPU, and no section takes the others with it."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

import gpu
from gpu_check import models, packages, steps
from gpu_check.report import Report, Section
from gpu_check.worker import chosen
from selfdistill.method.trainer import SDFTTrainer

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


# -- sections that the worker of a test runs ---------------------------------------------------------------------------


def raises(report: Report) -> None:
    report.put("before", 1)
    raise ZeroDivisionError("no such number")


def hangs(report: Report) -> None:
    report.put("before", 2)
    time.sleep(600)


def dies(report: Report) -> None:
    report.put("before", 3)
    os._exit(7)


def is_wrong(report: Report) -> None:
    report.part("one", lambda: {"ok": True})
    report.part("other", lambda: {"ok": False, "error": 0.5})


def is_late(report: Report) -> None:
    report.part("long", lambda: {"ok": True}, needs=1e6)
    report.say("one part did not fit")


def is_fine(report: Report, value: int) -> None:
    report.put("value", value)


def own(function: Any, seconds: float = 60.0, *arguments: Any) -> Section:
    return Section(
        name=function.__name__,
        groups=(),
        seconds=seconds,
        function=f"{__name__}:{function.__name__}",
        arguments=arguments,
    )


def run(sections: list[Section], folder: Path, seconds: float = 300.0) -> dict[str, Any]:
    return gpu.check(sections, seconds=seconds, device="cpu", quick=False, folder=folder)


def test_a_section_that_raises_hangs_or_dies_leaves_what_it_found_and_the_others_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sections = [own(raises), own(is_wrong), own(is_late), own(hangs, 1.0), own(dies), own(is_fine, 60.0, 5)]
    found = run(sections, tmp_path)["sections"]
    assert {name: one["status"] for name, one in found.items()} == {
        "raises": "failed",
        "is_wrong": "wrong",
        "is_late": "skipped",
        "hangs": "stopped",
        "dies": "failed",
        "is_fine": "ok",
    }
    assert found["raises"]["errors"]["section"]["error"] == "ZeroDivisionError: no such number"
    assert "raise ZeroDivisionError" in found["raises"]["errors"]["section"]["traceback"]
    assert found["hangs"]["reason"] == "stopped after 1 s, which was all its time"
    assert found["dies"]["reason"] == "the process ended with exit code 7; see log.txt"
    assert [found[name]["parts"]["before"] for name in ("raises", "hangs", "dies")] == [1, 2, 3]
    assert found["is_late"]["skipped"]["long"].endswith("s are left, it needs 1000000")
    assert found["is_fine"]["parts"] == {"value": 5}
    whole = json.loads((tmp_path / "gpu.json").read_text())
    assert whole["sections"] == found
    assert whole["device"] == "cpu"
    for name, one in found.items():
        assert json.loads((tmp_path / f"{name}.json").read_text()) == one
    printed = capsys.readouterr().out
    assert "raises          failed" in printed
    assert "section: ZeroDivisionError: no such number" in printed


def test_without_time_everything_is_skipped_and_nothing_starts(tmp_path: Path) -> None:
    result = run([own(is_fine, 60.0, 5), own(raises)], tmp_path, seconds=0.0)
    assert {one["status"] for one in result["sections"].values()} == {"skipped"}
    assert result["sections"]["is_fine"]["reason"] == "no time was left"
    assert json.loads((tmp_path / "raises.json").read_text())["status"] == "skipped"
    assert result["device"] is None


def test_a_device_that_is_not_there_is_said_once_and_nothing_hangs(tmp_path: Path) -> None:
    if torch.xpu.is_available():
        pytest.skip("this machine has the device")
    result = gpu.check([own(is_fine, 60.0, 5), own(raises)], seconds=100, device="xpu", quick=False, folder=tmp_path)
    first, second = result["sections"].values()
    assert (first["status"], second["status"]) == ("failed", "skipped")
    assert "did not start: UserError: Device xpu is not available here" in first["reason"]
    assert second["reason"] == "what runs the sections did not start"


# -- the program -------------------------------------------------------------------------------------------------------


def test_everything_runs_on_a_cpu(tmp_path: Path) -> None:
    flags = ["--output_dir", str(tmp_path), "--quick", "--device", "cpu", "--seconds", "1200"]
    program = [sys.executable, "benchmarks/gpu.py", *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1300)
    whole = json.loads((tmp_path / "gpu.json").read_text())
    found = whole["sections"]
    log = (tmp_path / "log.txt").read_text()[-3000:]
    assert {name: one["errors"] for name, one in found.items() if one["errors"]} == {}, log
    assert {one["status"] for one in found.values()} == {"ok"}, done.stdout
    assert done.returncode == 0, done.stderr
    assert list(found) == [section.name for section in gpu.SECTIONS]
    assert [name for name in found if name not in done.stdout] == []
    assert whole["device"] == "cpu"

    assert len(found["right-losses"]["parts"]) == 17
    assert {"method reinvoke", "teacher live", "divergence jsd", "LoRA"} <= found["right-steps"]["parts"].keys()
    assert len(found["right-teachers"]["parts"]) == 6
    assert found["right-masters"]["parts"]["single"]["equal"] is True
    assert found["right-resume"]["parts"]["bf16 with masters"]["update_error"] < 1e-6
    for shape in ("0.5B", "1.5B", "7B"):
        one = found[f"fits-{shape}"]["parts"]
        assert one.keys() == {"all weights: run", "all weights: steps", "all weights"}
        assert one["all weights: run"]["estimate_bytes"]["peak"] > 0
        measured = one["all weights"]
        assert measured["peak"] is None  # a CPU does not count
        assert len(measured["seconds"]) == steps.STEPS
        assert measured["phases"].keys() >= {"rollout", "teacher", "student", "divergence", "backward"}
        assert measured["matrix_peak_share"] > 0
        assert found["fast-decode"]["parts"][f"{shape}, own"]["tokens_per_s"] > 0
    ours, dense = (found["fast-loss"]["parts"][f"{way}, hidden size 16"]["loss"] for way in ("ours", "dense"))
    assert ours == pytest.approx(dense, rel=1e-2)
    assert found["fast-trl"]["parts"]["speedup"] > 0


def test_budgets_leave_room_for_the_start() -> None:
    assert sum(section.seconds for section in gpu.SECTIONS) <= gpu.SECONDS - 20
    assert len({section.name for section in gpu.SECTIONS}) == len(gpu.SECTIONS)


def test_groups_and_names_select_sections() -> None:
    names = [section.name for section in chosen(gpu.SECTIONS, ["fits", "fast-trl"])]
    assert names == ["machine", "fits-0.5B", "fits-1.5B", "fits-7B", "fast-trl"]
    assert chosen(gpu.SECTIONS, []) == list(gpu.SECTIONS)
    with pytest.raises(ValueError, match="no section is called 'right-loses'; there are fast, "):
        chosen(gpu.SECTIONS, ["right-loses"])


# -- what fits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "way"), [("", "all weights"), ("-80gb", "all weights, moments in 8 bits")])
def test_the_settings_are_those_of_the_recipes(suffix: str, way: str) -> None:
    written = YAML(typ="safe").load(ROOT / "recipes" / f"paper-tooluse-qwen2.5-7b{suffix}.yaml")
    sizes = steps.Sizes()
    ours: dict[str, Any] = {
        **steps.PAPER,
        **steps.WAYS[way],
        "max_prompt_length": sizes.prompt,
        "max_completion_length": sizes.completion,
        "gradient_accumulation_steps": sizes.prompts // steps.PAPER["per_device_train_batch_size"],
    }
    others = {"dataset_name", "model_name", "template", "overlong", "num_train_epochs", "lr_scheduler_type"}
    assert {name: value for name, value in written.items() if name not in others | {"warmup_steps"}} == ours


def test_the_mildest_settings_that_fit_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "lacking", lambda run, device: None if run.way == "LoRA" else "too large")
    report = Report(tmp_path, "fits-7B", 100.0, CPU, quick=True)
    steps.training_step(report, "7B")
    found = report.end()
    assert found["errors"] == {}
    weights, moments = "all weights", "all weights, moments in 8 bits"
    assert found["skipped"] == {weights: "too large", moments: "too large"}
    assert found["status"] == "ok"
    assert found["parts"]["LoRA: run"]["estimate_bytes"]["host"] == 0  # of a run on a CPU
    assert len(found["parts"]["LoRA"]["losses"]) == steps.STEPS


def test_settings_that_fit_by_the_estimate_only_are_an_error_and_the_next_ones_are_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trainer(model: Any, args: Any, *arguments: Any, peft_config: Any = None, **options: Any) -> Any:
        if peft_config is None:
            raise torch.OutOfMemoryError("none is left")
        return SDFTTrainer(model, args, *arguments, peft_config=peft_config, **options)

    monkeypatch.setattr(steps, "SDFTTrainer", trainer)
    report = Report(tmp_path, "fits-7B", 100.0, CPU, quick=True)
    steps.training_step(report, "7B")
    found = report.end()
    assert found["status"] == "failed"
    assert found["errors"]["all weights"]["error"] == "OutOfMemoryError: none is left"
    assert len(found["parts"]["LoRA"]["losses"]) == steps.STEPS


def test_nothing_that_fits_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "lacking", lambda run, device: "too large")
    report = Report(tmp_path, "fits-7B", 100.0, CPU, quick=True)
    steps.training_step(report, "7B")
    assert report.end()["status"] == "skipped"
    assert list(report.found["skipped"]) == list(steps.WAYS)


def planned(tmp_path: Path, way: str, *, quick: bool = True, shape: str = "0.5B") -> steps.Run:
    run, _ = steps.plan(Report(tmp_path, "fits", 100.0, CPU, quick=quick), shape, way, str(tmp_path))
    assert run is not None
    return run


def test_what_is_lacking_on_device_and_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, cuda = planned(tmp_path, "all weights"), torch.device("cuda")
    run = replace(run, estimate=replace(run.estimate, host=steps.GIB))
    there = {"cuda": run.estimate.peak, "cpu": steps.GIB}
    monkeypatch.setattr(steps, "available", lambda device: there[device.type])
    assert steps.lacking(run, cuda) is None
    there["cpu"] -= 1
    assert str(steps.lacking(run, cuda)).endswith("of the host's memory, 1.0 are available")
    there["cuda"] -= 1
    assert str(steps.lacking(run, cuda)).startswith("it takes 1.0 GiB by our estimate")
    there["cpu"] = run.estimate.peak  # on a CPU the estimate holds all
    assert steps.lacking(run, CPU) is None


def test_peaks_of_a_device_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = planned(tmp_path, "all weights")
    clock = steps.Clock(Report(tmp_path, "fits-0.5B", 100.0, CPU, quick=True), "all weights")
    clock.allocated = {"rollout and teacher": [None], "student and optimizer": [None]}
    clock.reserved = [None, None]
    assert clock.peaks is None
    clock.allocated = {"rollout and teacher": [10, 30], "student and optimizer": [20, 25]}
    clock.reserved = [40, 60, 50, 60]
    assert steps.memory_found(CPU, run, clock)["peak"] is None
    monkeypatch.setattr(steps, "taken", lambda device: 75)
    monkeypatch.setattr(steps, "memory", lambda device, name: {"memory_reserved": 55}[name])
    found = steps.memory_found(CPU, run, clock)
    # 75 bytes of the card are in use while torch holds 55, so 20 are beside it; torch held 60 at most
    assert (found["peak_allocated"], found["peak_reserved"], found["beside_torch"], found["peak"]) == (30, 60, 20, 80)
    assert found["estimate_ratio"] == run.estimate.peak / 80
    assert found["estimate_ratio_of_tensors"] == (run.estimate.peak - run.estimate.program) / 30


# -- packages ----------------------------------------------------------------------------------------------------------


def test_missing_packages_are_named_in_one_sentence() -> None:
    assert packages.missing(["json", "no_such_package"]) == ["no_such_package"]
    assert packages.missing_text([]) == "No package is missing."
    assert packages.missing_text(["trl", "bitsandbytes"]) == (
        "Not installed: trl (TRL's trainer), bitsandbytes (moments of 8 bits)."
    )


def test_settings_and_trainer_are_there_without_tyro() -> None:
    """In a process that can't import the packages that a machine with GPUs may lack."""
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('tyro', 'pydantic'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from gpu_check import packages\n"
        "packages.find_spec = lambda name: None\n"
        "packages.stand_in_for_tyro()\n"
        "from selfdistill import SDFTConfig, SDFTTrainer\n"
        "print(SDFTConfig(output_dir='unused', use_cpu=True).template, 'pydantic' in sys.modules)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "benchmarks")])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "paper False\n", done.stderr


def test_rows_and_models_are_the_same_each_time() -> None:
    first, again = (models.pairs(3, 5, 6, 300, demonstration=2) for _ in range(2))
    assert first == again
    assert [len(pair.teacher_ids or ()) for pair in first] == [6, 6, 6]
    one, other = (models.tiny_model(CPU) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
