"""Settings from YAML files and from --set: what is taken, and what is said of mistakes."""

from pathlib import Path
from typing import Any

import pytest

from selfdistill import cli
from selfdistill.settings import flat
from selfdistill.settings.recipes import FOLDER
from selfdistill.settings.train import TrainOptions
from selfdistill.settings.yaml_files import checked, options_from_file, parse_assignments, places_in_file
from tests.support.mistakes import mistake


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that messages name the file alone."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(text: str | bytes) -> TrainOptions:
    """train's options from a file c.yaml of that content."""
    Path("c.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return options_from_file(TrainOptions, "c.yaml")


def given(text: str | bytes) -> dict[str, Any]:
    """What the file sets: the settings that differ from the defaults, but for the file's name."""
    values, defaults = flat.flatten(read(text)), flat.flatten(TrainOptions())
    return {name: value for name, value in values.items() if value != defaults[name] and name != "config"}


# -- what is taken ------------------------------------------------------------------------------------------------


def test_settings_of_all_groups():
    text = "method: sft\nlearning_rate: 1e-4\nlora_r: 8\ndataset_path: rows.jsonl\noutput_dir: out\nlimit: null\n"
    assert given(text) == {
        "method": "sft",
        "learning_rate": 1e-4,
        "lora_r": 8,
        "dataset_path": "rows.jsonl",
        "output_dir": "out",
    }
    assert read(text).recipe.trainer.config == "c.yaml"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("learning_rate: 1e-5", 1e-5),
        ("learning_rate: 1.5E-05", 1.5e-5),
        ("max_steps: 40", 40),
        ("max_steps: 40.0", 40),
        ("num_train_epochs: 2", 2.0),
        ("divergence_tail: true", True),
        ("chat_template_kwargs: {enable_thinking: false}", {"enable_thinking": False}),
        ("set: [adam_beta2=0.9, logging_steps=5]", ("adam_beta2=0.9", "logging_steps=5")),
        ("rollouts_logged_per_step: null", None),
        ("rate: &rate 0.5\nlearning_rate: *rate", 0.5),
        ("\ufefflearning_rate: 0.5  # a mark at the start", 0.5),
    ],
)
def test_values(text: str, value: Any):
    name = text.splitlines()[-1].lstrip("\ufeff").partition(":")[0]
    found = flat.flatten(read(text))[name]
    assert (found, type(found)) == (value, type(value))


def test_fields_of_the_trainer_survive_as_plain_values():
    text = """
adam_beta2: 0.95
logging_steps: 1e1
label_names: [a, b]
lr_scheduler_kwargs: {num_cycles: 2, rates: [0.5, 1]}
group_by_length: false
run_name: first
"""
    values = read(text).recipe.trainer.from_file
    assert values == (
        ("adam_beta2", 0.95),
        ("logging_steps", 10.0),
        ("label_names", ["a", "b"]),
        ("lr_scheduler_kwargs", {"num_cycles": 2, "rates": [0.5, 1]}),
        ("group_by_length", False),
        ("run_name", "first"),
    )
    kinds = {type(value) for _, value in values}
    assert kinds == {float, list, dict, bool, str}  # the types themselves: no kind of YAML's own
    assert type(dict(values)["lr_scheduler_kwargs"]["rates"]) is list


def test_paths_know_the_home_folder(here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(here))
    assert given("output_dir: ~/x\nmodel_name: ~/m\n") == {"output_dir": f"{here}/x", "model_name": f"{here}/m"}
    (here / "mine.yaml").write_text("seed: 7\n")
    assert options_from_file(TrainOptions, "~/mine.yaml").seed == 7


def test_a_recipe_by_its_name_unless_a_file_is_called_so():
    options = options_from_file(TrainOptions, "demo-cpu")
    assert options.recipe.trainer.config == str(FOLDER / "demo-cpu.yaml")
    assert (options.method, options.recipe.anchors.anchor_share) == ("sdft", 0.25)
    Path("demo-cpu").write_text("method: dft\n")
    assert options_from_file(TrainOptions, "demo-cpu").method == "dft"


def test_where_settings_stand():
    Path("c.yaml").write_text("# mine\nseed: 1\n\nadam_beta2: 0.9\n")
    assert places_in_file("c.yaml") == {"seed": "c.yaml line 2", "adam_beta2": "c.yaml line 4"}
    assert places_in_file("demo-cpu")["dataset_name"] == f"{FOLDER / 'demo-cpu.yaml'} line 4"


# -- the command line ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", [["--config", "c.yaml"], ["--config=c.yaml"]])
def test_flags_win_over_the_file(flag: list[str]):
    Path("c.yaml").write_text("learning_rate: 1e-3\nseed: 7\nset: [adam_beta2=0.9]\nadam_beta1: 0.8\n")
    for arguments in (["--seed", "8", *flag], [*flag, "--seed=8"]):
        options = cli.parse("train", [*arguments, "--set", "logging_steps=5"])
        assert (options.seed, options.recipe.optimizer.learning_rate) == (8, 1e-3)
        assert options.recipe.trainer.set == ("adam_beta2=0.9", "logging_steps=5")
        assert options.recipe.trainer.from_file == (("adam_beta1", 0.8),)
        assert options.recipe.trainer.config == "c.yaml"


def test_a_flag_turns_off_what_the_file_turns_on():
    Path("c.yaml").write_text("max_prompt_length: 100\nlora_r: 4\n")
    options = cli.parse("train", ["--config", "c.yaml", "--max_prompt_length", "None"])
    assert (options.recipe.prompts.max_prompt_length, options.recipe.adapter.lora_r) == (None, 4)


# -- mistakes -----------------------------------------------------------------------------------------------------

