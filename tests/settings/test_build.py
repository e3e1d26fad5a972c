"""What ``build`` refuses before anything is read."""

from typing import Any

import pytest

from selfdistill.settings import flat
from selfdistill.settings.build import BuildOptions
from tests.support.mistakes import mistake, refusal

MEDICAL = {"task": "medical", "output_dir": "out", "source": "rows.jsonl"}
WIKI = {"task": "wiki", "output_dir": "out", "articles": "folder", "model_name": "m"}
SERVER = {"judge_url": "http://a", "judge_model": "m"}


def check(given: dict[str, Any]) -> None:
    flat.build(BuildOptions, given).check()


@pytest.mark.parametrize(
    "given",
    [
        MEDICAL,
        MEDICAL | {"answers": "a.jsonl", "num_eval": 1, "limit": 1},
        WIKI,
        WIKI | SERVER | {"model_name": None},
        WIKI | {"questions_per_passage": 1, "batch_size": 1, "dtype": "float32"},
    ],
)
def test_what_is_taken(given: dict[str, Any]):
    assert refusal(check, given) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (MEDICAL | {"output_dir": None}, "--output_dir is missing: name a folder for the data."),
        (MEDICAL | {"source": None}, "build medical: --source is missing. See selfdistill build --help."),
        (WIKI | {"articles": None}, "build wiki: --articles is missing. See selfdistill build --help."),
        (
            WIKI | {"model_name": None},
            "build wiki: name who writes the questions: --model_name, or a server's --judge_url and --judge_model.",
        ),
        (
            WIKI | {"judge_url": "http://a"},
            "build wiki: --judge_model is missing; --judge_url and --judge_model go together.",
        ),
        (
            WIKI | {"judge_model": "m"},
            "build wiki: --judge_url is missing; --judge_url and --judge_model go together.",
        ),
        (
            WIKI | SERVER,
            "--model_name m changes nothing where --judge_url writes the questions. Leave it out.",
        ),
        (
            WIKI | SERVER | {"model_name": None, "batch_size": 4},
            "--batch_size 4 changes nothing where --judge_url writes the questions. Leave it out.",
        ),
        (MEDICAL | {"judge_url": "http://a"}, "build medical takes no --judge_url. Leave it out."),
        (WIKI | {"answers": "b"}, "build wiki takes no --answers. Leave it out."),
        (WIKI | {"source": "b"}, "build wiki takes no --source. Leave it out."),
        (MEDICAL | {"model_name": "m"}, "build medical takes no --model_name. Leave it out."),
        (MEDICAL | {"questions_per_passage": 9}, "build medical takes no --questions_per_passage. Leave it out."),
        (MEDICAL | {"num_eval": 0}, "num_eval: 0 is not at least 1."),
        (MEDICAL | {"limit": -1}, "limit: -1 is not at least 1."),
        (WIKI | {"batch_size": 0}, "batch_size: 0 is not at least 1."),
    ],
)
def test_what_is_refused(given: dict[str, Any], message: str):
    assert mistake(check, given) == message
