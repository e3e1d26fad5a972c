"""Groups of options that several commands take: what each refuses."""

import math

import pytest

from selfdistill.settings.fields import check_fields
from selfdistill.settings.groups import AdapterOptions, DataOptions, ModelOptions, TrainerOptions, check_sampling
from tests.support.mistakes import mistake, refusal


def test_nothing_is_trained_in_float16():
    for dtype in ("auto", "float32", "bfloat16"):
        ModelOptions(dtype=dtype).check()
    message = mistake(ModelOptions(dtype="float16").check)
    assert message.startswith("--dtype float16: most gradients of this loss are too small")
    assert message.endswith("Train in bfloat16 or float32.")


def test_a_scale_needs_an_adapter():
    AdapterOptions(lora_r=4).check()
    AdapterOptions(lora_r=4, lora_alpha=8).check()
    assert "Give --lora_r too" in mistake(AdapterOptions(lora_alpha=8).check)
    assert mistake(AdapterOptions(lora_r=0).check) == "lora_r: 0 is not at least 1."
    assert mistake(AdapterOptions(lora_r=1, lora_alpha=0).check) == "lora_alpha: 0 is not at least 1."


def test_numbers_of_rows():
    assert mistake(TrainerOptions(preflight_rows=0).check) == "preflight_rows: 0 is not at least 1."
    assert mistake(check_fields, DataOptions(limit=0)) == "limit: 0 is not at least 1."


@pytest.mark.parametrize(("temperature", "top_p"), [(0, 1), (0.0, 1.0), (1, 0.5), (1000, 1e-6)])
def test_what_a_sampler_takes(temperature: float, top_p: float):
    assert refusal(check_sampling, temperature, top_p) is None


@pytest.mark.parametrize(
    ("temperature", "top_p", "message"),
    [
        (-1, 1, "--temperature -1 is not between 0 (greedy decoding) and 1000."),
        (1001, 1, "--temperature 1001 is not between"),
        (math.nan, 1, "--temperature nan is not between"),
        (1, 0, "--top_p 0 is not above 0 and at most 1."),
        (1, 1.5, "--top_p 1.5 is not above 0 and at most 1."),
        (1, math.nan, "--top_p nan is not above 0 and at most 1."),
        (0, 0.9, "--top_p 0.9 changes nothing in greedy decoding. Give --temperature 1."),
    ],
)
def test_what_no_sampler_takes(temperature: float, top_p: float, message: str):
    assert mistake(check_sampling, temperature, top_p).startswith(message)
