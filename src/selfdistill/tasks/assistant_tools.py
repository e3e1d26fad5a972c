"""Task ``assistant-tools``: pick one of three tools and answer with one JSON object.

The rows are made from the phrasings and values in ``assistant_tools_data/*.toml``, with one file for each part:
``training`` (also for the evaluation part ``new-combinations``), ``new_phrasings`` and ``new_tools``.
"""

import json
import random
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import permutations
from typing import Any, TypeVar

from selfdistill.errors import UserError
from selfdistill.tasks.task import Task
from selfdistill.types import Example

NAME = "assistant-tools"
DEFAULT_SEED = 2601
NUM_TRAIN = 1600
NUM_NEW_COMBINATIONS = 200
NUM_NEW_PHRASINGS = 100
NUM_NEW_TOOLS = 100
NUM_DISTRACTORS = 2
MAX_MISSES = 1000
"""Draws without a new request after which a tool's combinations count as used up."""

PROMPT = "Request: {request}\nTools:\n{tools}\nChoose the tool that fits and fill in what it needs."
"""Names no output format: the shape of the answer is what the demonstration teaches."""

CALL_START = re.compile(r'\s*(?:```(?:json)?\s*)?\{\s*"tool"')

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool of the assistant, with the material for requests that need it."""

    name: str
    values: Mapping[str, tuple[str, ...]]
    """Values to draw from, by parameter."""
    phrasings: tuple[str, ...]
    """Requests with a ``{parameter}`` in place of every value."""

    @property
    def listing(self) -> str:
        """The tool's line in a prompt. Never ``name(parameter)``: models copy that form into their answers."""
        return f"- {self.name}: needs " + " and ".join(f'"{parameter}"' for parameter in self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a user asks for, and the call that answers it."""

    text: str
    tool: Tool
    arguments: Mapping[str, str]


def read_tools(file_name: str) -> tuple[Tool, ...]:
    """The tools of one file in ``assistant_tools_data``, in its order."""
    file = resources.files("selfdistill.tasks") / "assistant_tools_data" / file_name
    content = tomllib.loads(file.read_text(encoding="utf-8"))
    return tuple(
        Tool(
            name=name,
            values={parameter: tuple(content["values"][kind]) for parameter, kind in entry["needs"].items()},
            phrasings=tuple(entry["phrasings"]),
        )
        for name, entry in content["tools"].items()
    )


def training_rows(num_rows: int = NUM_TRAIN, seed: int = DEFAULT_SEED) -> list[Example]:
    """Training rows, balanced over tools; a smaller ``num_rows`` gives the first rows of a larger one.

    None repeats a request of ``evaluation_rows(seed)``. Raises UserError if the vocabulary has too few combinations.
    """
    tools = read_tools("training.toml")
    taken = {request.text for request in _new_combinations(tools, seed)}
    requests = _draw(tools, num_rows, random.Random(f"{seed}/train"), taken)
    return _examples("train", requests, tools, random.Random(f"{seed}/train/listings"))


def evaluation_rows(seed: int = DEFAULT_SEED) -> list[Example]:
    """Evaluation rows, part by part, each balanced over its tools. They have no demonstration."""
    trained, new = read_tools("training.toml"), read_tools("new_tools.toml")
    requests = {
        "new-combinations": _new_combinations(trained, seed),
        "new-phrasings": _draw(
            read_tools("new_phrasings.toml"), NUM_NEW_PHRASINGS, random.Random(f"{seed}/phrasings"), set()
        ),
        "new-tools": _draw(new, NUM_NEW_TOOLS, random.Random(f"{seed}/tools"), set()),
    }
    rng = random.Random(f"{seed}/eval/listings")
    rows: list[Example] = []
    for part, drawn in requests.items():
        listable = trained + new if part == "new-tools" else trained
        rows += _examples("eval", drawn, listable, rng, part=part, first=len(rows))
    return rows


def _new_combinations(tools: Sequence[Tool], seed: int) -> list[Request]:
    # Drawn before the training rows, which avoid them, so that evaluation rows do not depend on NUM_TRAIN.
    return _draw(tools, NUM_NEW_COMBINATIONS, random.Random(f"{seed}/combinations"), set())


def _draw(tools: Sequence[Tool], count: int, rng: random.Random, taken: set[str]) -> list[Request]:
    """``count`` requests whose texts are not in ``taken``; every round takes each tool once, in random order."""
    streams = [_fresh_requests(tool, rng, taken) for tool in tools]
    requests: list[Request] = []
    while len(requests) < count:
        for stream in rng.sample(streams, len(streams))[: count - len(requests)]:
            request = next(stream, None)
            if request is None:
                raise UserError(
                    f"{NAME}: {count} rows were asked for, but the vocabulary is used up after {len(requests)}. "
                    "Ask for fewer."
                )
            requests.append(request)
    return requests


def _fresh_requests(tool: Tool, rng: random.Random, taken: set[str]) -> Iterator[Request]:
    """New requests for one tool until there are no more; adds their texts to ``taken``."""
    phrasings = _shuffled_forever(tool.phrasings, rng)
    values = {parameter: _shuffled_forever(tool.values[parameter], rng) for parameter in tool.values}
    misses = 0
    while misses < MAX_MISSES:
        arguments = {parameter: next(stream) for parameter, stream in values.items()}
        text = next(phrasings).format(**arguments)
        # "50 euros in euros" is not a sensible request.
        repetitive = any(a in b for a, b in permutations(arguments.values(), 2))
        if repetitive or text in taken:
            misses += 1
            continue
        misses = 0
        taken.add(text)
        yield Request(text=text, tool=tool, arguments=arguments)


def _shuffled_forever(items: Sequence[_T], rng: random.Random) -> Iterator[_T]:
    # Unlike independent draws, this reaches every item before it repeats one.
    while True:
        yield from rng.sample(items, len(items))


def _examples(
    split: str,
    requests: Sequence[Request],
    listable: Sequence[Tool],
    rng: random.Random,
    *,
    part: str = "",
    first: int = 0,
) -> list[Example]:
    """Rows for the requests, numbered from ``first``, whose other listed tools come from ``listable``."""
    rows = []
    for number, request in enumerate(requests, start=first):
        others = [tool for tool in listable if tool.name != request.tool.name]
        listed = [request.tool, *rng.sample(others, NUM_DISTRACTORS)]
        rng.shuffle(listed)
        prompt = PROMPT.format(tools="\n".join(tool.listing for tool in listed), request=request.text)
        call = {"tool": request.tool.name, "arguments": dict(request.arguments)}
        answer = {"role": "assistant", "content": json.dumps(call)}
        rows.append(
            Example(
                id=f"{NAME}/{split}/{number}",
                prompt=({"role": "user", "content": prompt},),
                demonstration=(answer,) if split == "train" else (),
                reference=call,
                part=part,
            )
        )
    return rows


def exact_call(completion: str, example: Example) -> float:
    """1.0 if the completion is the reference call and nothing else, or in one fenced JSON block; else 0.0."""
    text = completion.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text.removesuffix("```").removeprefix("```").removeprefix("json")
    try:
        call = json.loads(text)
    except (ValueError, RecursionError):  # not JSON, or with an integer too long or nesting too deep
        return 0.0
    if not isinstance(call, dict) or not isinstance(call.get("arguments"), dict):
        return 0.0
    arguments = {name: _stripped(value) for name, value in call["arguments"].items()}
    stripped = {key: _stripped(value) for key, value in call.items()} | {"arguments": arguments}
    return float(stripped == example.reference)


def tool_choice(completion: str, example: Example) -> float:
    """1.0 if the first JSON object of the completion names the right tool, whatever else it says; else 0.0."""
    start = completion.find("{")
    if start < 0:
        return 0.0
    try:
        call, _ = json.JSONDecoder().raw_decode(completion, start)
    except (ValueError, RecursionError):
        return 0.0
    return float(_stripped(call.get("tool")) == example.reference["tool"])


def looks_like_call(text: str) -> bool:
    """True if the text begins like this task's answers: an object whose first key is tool, fenced or not."""
    return CALL_START.match(text) is not None


def _stripped(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


TASK = Task(
    name=NAME,
    description="Answer a request with the right one of three tools as a JSON object.",
    source="written for selfdistill",
    licence="Apache-2.0",
    revision="1",
    load_train=lambda _: training_rows(),
    load_eval=lambda _: evaluation_rows(),
    scorers={"exact_call": exact_call, "tool_choice": tool_choice},
    max_new_tokens=48,
    format_probe=looks_like_call,
)
