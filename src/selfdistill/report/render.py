"""Renders results as one HTML page and as Markdown."""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import altair
import jinja2

from selfdistill.records.studies import QUESTION
from selfdistill.report import formats, wording
from selfdistill.report.contents import Answer, AnsweredRow, Results, Run, WatchedRow
from selfdistill.report.diff import Pieces, word_diff
from selfdistill.report.glossary import MEANINGS
from selfdistill.report.plots import CONFIG, all_plots
from selfdistill.report.table import Value
from selfdistill.report.tables import all_tables

MAX_BYTES = 3_000_000
"""Largest page; texts are clipped until it fits."""
CLIPS = (4_000, 1_500, 700, 300)
"""Limits in characters to which texts are clipped, tried in this order."""
PROMPT_END = 140
"""Characters of a folded prompt's last line that are shown."""
SHADES = 9
"""Number of the strongest shade of a token."""
FULL_SHADE = 2.0
"""Divergence in nats from which a token has the strongest shade."""
HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerView:
    """An answer as the page shows it."""

    name: str
    answer: Answer
    pieces: Pieces


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedView:
    """A row that was answered as a run learned, its texts clipped and the last answer compared with the first."""

    row: WatchedRow
    prompt: str
    prompt_end: str
    reference: str
    ends: list[AnswerView]
    """The first answer and the last."""
    between: list[AnswerView]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleView:
    """A sample with its texts clipped and compared."""

    sample: AnsweredRow
    prompt: str
    prompt_end: str
    """The prompt's last line, which usually is the question."""
    reference: str
    answers: list[AnswerView]


def to_markdown(results: Results) -> str:
    """The verdict, warnings, tables and versions as Markdown, without any text that a model wrote."""
    return _environment(escape=False).get_template("report.md.j2").render(_template_values(results))


def to_html(results: Results, clips: Sequence[int] = CLIPS) -> str:
    """The self-contained page; texts are clipped to the first limit in ``clips`` that keeps it within MAX_BYTES."""
    plots = all_plots(results)
    bundle = _vega() if plots else ""
    script = (HERE / "page.js").read_text(encoding="utf-8")
    values = _template_values(results) | {
        "plots": plots,
        "specs": {plot.name: plot.spec for plot in plots},
        "vega_config": CONFIG,
        "style": (HERE / "style.css").read_text(encoding="utf-8"),
        "scripts": [text for text in (script, bundle) if text],
        "policy": _policy([text for text in (script, bundle) if text]),
        "shade": shade,
    }
    template = _environment(escape=True).get_template("template.html.j2")
    page = ""
    for clip in clips:
        views = [sample_view(sample, clip) for sample in results.samples]
        rollouts = [(run, rollout) for run in _shown_runs(results) for rollout in run.rollouts]
        watched = [(run, watched_view(row, clip)) for run in _shown_runs(results) for row in run.watched]
        page = template.render(
            values, samples=views, rollouts=rollouts, watched=watched, max_tokens=clip // 8, clip=clip
        )
        if len(page.encode()) <= MAX_BYTES:
            break
    return page


def sample_view(sample: AnsweredRow, clip: int) -> SampleView:
    """Clips a sample's texts, and marks in each answer the words that the answer before training lacks."""
    answers: list[AnswerView] = []
    before = clipped(sample.before.completion, clip) if sample.before else ""
    marked_before: Pieces = [(False, before)]
    for run, answer in sample.after.items():
        text = clipped(answer.completion, clip)
        ours, theirs = word_diff(before, text) if sample.before else ([], [(False, text)])
        if len(sample.after) == 1 and sample.before:
            marked_before = ours
        name = run if len(sample.after) > 1 else "after"
        answers.append(AnswerView(name=name, answer=answer, pieces=theirs))
    if sample.before:
        answers.insert(0, AnswerView(name="before", answer=sample.before, pieces=marked_before))
    return SampleView(
        sample=sample,
        prompt=clipped(sample.prompt, clip),
        prompt_end=clipped(sample.prompt.strip().rpartition("\n")[2], PROMPT_END),
        reference=clipped(sample.reference, clip),
        answers=answers,
    )


def watched_view(row: WatchedRow, clip: int) -> WatchedView:
    """Clips a row's texts, and marks in its first and last answer the words that the other lacks."""
    texts = {step: clipped(answer.completion, clip) for step, answer in row.answers.items()}
    plain = [
        AnswerView(name=f"step {step:,}" if step else "before", answer=answer, pieces=[(False, texts[step])])
        for step, answer in row.answers.items()
    ]
    first, last = next(iter(texts.values())), next(reversed(texts.values()))
    ours, theirs = word_diff(first, last)
    ends = [replace(plain[0], pieces=ours), replace(plain[-1], pieces=theirs)] if len(plain) > 1 else plain
    return WatchedView(
        row=row,
        prompt=clipped(row.prompt, clip),
        prompt_end=clipped(row.prompt.strip().rpartition("\n")[2], PROMPT_END),
        reference=clipped(row.reference, clip),
        ends=ends,
        between=plain[1:-1],
    )


def clipped(text: str, limit: int) -> str:
    """The text, or its first ``limit`` characters and the number of characters left out."""
    return text if len(text) <= limit else f"{text[:limit]} … [{len(text) - limit:,} more characters]"


def shade(value: float | None) -> int:
    """Shade of a token, 0 to 9, by the square root of its divergence in nats."""
    if value is None or value <= 0:
        return 0
    return min(SHADES, round(SHADES * (value / FULL_SHADE) ** 0.5))


def facts_of(run: Run) -> dict[str, Any]:
    """Model, task, data and engine of a run, by name; what is not known is left out."""
    names = ("model_name", "task", "dataset", "num_training_rows", "rollout_engine")
    return {name: value for name in names if run.config and (value := getattr(run.config, name))}


def _template_values(results: Results) -> dict[str, Any]:
    return {
        "results": results,
        "headlines": wording.headlines(results),
        "verdict": wording.verdict,
        "reasons": wording.reasons,
        "tables": all_tables(results),
        "meanings": MEANINGS,
        "question": QUESTION,
    }


def _shown_runs(results: Results) -> list[Run]:
    return [run for run in results.runs if run.name in results.shown]


def _environment(*, escape: bool) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=escape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Any] = {
        "main_text": _value_first(formats.main_text),
        "interval": _value_first(formats.interval_text),
        "cell": _value_first(formats.cell_text),
        "sort_key": formats.sort_key,
        "number": formats.number_text,
        "pipe_safe": _pipe_safe,
        "plain": _plain,
    }
    environment.filters.update(filters)
    functions: dict[str, Any] = {"facts_of": facts_of}
    environment.globals.update(functions)
    return environment


def _value_first(write: Callable[[str, Value], str]) -> Callable[[Value, str], str]:
    """A filter for the templates, which pass the value as the first argument."""

    def write_value(value: Value, kind: str) -> str:
        return write(kind, value)

    return write_value


def _pipe_safe(text: object) -> str:
    """Text escaped for a cell of a Markdown table."""
    return re.sub(r"([|`<*_\\\[\]])", r"\\\1", str(text)).replace("\n", " ")


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


@cache
def _vega() -> str:
    """Vega-Lite with its dependencies, as one script."""
    import vl_convert  # loads 100 MB of libraries

    major_minor = ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", major_minor)
    return bundle.replace("</script", "<\\/script")


def _policy(scripts: Sequence[str]) -> str:
    """A Content-Security-Policy under which the page makes no request and runs only these scripts."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}"