MAP = "write settings as name: value, one on each line."
MISTAKES = [
    ("learning_rate: fast", "c.yaml line 1: learning_rate: 'fast' is not a valid number"),
    ("\n# x\nlearning_rate: '1e-5'", "c.yaml line 3: learning_rate: '1e-5' is not a number."),
    ("max_steps: true", "c.yaml line 1: max_steps: True is not a number."),
    ("max_steps: 4.5", "c.yaml line 1: max_steps: 4.5 is not a valid integer, got a number with a fractional part."),
    ("model_name: 3", "c.yaml line 1: model_name: 3 is not a valid string."),
    ("seed: null", "c.yaml line 1: seed: None is not a valid integer."),
    ("seed: 2026-01-01", "c.yaml line 1: seed: datetime.date(2026, 1, 1) is not a valid integer."),
    ("dtype: float64", "c.yaml line 1: dtype: 'float64' is not 'auto', 'float32', 'bfloat16' or 'float16'."),
    ("chat_template_kwargs: [1]", "c.yaml line 1: chat_template_kwargs: [1] is not a valid dictionary."),
    ("set: adam_beta2=0.9", "c.yaml line 1: set: 'adam_beta2=0.9' is not a valid tuple."),
    ("seed: 1\nlearning_rate: 1\n\nseed: 2\n", "c.yaml line 4: a setting is given twice. Keep one of them."),
    ("x: 1\nx: 2\n", "c.yaml line 2: a setting is given twice. Keep one of them."),
    ("x: {a: 1,\n  a: 2}\n", "c.yaml line 2: a setting is given twice. Keep one of them."),
    ("seed: 1\nconfig: other.yaml", "c.yaml line 2: config can't be set in a file. Leave it out."),
    ("from_file: []", "c.yaml line 1: from_file can't be set in a file. Leave it out."),
    ("learning_rate 3", f"c.yaml: {MAP}"),
    ("- a\n- b\n", f"c.yaml: {MAP}"),
    ("", f"c.yaml: {MAP}"),
    ("# nothing\n", f"c.yaml: {MAP}"),
    ("a: [1\nb: 2", "c.yaml line 2 column 2: not YAML (expected ',' or ']', but got ':')."),
    ("seed: 1\n\tb: 2", "c.yaml line 2 column 1: not YAML ("),
    ("x: !!python/object:os.system 1", "c.yaml line 1 column 4: not YAML (could not determine a constructor"),
    ("---\na: 1\n---\nb: 2", "c.yaml line 3 column 1: not YAML ("),
    (b"seed: \xff", "c.yaml is not YAML text. Write settings as name: value, one on each line."),
    (b"\xff\xfes\x00", "c.yaml is not YAML text."),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_mistakes_name_the_file_and_the_line(text: str | bytes, message: str):
    assert mistake(read, text).startswith(message)


def test_a_long_value_is_cut():
    assert len(mistake(read, f"seed: {'word ' * 100}")) < 120


def test_a_key_of_several_parts_is_an_unknown_name():
    assert read("? [a, b]\n: 1").recipe.trainer.from_file == (("('a', 'b')", 1),)


def test_a_missing_file_is_answered_with_one_like_it():
    Path("mine.yaml").write_text("seed: 1\n")
    message = mistake(options_from_file, TrainOptions, "mnie.yaml")
    assert message.startswith("--config mnie.yaml: no such file")
    assert message.endswith("Did you mean 'mine.yaml'?")
    assert mistake(options_from_file, TrainOptions, "demo-cup").endswith("Did you mean 'demo-cpu'?")
    assert "no such file" in mistake(options_from_file, TrainOptions, "no/folder/c.yaml")
    Path("folder").mkdir()
    assert "no such file" in mistake(options_from_file, TrainOptions, "folder")


# -- --set --------------------------------------------------------------------------------------------------------

KNOWN = ["adam_beta1", "adam_beta2"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("adam_beta2=1e-3", 1e-3),
        ("adam_beta2=true", True),
        ("adam_beta2=null", None),
        ("adam_beta2=", None),
        ("adam_beta2=[1, 2]", [1, 2]),
        ("adam_beta2={a: 1}", {"a": 1}),
        ("adam_beta2=a=b", "a=b"),
        ("adam_beta2='1'", "1"),
    ],
)
def test_values_of_assignments_are_yaml(text: str, value: Any):
    assert parse_assignments([text], KNOWN) == {"adam_beta2": value}


def test_the_last_of_two_assignments_counts():
    assert parse_assignments(["adam_beta2=1", "adam_beta1=2", "adam_beta2=3"], KNOWN) == {
        "adam_beta2": 3,
        "adam_beta1": 2,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adam_beta2", "--set adam_beta2: write it as name=value."),
        ("adam_bta2=1", "--set adam_bta2=1: unknown setting 'adam_bta2'. Did you mean 'adam_beta2'?"),
        ("zork=1", "--set zork=1: unknown setting 'zork'."),
        ("adam_beta2=[", "--set adam_beta2=[: the value is not YAML. Quote it."),
    ],
)
def test_mistakes_in_assignments(text: str, message: str):
    assert mistake(parse_assignments, [text], KNOWN) == message
    assert mistake(parse_assignments, [text], KNOWN, "--arm a") == message.replace("--set", "--arm a", 1)


def test_types_are_kept_apart():
    assert checked(3, float, "x") == 3.0
    assert checked([1], tuple[int, ...], "x") == (1,)
    assert checked("3", str | None, "x") == "3"
    assert checked(True, bool | None, "x") is True
    for value, annotation in (("3", int), ("0.5", float | None), (True, float), (False, int | None)):
        assert mistake(checked, value, annotation, "x") == f"x: {value!r} is not a number."
    assert mistake(checked, 3, str, "x") == "x: 3 is not a valid string."
