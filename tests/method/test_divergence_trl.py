"""Agreement with TRL's public functions, and where its conventions differ from ours.

- TRL has one number for three divergences (``alpha`` in its SDFT, ``beta`` in its GKD): 0 is KL(teacher || student),
  1 is KL(student || teacher), anything between is the generalised JSD with that weight on the teacher. We name the
  divergence instead. The JSD falls to zero towards both ends, so TRL's value jumps there: by a factor of about 100
  between 0.01 and 0.
- TRL's top k is always the student's; with a tail it gets the rest as 1 - P(top k).
- TRL's sampled-token loss has the right gradient but not the value of a KL: it is ratio * log q(y), ours is the ratio.
"""

import pytest
import torch

from selfdistill.method.divergence import chunked_divergence, chunked_sampled_divergence
from tests.support.dense_oracle import Case, make_case, with_gradients

TOKENS, VOCABULARY = 6, 31
NAMES = {0.0: {"kind": "forward_kl"}, 1.0: {"kind": "reverse_kl"}}
ALPHAS = (0.0, 0.1, 0.5, 0.9, 1.0)


def named(alpha: float) -> dict:
    return NAMES.get(alpha, {"kind": "jsd", "beta": alpha})


@pytest.fixture(scope="module")
def trl_losses():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
        pytest.importorskip("trl")
        from trl.experimental.sdft import loss_utils
    return loss_utils


@pytest.fixture(scope="module")
def generalized_jsd_loss(trl_losses):
    from trl.experimental.gkd import GKDTrainer

    return GKDTrainer.generalized_jsd_loss


def logits(case: Case):
    return case.student_hidden @ case.student_head.T, case.teacher_hidden @ case.teacher_head.T


def assert_same(ours, theirs, *, values: bool = True) -> None:
    weights = torch.linspace(-1, 2, TOKENS)
    case = make_case(TOKENS, VOCABULARY, spread=2.0)
    a, b = with_gradients(ours, case, weights), with_gradients(theirs, case, weights)
    torch.testing.assert_close(a[1:], b[1:])
    assert torch.allclose(a[0], b[0]) == values


@pytest.mark.parametrize("alpha", ALPHAS)
def test_full_vocabulary(trl_losses, alpha):
    assert_same(
        lambda c: chunked_divergence(*c.tensors, chunk_size=4, **named(alpha)),
        lambda c: trl_losses.compute_full_logit_self_distillation_loss(*logits(c), distillation_alpha=alpha),
    )


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("tail", [False, True])
def test_top_k_of_the_student(trl_losses, alpha, tail):
    assert_same(
        lambda c: chunked_divergence(*c.tensors, top_k=5, top_k_of="student", tail=tail, chunk_size=4, **named(alpha)),
        lambda c: trl_losses.compute_topk_self_distillation_loss(
            *logits(c), distillation_topk=5, distillation_alpha=alpha, distillation_add_tail=tail
        ),
    )


def test_sampled_token_has_the_same_gradient_and_another_value(trl_losses):
    token_ids = torch.tensor([0, 30, 7, 7, 12, 1])
    assert_same(
        lambda c: chunked_sampled_divergence(*c.tensors, token_ids=token_ids, chunk_size=4),
        lambda c: trl_losses.compute_sampled_token_self_distillation_loss(
            *logits(c), token_ids, distillation_alpha=1.0
        ),
        values=False,
    )


@pytest.mark.parametrize("beta", ALPHAS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_gkd(generalized_jsd_loss, beta, temperature):
    assert_same(
        lambda c: chunked_divergence(*c.tensors, temperature=temperature, chunk_size=4, **named(beta)),
        lambda c: generalized_jsd_loss(*logits(c), beta=beta, temperature=temperature, reduction="none").sum(-1),
    )


def test_trls_alpha_jumps_at_its_end_and_our_names_do_not(trl_losses):
    case = make_case(TOKENS, VOCABULARY, spread=0.5)
    at_end, near_end = (
        trl_losses.compute_full_logit_self_distillation_loss(*logits(case), distillation_alpha=alpha)
        for alpha in (0.0, 0.01)
    )
    assert 90 < (at_end / near_end).mean().item() < 120
    ours = chunked_divergence(*case.tensors, kind="jsd", beta=0.01)
    torch.testing.assert_close(ours, near_end)
