"""The list of studies."""

from pathlib import Path

import pytest

from evidence.run import read_studies
from selfdistill.cli import parse
from selfdistill.studies.arms import parse_arms


def test_a_study_of_several_seeds_is_several(tmp_path: Path) -> None:
    studies = list(read_studies("full"))
    assert [study.name for study in studies] == [
        "compare-orders",
        "compare-notes",
        "compare-few-orders",
        "compare-assistant-tools",
        *(f"continual-{seed}" for seed in (0, 1, 2)),
    ]
    arguments = studies[1].arguments(tmp_path)
    assert arguments[:3] == ["compare", "--output_dir", str(tmp_path / "compare-notes")]
    assert arguments[arguments.index("--dataset_name") + 1] == "notes"
    assert arguments.count("--arm") == 6
    assert "--limit" not in arguments
    assert {study.name for study in read_studies("quick")} < {study.name for study in studies}


def test_a_single_change_is_one_setting_beside_the_method(tmp_path: Path) -> None:
    for study in read_studies("wide"):
        options = parse(study.command, study.arguments(tmp_path)[1:])
        arms = {arm.name: dict(arm.settings) for arm in parse_arms(options.arms, options.recipe, default="")}
        assert arms.pop("sdft") == {"method": "sdft"}
        assert arms.pop("teacher-samples") == {"method": "offline"}
        assert arms.pop("sft") == {"method": "sft", "learning_rate": 4e-5}
        assert arms.pop("sft-anchored") == {"method": "sft", "learning_rate": 4e-5, "anchor_share": 0.25}
        for settings in arms.values():
            assert settings.pop("method") == "sdft"
            groups = {name.partition("_")[0] for name in settings if name != "completion_source"}
            assert len(groups) == 1 or settings.keys() == {"completion_source"}


@pytest.mark.parametrize("size", ["full", "gpu", "wide", "quick"])
def test_every_study_is_a_command_whose_arms_are_known(size: str, tmp_path: Path) -> None:
    for study in read_studies(size):
        options = parse(study.command, study.arguments(tmp_path)[1:])
        options.check()
        names = [arm.name for arm in parse_arms(options.arms, options.recipe, default="")]
        assert len(set(names)) == len(names) > 1
        assert {rates.partition(":")[0] for rates in study.options.get("learning_rates", names[0]).split(";")} <= {
            *names
        }
