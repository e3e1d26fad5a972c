"""Rollouts to tensors: the right hidden states, the right weights, and nothing that depends on the grouping."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from selfdistill.method.batch import MicroBatch, Sample, Scored, loss_positions, micro_batches, weigh
from selfdistill.method.divergence import chunked_divergence
from selfdistill.method.scoring import logprobs, predictions
from selfdistill.models.output_head import decoder, output_head
from selfdistill.types import Example, FinishReason, PromptPair, Rollout, Target

CPU = torch.device("cpu")
THINK_END = (8, 9)


def rollout(*ids: int, finish: FinishReason = "stop", logprobs: tuple[float, ...] | None = None) -> Rollout:
    return Rollout(completion_ids=ids, finish_reason=finish, logprobs=logprobs)


def sample(
    student: list[int],
    teacher: list[int] | None,
    completion: list[int],
    *,
    positions: tuple[int, ...] | None = None,
    target: Target = "teacher",
    logprobs: tuple[float, ...] | None = None,
) -> Sample:
    example = Example(id="x", prompt=({"role": "user", "content": "x"},))
    return Sample(
        pair=PromptPair(
            example=example, student_ids=tuple(student), teacher_ids=None if teacher is None else tuple(teacher)
        ),
        rollout=rollout(*completion, logprobs=logprobs),
        loss_positions=tuple(range(len(completion))) if positions is None else positions,
        target=target,
    )


def some_samples() -> list[Sample]:
    """Unequal prompts and completions, one without the first tokens in the loss, one anchor, one with no loss."""
    return [
        sample([3, 4], [5, 6, 7, 3, 4], [10, 11, 2]),
        sample([5, 6, 7, 8, 9], [12, 5, 6, 7, 8, 9], [13, 14, 15, 16, 17, 2], positions=(2, 3, 4, 5)),
        sample([18], [19, 20, 21, 22, 18], [23]),
        sample([3, 3, 3], [3, 3, 3], [24, 25, 2], target="start"),
        sample([26, 27], [28, 26, 27], [29, 30], positions=()),
        sample([31, 32, 33], [34, 31, 32, 33], [35, 36, 37, 38], positions=(0, 3)),
    ]


# -- which tokens carry loss -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "skip", "think_end", "expected"),
    [
        ((5, 6, 7), 0, (), (0, 1, 2)),
        ((5, 6, 7), 2, (), (2,)),
        ((5, 6, 7), 3, (), ()),
        ((5, 6, 7), 9, (), ()),
        ((), 3, (), ()),
        # after the tag's two ids at 2 and 3 the skipped ones are 4 and 5; thoughts and tag carry loss
        ((5, 6, 8, 9, 1, 2, 3), 2, THINK_END, (0, 1, 2, 3, 6)),
        ((5, 6, 8, 9, 1), 2, THINK_END, (0, 1, 2, 3)),
        ((8, 9, 1, 8, 9, 2), 1, THINK_END, (0, 1, 3, 4, 5)),  # the first occurrence counts
        ((5, 6, 8), 2, THINK_END, (2,)),  # half a tag is none: as without
        ((9, 8, 1), 1, THINK_END, (1, 2)),
        ((5, 8, 9), 0, THINK_END, (0, 1, 2)),
    ],
)
def test_skipped_positions(ids, skip, think_end, expected):
    assert loss_positions(rollout(*ids), skip=skip, mask_truncated=True, think_end=think_end) == expected


def test_truncated_rollouts_carry_loss_unless_masked():
    cut = rollout(5, 6, 7, finish="length")
    assert loss_positions(cut, skip=1, mask_truncated=True) == ()
    assert loss_positions(cut, skip=1, mask_truncated=False) == (1, 2)


# -- how much a token weighs -----------------------------------------------------------------------


def test_weights_by_hand():
    samples = [sample([3], [3], [4] * 4), sample([3], [3], [4] * 3, positions=()), sample([3], [3], [4])]
    # two rollouts learn, with 4 and 1 tokens: 1/(2*4) and 1/(2*1); the empty one does not count
    assert [s.weight for s in weigh(samples, "rollout_mean")] == [1 / 8, 0, 1 / 2]
    # five tokens
    assert [s.weight for s in weigh(samples, "token_mean")] == [1 / 5, 0, 1 / 5]
    # only tokens in the loss count: here 2 of 4
    skipped = [sample([3], [3], [4] * 4, positions=(2, 3)), samples[2]]
    assert [s.weight for s in weigh(skipped, "rollout_mean")] == [1 / 4, 1 / 2]
    assert [s.weight for s in weigh(skipped, "token_mean")] == [1 / 3, 1 / 3]


def test_an_anchor_weighs_as_much_as_any_other_rollout():
    task = [sample([3], [3], [4] * 3), sample([3], [3], [4] * 3)]
    anchor = sample([3], None, [4] * 2, target="start")
    # three rollouts: each of the task's tokens 1/(3*3), each of the anchor's 1/(3*2); or eight tokens in all
    assert [s.weight for s in weigh([*task, anchor], "rollout_mean")] == [1 / 9, 1 / 9, 1 / 6]
    assert [s.weight for s in weigh([*task, anchor], "token_mean")] == [1 / 8] * 3


@pytest.mark.parametrize("reduction", ["rollout_mean", "token_mean"])
def test_weights_of_all_loss_tokens_add_up_to_one(reduction):
    weighed = weigh(some_samples(), reduction)
    assert sum(s.weight * len(s.loss_positions) for s in weighed) == pytest.approx(1)


def test_weights_of_nothing():
    empty = sample([3], [3], [4], positions=())
    for reduction in ("rollout_mean", "token_mean"):
        assert weigh([], reduction) == []
        assert [s.weight for s in weigh([empty], reduction)] == [0.0]


def test_weighing_keeps_the_rest_of_a_sample():
    before = sample([3, 4], [5, 3, 4], [6, 7], positions=(1,), target="start", logprobs=(-1.0, -2.0))
    (after,) = weigh([before], "rollout_mean")
    assert (after.pair, after.rollout, after.loss_positions, after.target) == (
        before.pair,
        before.rollout,
        (1,),
        "start",
    )


# -- tensors ---------------------------------------------------------------------------------------


def test_tensors_by_hand(passes):
    samples = [
        sample([3, 4], [9, 3, 4], [5, 6, 2], positions=(1, 2), logprobs=(-0.1, -0.2, -0.3)),
        sample([7], [9, 9, 7], [8], logprobs=(-0.4,)),
    ]
    (batch,) = micro_batches(weigh(samples, "rollout_mean"), 1, 0, CPU)
    (part,) = batch.parts
    assert part.teacher is not None
    if passes is not None:
        assert [p.input_ids.tolist() for p in part.student] == [[[3, 4, 5, 6], [7, 0, 0, 0]]]
        assert [p.input_ids.tolist() for p in part.teacher] == [[[9, 3, 4, 5, 6]], [[9, 9, 7]]]
        assert [p.rows.tolist() for p in part.teacher] == [[3, 4], [2]]
        return
    (student,), (teacher,) = part.student, part.teacher
    assert student.input_ids.tolist() == [[3, 4, 5, 6], [7, 0, 0, 0]]  # no completion's last token
    # position 1 of the completion is predicted at index 2 of the row, 2 at 3; the second row starts at 4
    assert student.rows.tolist() == [2, 3, 4]
    assert teacher.input_ids.tolist() == [[9, 3, 4, 5, 6], [9, 9, 7, 0, 0]]
    assert teacher.rows.tolist() == [3, 4, 7]
    assert part.token_ids.tolist() == [6, 2, 8]
    assert part.weights.tolist() == [1 / 4, 1 / 4, 1 / 2]
    assert part.sampler_logprobs is not None
    assert part.sampler_logprobs.tolist() == pytest.approx([-0.2, -0.3, -0.4])
    assert part.counts == [2, 1]
    assert {part.token_ids.dtype, student.rows.dtype, student.input_ids.dtype} == {torch.int64}
    assert part.weights.dtype == torch.float32


def test_sampler_logprobs_need_all_samples():
    samples = [sample([3], [3], [4], logprobs=(-1.0,)), sample([3], [3], [4])]
    (batch,) = micro_batches(samples, 1, 0, CPU)
    assert batch.parts[0].sampler_logprobs is None


def test_given_tokens_have_no_teacher_and_its_prompt_is_not_counted():
    taught = sample([3], [5, 6, 7, 8], [4, 2])
    given = replace(taught, target="tokens")
    (batch,) = micro_batches([given], 1, 0, CPU)
    assert batch.parts[0].teacher is None
    assert (given.student_tokens, given.teacher_tokens) == (1 + 2, 0)
    assert (taught.student_tokens, taught.teacher_tokens) == (1 + 2, 4 + 2)


def test_without_a_prompt_of_its_own_the_teacher_reads_the_students():
    anchor = sample([3, 4], None, [5, 2], target="start")
    (batch,) = micro_batches([anchor], 1, 0, CPU)
    (part,) = batch.parts
    assert part.teacher is not None
    assert anchor.teacher_tokens == 2 + 2
    assert [p.input_ids.tolist() for p in part.teacher] == [p.input_ids.tolist() for p in part.student] == [[[3, 4, 5]]]


@pytest.mark.parametrize("count", range(1, 9))
def test_exactly_as_many_micro_batches_as_asked_for(count):
    samples = some_samples()
    batches = micro_batches(samples, count, 0, CPU)
    assert len(batches) == count
    held = [id(s) for batch in batches for s in batch.samples]
    assert sorted(held) == sorted(id(s) for s in samples if s.loss_positions)  # each learning sample once
    assert max(len(batch.samples) for batch in batches) == -(-5 // count)
    for batch in batches:
        assert len({part.target for part in batch.parts}) == len(batch.parts)


def test_nothing_to_learn_gives_empty_micro_batches():
    empty = sample([3], [3], [4], positions=())
    assert micro_batches([empty], 2, 0, CPU) == [MicroBatch(parts=())] * 2
    assert micro_batches([], 1, 0, CPU) == [MicroBatch(parts=())]


def test_longest_samples_come_first():
    samples = [sample([3] * n, [3] * (n + 1), [4]) for n in (2, 9, 4, 7)]
    batches = micro_batches(samples, 4, 0, CPU)
    assert [s.teacher_tokens for batch in batches for s in batch.samples] == [11, 9, 6, 4]


# -- against a model -------------------------------------------------------------------------------


def hidden(model: PreTrainedModel, passes: tuple[Scored, ...]) -> Tensor:
    return predictions(model, passes).hidden


@pytest.fixture(params=[None, 8], ids=["one-pass", "several-passes"], autouse=True)
def passes(request, monkeypatch):
    """All of it with everything in one forward pass, and in passes of at most 8 tokens."""
    monkeypatch.setattr("selfdistill.method.batch.tokens_per_forward", lambda _: request.param)
    return request.param


def test_passes_are_trimmed_each_to_its_own_longest(monkeypatch):
    monkeypatch.setattr("selfdistill.method.batch.tokens_per_forward", lambda _: 8)
    samples = [sample([1] * 3, [1] * 6, [2, 2]), sample([1] * 2, [1] * 2, [2, 2]), sample([1], [1], [2, 2])]
    (batch,) = micro_batches(samples, 1, 0, CPU)
    assert batch.parts[0].teacher is not None
    # 7 tokens fill the first pass; 3 and 2 fit a second one: 2 rows of 3
    assert [tuple(p.input_ids.shape) for p in batch.parts[0].teacher] == [(1, 7), (2, 3)]
    assert [tuple(p.input_ids.shape) for p in batch.parts[0].student] == [(2, 4), (1, 2)]


def test_both_roles_predict_the_same_tokens_after_unequal_prompts():
    samples = [sample([3, 4], [9] * 5, [11, 12, 2], positions=(0, 2)), sample([7] * 4, [8], [13, 14])]
    (batch,) = micro_batches(samples, 1, 0, CPU)
    (part,) = batch.parts
    assert part.teacher is not None
    # the token before a loss token, in the pass that is flattened: the prompt's last one or a completion's
    before = {
        role: torch.cat([p.input_ids.flatten()[p.rows] for p in passes]).tolist()
        for role, passes in (("student", part.student), ("teacher", part.teacher))
    }
    assert before == {"student": [4, 12, 7, 13], "teacher": [9, 12, 8, 13]}
    assert part.token_ids.tolist() == [11, 2, 13, 14]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gemma3_text"])
@pytest.mark.parametrize("role", ["student", "teacher"])
@torch.no_grad()
def test_rows_are_those_of_unpadded_runs(tiny_model, family, role):
    model = tiny_model(family, **({"final_logit_softcapping": 3.0} if family == "gemma2" else {}))
    for batch in micro_batches(some_samples(), 2, 0, CPU):
        for part in batch.parts:
            expected, expected_logprobs = [], []
            for s in part.samples:
                prompt = s.pair.student_ids if role == "student" else s.teacher_ids
                completion = s.rollout.completion_ids
                alone = torch.tensor([[*prompt, *completion]])
                states = decoder(model)(input_ids=alone, use_cache=False).last_hidden_state[0]
                dense = model(input_ids=alone, use_cache=False).logits[0].log_softmax(-1)
                for at in s.loss_positions:  # the token before a completion token predicts it
                    expected.append(states[len(prompt) + at - 1])
                    expected_logprobs.append(dense[len(prompt) + at - 1, completion[at]])
            predicted = predictions(model, getattr(part, role))
            torch.testing.assert_close(predicted.hidden, torch.stack(expected), rtol=1e-4, atol=1e-5)
            ours = logprobs(predicted, part.token_ids)
            torch.testing.assert_close(ours, torch.stack(expected_logprobs), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_what_padding_holds_changes_nothing(tiny_model, monkeypatch):
    monkeypatch.setattr("selfdistill.method.batch.tokens_per_forward", lambda _: None)
    model = tiny_model("llama")
    zeros, fives = (micro_batches(some_samples(), 1, pad, CPU)[0].parts[-1].student for pad in (0, 5))
    assert any(not torch.equal(a.input_ids, b.input_ids) for a, b in zip(zeros, fives, strict=True))
    assert torch.equal(hidden(model, zeros), hidden(model, fives))


def gradients(model: PreTrainedModel, batches: list[MicroBatch]) -> dict[str, Tensor]:
    """Summed over micro-batches, as gradient accumulation does; the teacher is the same model, undifferentiated."""
    model.zero_grad()
    for batch in batches:
        for part in batch.parts:
            assert part.teacher is not None
            with torch.no_grad():
                teacher = hidden(model, part.teacher)
            head = output_head(model)
            per_token = chunked_divergence(hidden(model, part.student), head, teacher, head.detach(), chunk_size=3)
            (per_token * part.weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("reduction", ["rollout_mean", "token_mean"])
@pytest.mark.parametrize("count", [2, 3, 5, 7])
def test_any_number_of_micro_batches_gives_the_same_gradient(tiny_model, reduction, count):
    model = tiny_model("llama")
    samples = weigh(some_samples(), reduction)
    once = gradients(model, micro_batches(samples, 1, 0, CPU))
    split = gradients(model, micro_batches(samples, count, 0, CPU))
    assert once.keys() == split.keys() == dict(model.named_parameters()).keys()
    assert max(g.abs().max() for g in once.values()) > 1e-2
    for name, gradient in once.items():
        torch.testing.assert_close(split[name], gradient, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_weighted_sum_is_the_mean_over_rollouts_of_their_means(tiny_model):
    model = tiny_model("llama")
    head = output_head(model)

    def per_token(s: Sample) -> Tensor:
        completion = s.rollout.completion_ids
        student, teacher = (
            model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            for prompt in (s.pair.student_ids, s.teacher_ids)
        )
        return (teacher.exp() * (teacher - student)).sum(-1)[list(s.loss_positions)]

    learning = [s for s in some_samples() if s.loss_positions]
    expected = torch.stack([per_token(s).mean() for s in learning]).mean()
    loss = torch.zeros(())
    for batch in micro_batches(weigh(some_samples(), "rollout_mean"), 3, 0, CPU):
        for part in batch.parts:
            assert part.teacher is not None
            values = chunked_divergence(hidden(model, part.student), head, hidden(model, part.teacher), head)
            loss += (values * part.weights).sum()
    assert expected > 0.1
    torch.testing.assert_close(loss, expected)
