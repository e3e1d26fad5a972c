"""Fields of transformers' TrainingArguments that would do nothing here, or break training: refused by name."""

import copy
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
from transformers.trainer_utils import SaveStrategy

from selfdistill.method.config import SDFTConfig
from selfdistill.method.refused import REFUSED, REFUSED_VALUES, REFUSED_VARIABLES, refuse_with_split
from selfdistill.settings import flat
from selfdistill.settings.train import TrainOptions
from selfdistill.training.settings import trainer_config
from tests.support.mistakes import mistake, refusal
from tests.support.training import make_config

FIELDS = {each.name: each for each in fields(SDFTConfig)}


def another(name: str) -> Any:
    """A value that is not the field's default."""
    each = FIELDS[name]
    default = each.default_factory() if each.default_factory is not MISSING else each.default
    if isinstance(default, bool):
        return not default
    return default + 1 if isinstance(default, int | float) else "other"


def refused(folder: Path, **settings: Any) -> str:
    return mistake(SDFTConfig, output_dir=str(folder), **settings)


@pytest.mark.parametrize("name", REFUSED)
def test_each_field_is_refused_by_name(tmp_path: Path, name: str):
    if name not in FIELDS:
        pytest.skip("the installed transformers has no such field")
    assert refused(tmp_path, **{name: another(name)}).startswith(f"{name}={another(name)!r} has no effect here. ")


@pytest.mark.parametrize(("name", "value"), REFUSED_VALUES)
def test_each_value_is_refused_by_name(tmp_path: Path, name: str, value: str):
    if name not in FIELDS:
        pytest.skip("the installed transformers has no such field")
    assert refused(tmp_path, **{name: value}).startswith(f"{name}={value!r} can't be used here. ")


@pytest.mark.parametrize("name", REFUSED_VARIABLES)
def test_what_accelerate_launch_was_told_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    for value in ("false", "no", "NO"):
        monkeypatch.setenv(name, value)
        make_config(tmp_path)
    monkeypatch.setenv(name, "true")
    said = mistake(make_config, tmp_path)
    assert said.startswith(f"{name}=true: {REFUSED_VARIABLES[name]} is not used here. Launch with ")
    assert "recipes/accelerate/replicas.yaml" in said
    assert "--shard_weights" in said


def test_a_value_may_be_an_enumerations_member(tmp_path: Path):
    assert refused(tmp_path, save_strategy=SaveStrategy.BEST).startswith("save_strategy='best' can't be used here. ")


def test_other_values_of_such_fields_are_taken(tmp_path: Path):
    kept: dict[str, Any] = {
        "train_sampling_strategy": "sequential",
        "lr_scheduler_type": "linear",
        "save_strategy": "steps",
    }
    taken = SDFTConfig(output_dir=str(tmp_path), **kept)
    assert taken.save_strategy == "steps"


@pytest.mark.parametrize(
    "setting",
    [
        *("eval_strategy=steps", "do_eval=true", "load_best_model_at_end=true", "save_strategy=best"),
        *("neftune_noise_alpha=5.0", "label_smoothing_factor=.1", "include_num_input_tokens_seen=true"),
        *("remove_unused_columns=true", "torch_compile=true", "auto_find_batch_size=true", "fp16=true", "bf16=true"),
        *("train_sampling_strategy=group_by_length", "average_tokens_across_devices=false"),
    ],
)
def test_from_the_command_line_too(setting: str):
    name = setting.partition("=")[0]
    options = flat.build(TrainOptions, {"template": "prior_turn", "set": (setting,)})
    assert mistake(trainer_config, options, 16).startswith(f"{name}=")


def test_a_config_may_be_made_of_another_ones_values(tmp_path: Path):
    first = SDFTConfig(output_dir=str(tmp_path), learning_rate=1e-3)
    values = {name: getattr(first, name) for name, each in FIELDS.items() if each.init}
    assert SDFTConfig(**values).to_dict() == first.to_dict()


def test_checkpoints_are_not_pushed(tmp_path: Path) -> None:
    said = mistake(make_config, tmp_path, push_to_hub=True)
    assert said.startswith("push_to_hub=True: checkpoints are not pushed while a run trains. Give hub_strategy=end")
    assert make_config(tmp_path, push_to_hub=True, hub_strategy="end").push_to_hub


def test_one_process_has_nothing_to_split(tmp_path: Path) -> None:
    said = mistake(make_config, tmp_path, shard_weights=True)
    assert said.startswith("shard_weights: one process has nobody to share its weights with. Start several")


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "offline"},
        {"method": "reinvoke"},
        {"completion_source": "interleaved"},
        {"completion_source": "mixture", "mixture_of": "teacher"},
        {"teacher_model": "another"},
        {"teacher_home": "host"},
        {"rollout_engine": "paged"},
        {"optim": "adafactor"},
        {"use_liger_kernel": True},
    ],
    ids=lambda settings: " ".join(f"{name}={value}" for name, value in settings.items()),
)
def test_what_needs_the_whole_model_is_refused_where_it_is_split(tmp_path: Path, settings: dict[str, Any]) -> None:
    """The last of the settings is named; a checked copy stands for several processes."""
    config = copy.copy(make_config(tmp_path))
    for name, value in {**settings, "shard_weights": True}.items():
        setattr(config, name, value)
    name, value = list(settings.items())[-1]
    said = mistake(refuse_with_split, config, 2)
    assert said.startswith(name)
    assert " does not go with shard_weights, where no process has the whole model." in said


def test_the_defaults_go_with_a_split_model(tmp_path: Path) -> None:
    config = copy.copy(SDFTConfig(output_dir=str(tmp_path)))
    config.shard_weights = True
    assert refusal(refuse_with_split, config, 2) is None
    assert mistake(refuse_with_split, config, 1).startswith("shard_weights: one process has nobody to share")


def test_vllm_is_refused_where_the_model_is_split(tmp_path: Path) -> None:
    config = copy.copy(make_config(tmp_path))
    config.rollout_engine, config.shard_weights = "vllm", True
    assert mistake(refuse_with_split, config, 2).startswith("rollout_engine=vllm does not go with shard_weights")
