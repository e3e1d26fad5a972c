"""Who writes the completions: the shares, the rows and the records; what a source can't go with, and what it costs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from selfdistill.method.memory import estimate
from selfdistill.method.memory_parts import TeacherSize
from selfdistill.method.processes import Processes
from selfdistill.method.rows import anchor_pairs, training_pairs
from selfdistill.method.sources import SOURCES, mixture_share, uses_answers, writers
from selfdistill.method.step import Step
from selfdistill.settings.method import MethodConfig
from tests.support.checkpointed import CHECKPOINTS, resumed
from tests.support.engines import Scripted
from tests.support.mistakes import mistake, refusal
from tests.support.tiny import byte_tokenizer, random_model
from tests.support.training import ROWS, lines, make_config, make_trainer, script, steps, student, weights

IDS = [f"row/{n}" for n in range(8)]
MIXED: dict[str, Any] = {"completion_source": "mixture", "max_completion_length": 64}
KINDS: list[dict[str, Any]] = [
    {"completion_source": "interleaved", "interleaved_top_k": 20},
    {"completion_source": "accepted"},
    {**MIXED, "mixture_share": 0.25},
    {**MIXED, "mixture_target": "tokens", "mixture_share": 1.0, "mixture_steps": 4},
    {**MIXED, "mixture_of": "teacher", "mixture_share": 1.0, "mixture_steps": 4},
    {"num_rollouts": 2},
]


def name(settings: dict[str, Any]) -> str:
    return "-".join(map(str, settings.values()))


def make_step(folder: Path, *, rows: Sequence[Any] = ROWS, engine: Any = None, **settings: Any) -> tuple[Step, Any]:
    """A step, and its rows."""
    model, tokenizer = student(), byte_tokenizer()
    config = make_config(folder, **settings)
    pairs = training_pairs(rows, config, tokenizer, model.config)
    return Step(model, tokenizer, config, engine=engine), pairs


# -- the table ---------------------------------------------------------------------------------------


def test_parameters_are_settings() -> None:
    assert {parameter for spec in SOURCES.values() for parameter in spec.parameters} <= set(vars(MethodConfig()))


@pytest.mark.parametrize(
    ("settings", "used"),
    [
        ({}, False),
        ({"method": "sft"}, True),
        (MIXED, True),
        ({**MIXED, "mixture_of": "teacher"}, False),
        ({"completion_source": "accepted"}, False),
    ],
    ids=str,
)
def test_demonstrations_are_rendered_as_answers_where_they_are_completions(
    tmp_path: Path, settings: dict[str, Any], used: bool
) -> None:
    config = make_config(tmp_path, **{"max_completion_length": 64, **settings})
    assert uses_answers(config) == used
    (pair, *_) = training_pairs(ROWS, config, byte_tokenizer(), student().config)
    assert byte_tokenizer().decode(list(pair.demonstration_ids)) == ("It is 0.<|end|>" if used else "")


# -- mixtures ----------------------------------------------------------------------------------------


def counts(config: MethodConfig, sizes: Sequence[int], a_step: int) -> list[int]:
    """Demonstrations among so many completions of each step."""
    written = [writers(config, number, IDS[:size], a_step) for number, size in enumerate(sizes)]
    return [own.count("demonstration") for own in written]


def test_every_step_has_its_share_and_fractions_are_carried() -> None:
    quarter = MethodConfig(completion_source="mixture", mixture_share=0.25)
    assert counts(quarter, [8] * 4, 8) == [2, 2, 2, 2]
    third = MethodConfig(completion_source="mixture", mixture_share=0.3)
    assert counts(third, [5] * 6, 5) == [2, 1, 2, 1, 2, 1]  # 1.5, 3, 4.5, 6, 7.5, 9
    assert counts(third, [5, 2], 5) == [2, 0]  # the last step of a pass has two rows: 1.5, 2.1


def test_a_share_falls_from_one_to_nothing() -> None:
    config = MethodConfig(completion_source="mixture", mixture_share=1.0, mixture_steps=4)
    assert [mixture_share(config, number) for number in range(6)] == [1.0, 0.75, 0.5, 0.25, 0, 0]
    assert counts(config, [8] * 6, 8) == [8, 6, 4, 2, 0, 0]


def test_which_rows_they_are_depends_on_seed_step_and_row_alone() -> None:
    def chosen(ids: list[str], seed: int = 1, number: int = 0) -> set[str]:
        config = MethodConfig(completion_source="mixture", mixture_share=0.5, seed=seed)
        written = writers(config, number, ids, 8)
        return {id for id, writer in zip(ids, written, strict=True) if writer == "demonstration"}

    assert chosen(IDS) == chosen(IDS[::-1]) == chosen(IDS)
    assert len({frozenset(chosen(IDS, seed)) for seed in range(8)}) > 4
    assert len({frozenset(chosen(IDS, number=number)) for number in range(8)}) > 4
    often = [sum(id in chosen(IDS, number=number) for number in range(200)) for id in IDS]
    assert all(100 - 36 < count < 100 + 36 for count in often)  # five standard deviations


def test_other_methods_are_as_they_were() -> None:
    for method, writer in (("sft", "demonstration"), ("offline", "teacher"), ("sdft", "student")):
        assert writers(MethodConfig(method=method), 0, IDS, 8) == [writer] * 8  # type: ignore[arg-type]


@pytest.mark.parametrize("of", ["demonstration", "teacher"])
def test_a_mixture_is_compared_with_the_teacher_whoever_wrote(tmp_path: Path, of: str) -> None:
    engine = Scripted(script())
    step, pairs = make_step(tmp_path, engine=engine, **MIXED, mixture_of=of, mixture_share=0.5)
    samples = step.rollout(pairs, 0)
    assert [sample.writer for sample in samples].count(of) == 4  # type: ignore[arg-type]
    assert {sample.target for sample in samples} == {"teacher"}
    asked = [prompt for prompts, _ in engine.calls for prompt in prompts]
    for sample in samples:
        if sample.writer == "demonstration":
            assert sample.rollout.completion_ids == sample.pair.demonstration_ids
        else:
            prompt = sample.pair.teacher_ids if sample.writer == "teacher" else sample.pair.student_ids
            assert list(prompt or ()) in asked
            assert sample.rollout == script()(prompt or ())
        assert len(sample.loss_positions) == len(sample.rollout.completion_ids)
    assert len(asked) == (4 if of == "demonstration" else 8)
    found: dict[str, Any] = {}
    step.on_part = lambda part, loss: found.update({part.target: loss.per_token})
    (batch,) = step.micro_batches(samples, 1)
    step.learn(batch)
    assert len(found["teacher"]) == sum(len(sample.loss_positions) for sample in samples)
    assert (found["teacher"] > 0).all()


def test_a_demonstration_of_several_turns_has_loss_on_the_assistants_only(tmp_path: Path) -> None:
    turns = [
        {"role": "assistant", "content": "ab"},
        {"role": "tool", "content": "cd"},
        {"role": "assistant", "content": "ef"},
    ]
    rows = [{"prompt": [{"role": "user", "content": "Hi"}], "demonstration": turns}] * 2
    skip = {"num_loss_tokens_to_skip": 1}
    step, pairs = make_step(tmp_path, rows=rows, engine=Scripted(script()), **MIXED, mixture_share=1.0, **skip)
    text = byte_tokenizer()
    for sample in step.rollout(pairs, 0):
        learned = [sample.rollout.completion_ids[at] for at in sample.loss_positions]
        assert text.decode(learned) == "b<|end|>ef<|end|>"  # without the first token, which is skipped


def test_a_long_demonstration_is_refused(tmp_path: Path) -> None:
    rows = [{"prompt": "Hi", "demonstration": "a" * 20}]
    message = mistake(make_step, tmp_path, rows=rows, engine=Scripted(script()), **MIXED | {"max_completion_length": 8})
    assert "the demonstration has 21 tokens, the limit is 8" in message


# -- several rollouts --------------------------------------------------------------------------------


def test_a_prompt_has_several_completions_and_an_anchor_too(tmp_path: Path) -> None:
    shared: dict[str, Any] = {"rollout_engine": "own", "anchor_share": 0.5}
    model, tokenizer = student(), byte_tokenizer()
    found = []
    for count in (1, 3):
        config = make_config(tmp_path, **shared, num_rollouts=count)
        pairs = training_pairs(ROWS, config, tokenizer, model.config)
        anchors = anchor_pairs([{"prompt": f"Say {n}."} for n in range(8)], config, tokenizer, model.config)
        found.append(Step(model, tokenizer, config, anchors=anchors).rollout(pairs, 0))
    one, three = found
    assert [sample.pair for sample in three] == [sample.pair for sample in one for _ in range(3)]
    assert [sample.target for sample in three] == ["teacher"] * 24 + ["start"] * 24
    assert len({sample.rollout.completion_ids for sample in three}) == 48
    assert [known(sample) for sample in three[::3]] == [known(sample) for sample in one]  # more seeds, not others
    assert sum(sample.weight * len(sample.loss_positions) for sample in three) == pytest.approx(1)


# -- rows of several processes -----------------------------------------------------------------------


class Share(Processes):
    """One of two processes, whose exchanges give its own numbers."""

    def __init__(self, rank: int) -> None:
        super().__init__(rank, 2)

    def totals(self, *numbers: float) -> list[float]:
        return list(numbers)


@pytest.mark.parametrize("settings", KINDS, ids=name)
def test_two_processes_write_what_one_does(tmp_path: Path, settings: dict[str, Any]) -> None:
    model, tokenizer = student(), byte_tokenizer()
    config = make_config(tmp_path, rollout_engine="own", **settings)
    pairs = training_pairs(ROWS, config, tokenizer, model.config)
    whole = Step(model, tokenizer, config).rollout(pairs, 3)
    config.per_device_train_batch_size //= 2
    shares = [Step(model, tokenizer, config, processes=Share(rank)).rollout(pairs, 3) for rank in (0, 1)]
    for at, sample in enumerate(whole):
        own = shares[at % 2][at // 2]
        assert (own.pair, own.writer, known(own)) == (sample.pair, sample.writer, known(sample))


def known(sample: Any) -> Any:
    """The completion without its logprobs, which are the same up to rounding."""
    return replace(sample.rollout, logprobs=None)


# -- runs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", KINDS, ids=name)
def test_three_steps_learn_and_say_who_wrote_what(tmp_path: Path, settings: dict[str, Any]) -> None:
    trainer = make_trainer(
        tmp_path, rollout_engine="own", rollouts_logged_per_step=None, max_steps=3, num_train_epochs=3, **settings
    )
    before = weights(trainer)
    trainer.train()
    assert any(not torch.equal(before[key], value) for key, value in weights(trainer).items())
    rows, logged = lines(tmp_path, "rollouts.jsonl"), steps(tmp_path)
    assert all(0 < line["loss"] < 20 for line in logged)
    assert len(rows) == 24 * settings.get("num_rollouts", 1)
    source = settings.get("completion_source")
    replaced, tokens = [row["replaced"] for row in rows], [len(row["completion_ids"]) for row in rows]
    for number, line in enumerate(logged):
        own = range(8 * number, 8 * number + 8)
        if source == "interleaved":
            assert line["replaced_share"] == pytest.approx(
                sum(len(replaced[at]) for at in own) / sum(tokens[at] for at in own)
            )
            assert 0 < line["replaced_share"] < 1
        if source == "accepted":
            rejected = [rows[at]["finish_reason"] == "rejected" for at in own]
            assert line["rejected_share"] == sum(rejected) / 8 > 0
            assert line["accepted_tokens"] == (sum(tokens[at] for at in own) - sum(rejected)) / 8
        if source == "mixture":
            assert line["mixture_share"] == sum(rows[at]["writer"] != "student" for at in own) / 8
    shown = {"interleaved": {"replaced_share"}, "accepted": {"rejected_share", "accepted_tokens"}}
    shown["mixture"] = {"mixture_share"}
    all_names = {metric for names in shown.values() for metric in names}
    assert all_names & logged[0].keys() == shown.get(source or "", set())
    if source == "mixture":
        assert [line["mixture_share"] for line in logged] == (
            [1, 0.75, 0.5] if settings["mixture_share"] == 1 else [0.25] * 3
        )


@pytest.mark.parametrize("settings", [KINDS[0], KINDS[3]], ids=name)
def test_a_resumed_run_writes_the_same(tmp_path: Path, settings: dict[str, Any]) -> None:
    chosen = {**CHECKPOINTS, "rollout_engine": "own", "rollouts_logged_per_step": None, **settings}
    make_trainer(tmp_path / "whole", **chosen).train()
    make_trainer(tmp_path / "cut", **chosen).train()
    (tmp_path / "cut" / "checkpoint-4").rename(tmp_path / "last")
    assert resumed(make_trainer(tmp_path / "cut", **chosen)) == []
    assert lines(tmp_path / "cut", "rollouts.jsonl") == lines(tmp_path / "whole", "rollouts.jsonl")


@pytest.mark.parametrize("kind", ["ema", "frozen", "live"])
@pytest.mark.parametrize("home", ["device", "host"])
def test_every_teacher_judges_with_its_own_weights(tmp_path: Path, kind: str, home: str) -> None:
    """The student was moved: a frozen teacher that reads the same prompt rejects, a live one does not."""
    rows = [{"prompt": f"Say {n}"} for n in range(8)]
    base = dict(random_model(vocab_size=300, max_position_embeddings=512).named_parameters())
    settings: dict[str, Any] = {"method": "reinvoke"} if kind == "frozen" else {"teacher": kind}
    home_of = {} if kind == "live" else {"teacher_home": home}
    rows = rows if kind == "frozen" else ROWS
    model, tokenizer = student(), byte_tokenizer()
    config = make_config(tmp_path, completion_source="accepted", **settings, **home_of)
    pairs = [
        pair if kind == "frozen" else replace(pair, teacher_ids=pair.student_ids)
        for pair in training_pairs(rows, config, tokenizer, model.config)
    ]
    step = Step(model, tokenizer, config, base_weights=base if kind == "frozen" else None)
    assert {sample.rollout.finish_reason for sample in step.rollout(pairs, 0)} <= {"stop", "length"}
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    torch.manual_seed(0)
    for key in before:
        step.masters.set_value(key, before[key] + 0.1 * torch.randn_like(before[key]))
    moved = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    reasons = {sample.rollout.finish_reason for sample in step.rollout(pairs, 1)}
    assert ("rejected" in reasons) == (kind != "live")
    assert all(torch.equal(moved[key], parameter) for key, parameter in model.named_parameters())


# -- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"completion_source": "both"}, "'both' is not one of student, mixture, interleaved, accepted"),
        (
            {"completion_source": "accepted", "rollout_engine": "generate"},
            "completion_source=accepted takes our own decoding loop, in which the teacher looks at every token, not "
            "rollout_engine generate.",
        ),
        (
            {**MIXED, "mixture_target": "tokens", "mixture_share": 1.0},
            "mixture_target=tokens with mixture_share=1 and no mixture_steps learns demonstrations alone. Take method",
        ),
        (
            {"completion_source": "interleaved", "divergence": "reverse_kl", "divergence_support": "sampled"},
            "is biased with completion_source interleaved, whose tokens are not the student's own draws",
        ),
        (
            {"method": "reinvoke", "completion_source": "mixture"},
            "mixture_of: method reinvoke has no demonstrations. Take mixture_of teacher",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    assert words in mistake(make_config, tmp_path, **settings)


def test_what_is_accepted_is_drawn_by_the_student(tmp_path: Path) -> None:
    sampled = {"divergence": "reverse_kl", "divergence_support": "sampled"}
    assert refusal(make_config, tmp_path, completion_source="accepted", **sampled) is None


def test_an_engine_of_ones_own_can_not_ask_the_teacher(tmp_path: Path) -> None:
    message = mistake(make_step, tmp_path, engine=Scripted(script()), completion_source="interleaved")
    assert "completion_source=interleaved takes our own decoding loop. The engine is Scripted." in message


def test_a_model_that_our_loop_does_not_know_is_named(tmp_path: Path) -> None:
    model, tokenizer = random_model("gpt2", vocab_size=300, n_embd=16, n_layer=1, n_head=2), byte_tokenizer()
    message = mistake(Step, model, tokenizer, make_config(tmp_path, completion_source="accepted"))
    assert "takes our own decoding loop. Our decoding loop does not know models of type gpt2." in message


@pytest.mark.parametrize(("elsewhere", "cap", "refused"), [(True, 2.0, True), (True, None, False), (False, 2.0, False)])
def test_what_nobody_sampled_has_no_importance_weight(
    tmp_path: Path, elsewhere: bool, cap: float | None, refused: bool
) -> None:
    engine = Scripted(script(), samples_elsewhere=elsewhere)
    if refused:
        assert "has no importance weight" in mistake(make_step, tmp_path, engine=engine, **MIXED)
    else:
        taken = {**MIXED, "sampler_correction_cap": cap}
        assert refusal(make_step, tmp_path, engine=engine, **taken) is None


# -- cost --------------------------------------------------------------------------------------------


def test_flops_count_the_teachers_reading_in_sampling(tmp_path: Path) -> None:
    found = []
    for settings in ({}, {"completion_source": "interleaved"}):
        step, pairs = make_step(tmp_path, rollout_engine="own", **settings)
        samples = step.rollout(pairs, 0)
        (batch,) = step.micro_batches(samples, 1)
        head_and_layers = sum(p.numel() for key, p in step.model.named_parameters() if "embed_tokens" not in key)
        own = sum(8 * sample.student_tokens + 2 * sample.teacher_tokens for sample in samples)
        found.append((step.flops(batch) / head_and_layers - own, sum(2 * sample.teacher_tokens for sample in samples)))
    assert found[0][0] == 0
    assert found[1][0] == found[1][1] > 0


def test_the_estimate_knows_more_rollouts_and_both_caches() -> None:
    shared: dict[str, Any] = {"weight_bytes": 2000, "num_trainable": 1000, "bytes_per_weight": 2, "adapter": False}
    sizes: dict[str, Any] = {"lengths": [50, 40], "longest_prompt": 6, "other": TeacherSize(longest_prompt=9)}
    batch: dict[str, Any] = {
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 2,
        "max_completion_length": 10,
    }

    def of(**settings: Any) -> Any:
        return estimate(random_model().config, MethodConfig(**batch | settings), **shared, **sizes)

    plain, twice, both = of(), of(num_rollouts=2), of(completion_source="accepted")
    assert twice.activations == 2 * plain.activations
    cache, logits = 2 * 2 * 8 * 2, 28 * 40
    assert plain.rollouts == 2 * (cache * (6 + 6 + 10) + logits) + 2000
    assert twice.rollouts == 4 * (cache * (6 + 6 + 10) + logits) + 2000
    teacher = 2 * (cache * (9 + 9 + 10) + logits) + 2000  # its weights are packed, too
    assert both.rollouts == plain.rollouts + teacher + 2 * 1000  # an ema teacher's are made for it
    assert (both.activations, both.loss) == (plain.activations, plain.loss)
