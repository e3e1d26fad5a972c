"""``selfdistill train`` on a tiny model on a disk: what it refuses before the first step, and what it saves."""

import json

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from tests.support.tiny import CHAT_TEMPLATE, byte_tokenizer
from tests.support.tiny_home import TinyHome, train

NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"


def test_a_run_leaves_a_model_that_loads_and_its_records(home: TinyHome) -> None:
    said = home.run(*train())
    assert said.code == 0
    assert said.out.endswith("Model and records are in out.\n")
    assert said.err == ""
    assert [line["step"] for line in home.lines("out/metrics.jsonl") if "loss" in line] == [1, 2]
    assert [line["step"] for line in home.lines("out/rollouts.jsonl")] == [1, 1, 2]  # of three rows, two a step
    assert home.read("out/run_config.json")["model_name"] == "M"
    start, end = (AutoModelForCausalLM.from_pretrained(home.folder / name) for name in ("M", "out"))
    assert any((a != b).any() for a, b in zip(start.parameters(), end.parameters(), strict=True))


def test_a_token_for_the_hub_is_written_nowhere(home: TinyHome) -> None:
    assert home.run(*train("--set=hub_token=hf_Secret", "--save_steps=1")).code == 0
    files = [path for path in (home.folder / "out").rglob("*") if path.is_file()]
    assert any(path.parent.name == "checkpoint-1" for path in files)
    assert not [path for path in files if b"hf_Secret" in path.read_bytes()]


def test_a_run_of_the_same_seed_is_the_same_run(home: TinyHome) -> None:
    assert home.run(*train(output="first")).code == home.run(*train(output="second")).code == 0
    assert home.lines("first/rollouts.jsonl") == home.lines("second/rollouts.jsonl")
    home.run(*train("--seed=7", output="third"))
    assert home.lines("first/rollouts.jsonl") != home.lines("third/rollouts.jsonl")


# -- where it goes ------------------------------------------------------------------------------------------------


def test_a_home_folder_that_the_shell_left_alone_is_looked_into(home: TinyHome) -> None:
    assert home.run(*train(output="~/x")).code == 0
    model = home.folder / "home" / "x" / "model.safetensors"
    first = model.read_bytes()
    said = home.refused(*train("--learning_rate=1e-2", output="~/x"))
    assert "home/x holds a run with learning_rate 2e-05, now 0.01. Give the same to go on with it, " in said
    assert model.read_bytes() == first
    assert not (home.folder / "~").exists()


def test_a_folder_in_use_is_refused(home: TinyHome) -> None:
    (home.folder / "out").mkdir()
    (home.folder / "out" / "thesis.txt").write_text("mine")
    said = home.refused(*train())
    assert "--resume" in said
    assert "--overwrite" in said
    assert "--resume and --overwrite exclude each other" in home.refused(*train("--resume", "--overwrite"))
    assert "rows.jsonl is a file" in home.refused(*train(output="rows.jsonl"))


def test_a_dry_run_writes_nothing(home: TinyHome) -> None:
    before = home.files()
    said = home.run(*train("--dry_run"))
    assert said.code == 0
    for part in ("student prompt", "What is 0+1?", "[[1]]", "tokens of 3 rows that fit", "memory, estimated"):
        assert part in said.out
    assert home.files() == before


# -- runs that would teach nothing --------------------------------------------------------------------------------


def test_a_run_without_a_step_is_refused(home: TinyHome) -> None:
    assert "num_train_epochs" in home.refused(*train("--max_steps=-1", "--num_train_epochs=0"))
    assert "max_steps: 0 steps train nothing" in home.refused(*train("--max_steps=0"))
    said = home.refused(*train("--per_device_train_batch_size=8", "--set=dataloader_drop_last=true"))
    assert "there are 3 rows, it takes 8" in said
    assert not (home.folder / "out").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ["--num_loss_tokens_to_skip=100"],
        ["--mask_truncated_completions", "--max_completion_length=1"],  # no answer ends within one token
    ],
)
def test_a_step_without_a_token_that_carries_loss_is_said(home: TinyHome, flags: list[str]) -> None:
    said = home.run(*train(*flags))
    assert said.code == 0
    assert said.out.count("Warning: at step 1 no token carried loss, so nothing was learned") == 1
    assert [line["loss"] for line in home.lines("out/metrics.jsonl") if "loss" in line] == [0.0, 0.0]
    assert "no token carried loss" not in home.run(*train(output="second")).out


# -- lengths ------------------------------------------------------------------------------------------------------


def test_a_row_of_sft_needs_room_for_no_teacher(home: TinyHome) -> None:
    # the prompt has 150 letters and its turns 21 more tokens, the answer 100 letters and an end: 272 of 400
    home.model(max_position_embeddings=400)
    home.rows(*[{"prompt": "p" * 150, "demonstration": "d" * 100}] * 2)
    assert home.run(*train("--method=sft", "--max_completion_length=120")).code == 0
    assert home.read("out/run_config.json")["num_training_rows"] == 2
    said = home.refused(*train("--max_completion_length=120", output="second"))
    assert "the teacher prompt has" in said


