"""What ``chat`` refuses before anything is loaded."""

from typing import Any

import pytest

from selfdistill.settings.chat import ChatOptions
from tests.support.mistakes import mistake, refusal


@pytest.mark.parametrize(
    "given",
    [{}, {"web": True}, {"web": True, "port": 0}, {"web": True, "port": 65535}, {"temperature": 1, "top_p": 0.5}],
)
def test_what_is_taken(given: dict[str, Any]):
    assert refusal(ChatOptions(**given).check) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"port": 7860}, "--port 7860 is for the page only. Give --web too."),
        ({"web": True, "port": -1}, "--port -1 is no port."),
        ({"web": True, "port": 65536}, "--port 65536 is no port."),
        ({"max_new_tokens": 0}, "max_new_tokens: 0 is not at least 1."),
        ({"temperature": -0.5}, "--temperature -0.5 is not between 0"),
        ({"top_p": 0.9}, "--top_p 0.9 changes nothing in greedy decoding."),
        ({"dtype": "int8"}, "dtype: 'int8' is not one of auto, float32, bfloat16, float16."),
    ],
)
def test_what_is_refused(given: dict[str, Any], message: str):
    assert mistake(ChatOptions(**given).check).startswith(message)