def test_what_the_model_has_no_positions_for_is_refused(home: TinyHome) -> None:
    said = home.refused(*train("--max_completion_length=5000"))
    assert said.startswith("max_completion_length 5000: the model reads 4096 tokens")
    home.rows({"prompt": "p" * 5000, "demonstration": "4"})
    said = home.refused(*train("--max_prompt_length=100000", "--max_teacher_prompt_length=100000"))
    assert "the prompt has 5021 tokens, the limit is 4080" in said


# -- models that can't be trained as they are ---------------------------------------------------------------------


def test_a_generation_config_that_transformers_would_not_write_is_mended(home: TinyHome) -> None:
    own = {"temperature": 0.6, "top_p": 0.9, "eos_token_id": 256}
    (home.folder / "M" / "generation_config.json").write_text(json.dumps(own))
    assert home.run(*train()).code == 0
    assert (home.folder / "out" / "model.safetensors").is_file()
    saved = home.read("out/generation_config.json")
    assert {name: saved[name] for name in own} == own
    assert saved["do_sample"] is True


def test_float16_is_refused(home: TinyHome) -> None:
    said = home.refused(*train("--dtype=float16"))
    assert said.startswith("--dtype float16: ")
    assert "bfloat16 or float32" in said


def test_a_tokenizer_without_a_chat_template_says_what_to_do(home: TinyHome) -> None:
    home.model(template=None)
    said = home.refused(*train())
    assert "has no chat template" in said
    assert "chat_template.jinja beside its tokenizer" in said
    template = home.folder / "M" / "chat_template.jinja"
    template.write_text(CHAT_TEMPLATE)  # which then is enough
    assert home.run(*train()).code == 0


@pytest.mark.parametrize("flags", [(), ("--dry_run",), ("--method=sft",)])
def test_a_token_that_the_model_does_not_know_is_named(home: TinyHome, flags: tuple[str, ...]) -> None:
    tokenizer = byte_tokenizer()  # of 260 tokens, to which 20 are added; the model has 264
    tokenizer.add_tokens([f"<x{number}>" for number in range(20)])
    tokenizer.save_pretrained(home.folder / "M")
    home.rows({"prompt": "say <x19>", "demonstration": "<x19>"})
    said = home.refused(*train(*flags))
    assert "custom/train/0: token <x19> has id 279, the model knows 264 tokens" in said


def test_a_model_that_is_no_causal_language_model_is_told_in_a_line(home: TinyHome) -> None:
    AutoConfig.for_model("t5", vocab_size=264, d_model=16).save_pretrained(home.folder / "M")
    for said in (
        home.refused(*train()),
        home.refused("eval", "--model_path=M", "--dataset_path=rows.jsonl", "--output_dir=e"),
    ):
        assert "M is of type t5, which is no causal language model" in said


# -- flags that would be ignored ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--base_model=M",), "--base_model is what reinvoke distils from; sdft has none."),
        (("--lora_alpha=4",), "--lora_alpha 4 scales an adapter. Give --lora_r too"),
        (("--template_file=t.jinja",), "template_file: give it together with template=file"),
        (("--preflight_rows=4",), "--preflight_rows 4 counts only with --template auto"),
        (("--divergence_top_k=5",), "divergence_top_k=5 would be ignored"),
        (("--anchor_data=rows.jsonl",), "anchor_data='rows.jsonl' would be ignored"),
        (("--method=reinvoke", "--base_model=M", "--lora_r=2"), "--method reinvoke trains all weights."),
    ],
)
def test_a_flag_that_would_be_ignored_is_refused(home: TinyHome, flags: tuple[str, ...], words: str) -> None:
    assert words in home.refused(*train(*flags))


# -- templates ----------------------------------------------------------------------------------------------------


def test_a_template_that_the_model_refuses_is_passed_over_by_auto(home: TinyHome) -> None:
    home.model(template=NO_SYSTEM + CHAT_TEMPLATE)
    said = home.run(*train("--template=auto"))
    assert said.code == 0
    assert "system: The chat template refuses turns of system, user: System role not supported." in said.out
    assert home.read("out/run_config.json")["settings"]["template"] != "system"
    said = home.refused(*train("--template=system", output="second"))
    assert "System role not supported" in said


# -- the trainer's other fields -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "assignment",
    [
        "eval_strategy=steps",
        "neftune_noise_alpha=5.0",
        "include_num_input_tokens_seen=true",
        "save_strategy=best",
        "label_smoothing_factor=0.1",
        "load_best_model_at_end=true",
        "remove_unused_columns=true",
        "do_eval=true",
    ],
)
def test_fields_that_would_do_nothing_or_break_are_refused_by_name(home: TinyHome, assignment: str) -> None:
    name, value = assignment.split("=")
    said = home.refused(*train(f"--set={assignment}"))
    assert said.startswith(f"{name}=")
    assert value in said.lower()
    assert "OptimizerNames" not in said
    assert not (home.folder / "out").exists()


def test_a_yaml_file_sets_the_trainers_own_fields(home: TinyHome) -> None:
    (home.folder / "c.yaml").write_text("adam_beta2: 0.95\nlogging_steps: 1e1\nseed: 3\n")
    assert home.run(*train("--config=c.yaml", "--seed=4")).code == 0
    settings = home.read("out/run_config.json")["settings"]
    assert (settings["adam_beta2"], settings["logging_steps"], settings["seed"]) == (0.95, 10, 4)
