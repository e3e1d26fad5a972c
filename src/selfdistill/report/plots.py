"""Plots as Vega-Lite specifications. The page draws them, in colours that follow its theme."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import altair as alt

from selfdistill.records.studies import Checkpoint
from selfdistill.report.contents import Comparison, Estimate, Results
from selfdistill.report.training import PHASES
from selfdistill.stats.scores import mean

COLOURS = [f"var(--c{i})" for i in range(1, 7)]
POINTS = 1_000
"""Largest number of points in a curve plot; longer runs are averaged over neighbouring steps."""
CURVES = {
    "eval/accuracy": "Score on held-out rows",
    "eval/drift": "Drift from the start model",
    "loss": "Loss",
    "divergence": "Divergence from the teacher",
    "anchor_divergence": "Divergence on anchor prompts",
    "cross_entropy": "Cross-entropy of demonstrations",
    "completion_tokens": "Completion length",
    "truncated_share": "Completions cut off",
    "entropy": "Entropy of the student",
    "distinct_2": "Distinct pairs of tokens",
    "distinct_1": "Distinct tokens",
    "self_bleu": "Likeness of completions (self-BLEU)",
    "first_token_share": "Most frequent first token",
    "grad_norm": "Gradient norm",
}
UNITS = {
    "eval/drift": "nats",
    "divergence": "nats",
    "anchor_divergence": "nats",
    "cross_entropy": "nats",
    "entropy": "nats",
    "completion_tokens": "tokens",
}
SHARES = ("eval/accuracy", "truncated_share")
"""Curves whose axis is in percent."""
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif'
CONFIG: dict[str, Any] = {
    "background": None,
    "font": FONT,
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--muted)",
        "titleColor": "var(--muted)",
        "gridColor": "var(--rule)",
        "domainColor": "var(--rule)",
        "tickColor": "var(--rule)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelLimit": 260,
        "titlePadding": 8,
    },
    "legend": {
        "labelColor": "var(--ink)",
        "titleColor": "var(--muted)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "orient": "top",
        "labelLimit": 200,
        "symbolStrokeWidth": 2.5,
    },
}
"""Vega-Lite's config for all plots."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A plot with its caption."""

    name: str
    section: str
    """Section of the page that shows it."""
    title: str
    meaning: str
    """Key of the glossary; empty for none."""
    spec: dict[str, Any]
    """Vega-Lite specification, without the config that all plots share."""
    wide: bool = False
    """True if it takes the page's whole width."""


def all_plots(results: Results) -> list[Plot]:
    """Every plot that has data, in the order of the page."""
    plots = [*score_plots(results), pareto_plot(results, "prior"), pareto_plot(results, "drift")]
    plots += [curve_plot(results, name) for name in CURVES]
    plots += [position_plot(results)]
    return [plot for plot in plots if plot is not None]


def score_plots(results: Results) -> list[Plot]:
    """Scores before and after with intervals: one plot of a single run's data sets and parts, or one of all runs for
    each data set."""
    first_metric = {(c.run, c.dataset): c.metric for c in reversed(results.comparisons) if not c.part}
    shown = [c for c in results.comparisons if c.metric == first_metric[c.run, c.dataset]]
    if len(results.runs) == 1:
        prefix = len({c.dataset for c in shown if c.part}) > 1
        names = [", ".join(filter(None, (c.dataset, c.part))) if prefix or not c.part else c.part for c in shown]
        labelled = list(zip(names, shown, strict=True))
        plot = score_plot("scores", "Scores with 95% intervals", labelled)
        return [plot] if plot else []
    plots = [
        score_plot(f"scores_{i}", f"Scores on {name}", [(c.run, c) for c in shown if c.dataset == name and not c.part])
        for i, name in enumerate(dict.fromkeys(c.dataset for c in shown))
    ]
    return [plot for plot in plots if plot is not None]


def score_plot(name: str, title: str, labelled: Sequence[tuple[str, Comparison]]) -> Plot | None:
    """One line for each label: mean scores before and after, in percent, with intervals; None without scores."""
    rows = [
        row
        for label, comparison in labelled
        for row in (*_score_rows(label, "before", comparison.before), *_score_rows(label, "after", comparison.after))
    ]
    if not rows:
        return None
    labels = list(dict.fromkeys(row["what"] for row in rows))
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        y=alt.Y(
            "what:N",
            sort=labels,
            title=None,
            scale=alt.Scale(paddingInner=0.35, paddingOuter=0.15),
            axis=alt.Axis(
                domain=False,
                ticks=False,
                labelPadding=10,
                labelFontSize=13,
                labelColor="var(--ink)",
                labelLimit=alt.ExprRef("containerSize()[0] < 420 ? 130 : 300"),
            ),
        ),
        yOffset=alt.YOffset("when:N", sort=["before", "after"]),
        color=alt.Color(
            "when:N",
            scale=alt.Scale(domain=["before", "after"], range=["var(--before)", "var(--c1)"]),
            legend=alt.Legend(title=None, symbolOpacity=1),
        ),
        tooltip=[
            alt.Tooltip("what:N", title="what"),
            alt.Tooltip("when:N", title="when"),
            alt.Tooltip("score:Q", title="score %", format=".1f"),
            alt.Tooltip("low:Q", title="from", format=".1f"),
            alt.Tooltip("high:Q", title="to", format=".1f"),
        ],
    )
    ticks = alt.Axis(values=list(range(0, 101, 20)))
    whiskers = base.mark_rule(strokeWidth=2, opacity=0.55).encode(
        x=alt.X("low:Q", title="score, %", scale=alt.Scale(domain=[0, 100]), axis=ticks), x2="high:Q"
    )
    dots = base.mark_point(filled=True, size=70, opacity=1).encode(x="score:Q")
    chart = (whiskers + dots).properties(width="container", height=46 * len(labels))
    return Plot(name=name, section="scores", title=title, meaning="score", spec=_spec(chart), wide=True)


def curve_plot(results: Results, name: str) -> Plot | None:
    """A metric of training, or of evaluations during it, over the steps, one line for each run that has it; None if no
    run has."""
    points = {
        run.name: [(row["step"], row[name]) for row in run.training + run.evaluations if row.get(name) is not None]
        for run in results.runs
    }
    runs = [run for run, found in points.items() if found]
    if not runs:
        return None
    total = sum(map(len, points.values()))
    rows = [
        {"run": run, "step": step, "value": value}
        for run in runs
        for step, value in thinned(points[run], math.ceil(total / POINTS))
    ]
    several = len(runs) > 1
    tooltip = [alt.Tooltip("step:Q"), alt.Tooltip("value:Q", title=name.replace("_", " "), format=".4~g")]
    chart = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_line(strokeWidth=1.8, point={"size": 30 if total <= 30 else 0, "filled": True})
        .encode(
            x=alt.X("step:Q", title="step", axis=alt.Axis(tickMinStep=1, grid=False, format="~s")),
            y=alt.Y(
                "value:Q",
                title=UNITS.get(name),
                axis=alt.Axis(tickCount=4, format=".0%" if name in SHARES else ".3~g"),
            ),
            color=_by_name("run", runs) if several else alt.value(COLOURS[0]),
            tooltip=[alt.Tooltip("run:N"), *tooltip] if several else tooltip,
        )
        .properties(width="container", height=150)
    )
    return Plot(name=name.replace("/", "_"), section="training", title=CURVES[name], meaning=name, spec=_spec(chart))


def position_plot(results: Results) -> Plot | None:
    """Mean divergence at each completion position, early to late in training; None if no rollouts were kept."""
    several = len([run for run in results.runs if run.positions]) > 1
    rows = [{"run": run.name, **asdict(each)} for run in results.runs for each in run.positions]
    rows = rows[:: math.ceil(len(rows) / (4 * POINTS))] if rows else []
    if not rows:
        return None
    encoding: dict[str, Any] = {
        "x": alt.X("position:Q", title="token of the completion, from 0", axis=alt.Axis(grid=False, tickMinStep=1)),
        "y": alt.Y("divergence:Q", title="nats, square-root scale", scale=alt.Scale(type="sqrt")),
        "color": alt.Color(
            "phase:N",
            sort=list(PHASES),
            scale=alt.Scale(domain=list(PHASES), range=[COLOURS[2], COLOURS[1], COLOURS[0]]),
            legend=alt.Legend(title="in training"),
        ),
        "tooltip": [
            alt.Tooltip("phase:N"),
            alt.Tooltip("position:Q"),
            alt.Tooltip("divergence:Q", format=".3f"),
            alt.Tooltip("num_rollouts:Q", title="rollouts"),
        ],
    }
    if several:
        encoding["strokeDash"] = alt.StrokeDash("run:N", legend=alt.Legend(title=None))
        encoding["tooltip"] = [alt.Tooltip("run:N"), *encoding["tooltip"]]
    chart = alt.Chart(alt.InlineData(values=rows)).mark_line(strokeWidth=1.8).encode(**encoding)
    spec = _spec(chart.properties(width="container", height=240))
    title = "Divergence along the completion"
    return Plot(name="positions", section="tokens", title=title, meaning="position", spec=spec, wide=True)


def pareto_plot(results: Results, kept: str) -> Plot | None:
    """New skill against what was kept: one point for each checkpoint, one line for each arm's Pareto front.

    Args:
        results: the results that are shown.
        kept: ``prior`` for the mean score on prior benchmarks, ``drift`` for KL from the base model.

    Returns:
        None if there is no comparison, or it did not measure ``kept``.
    """
    checkpoints = results.compare.checkpoints if results.compare else []
    points = [point for each in checkpoints if (point := _pareto_point(each, kept)) is not None]
    if not points:
        return None
    arms = list(dict.fromkeys(point["arm"] for point in points))
    more_is_better = kept == "prior"
    fronts = [
        row
        for arm in arms
        for row in pareto_front([p for p in points if p["arm"] == arm], more_is_better=more_is_better)
    ]
    title = "mean score on prior benchmarks, %" if more_is_better else "KL from the base model, nats per token"
    shared: dict[str, Any] = {
        "x": alt.X("kept:Q", title=title, scale=alt.Scale(zero=not more_is_better)),
        "y": alt.Y("skill:Q", title="new task, %", scale=alt.Scale(domain=[0, 100])),
        "color": _by_name("arm", arms),
    }
    number = alt.Tooltip(
        "kept:Q", title="prior %" if more_is_better else "KL", format=".1f" if more_is_better else ".3f"
    )
    dots = (
        alt.Chart(alt.InlineData(values=points))
        .mark_point(filled=True, size=60, opacity=0.6)
        .encode(
            **shared,
            shape=alt.Shape("arm:N", scale=alt.Scale(domain=arms), legend=alt.Legend(title=None, columns=3)),
            tooltip=[
                "arm:N",
                alt.Tooltip("learning_rate:Q", title="learning rate", format=".1~e"),
                "seed:N",
                "step:Q",
                alt.Tooltip("skill:Q", title="new task %", format=".1f"),
                number,
            ],
        )
    )
    interpolate = "step-before" if more_is_better else "step-after"
    lines = (
        alt.Chart(alt.InlineData(values=fronts)).mark_line(strokeWidth=1.8, interpolate=interpolate).encode(**shared)
    )
    spec = _spec((lines + dots).properties(width="container", height=300))
    heading = "New skill against prior benchmarks" if more_is_better else "New skill against drift"
    return Plot(name=f"pareto_{kept}", section="methods", title=heading, meaning="", spec=spec)


def pareto_front(points: Sequence[dict[str, Any]], *, more_is_better: bool) -> list[dict[str, Any]]:
    """The points that no other point beats in both ``kept`` and ``skill``, by rising ``kept``.

    ``more_is_better``: True if a high ``kept`` is good, False if a low one is. A high ``skill`` is always good.
    """
    sign = 1 if more_is_better else -1
    front: list[dict[str, Any]] = []
    for point in sorted(points, key=lambda p: (-sign * p["kept"], -p["skill"])):
        if not front or point["skill"] > front[-1]["skill"]:
            front.append(point)
    return sorted(front, key=lambda p: p["kept"])


def thinned(points: Sequence[tuple[float, float]], stride: int) -> list[tuple[float, float]]:
    """The points with every ``stride`` neighbours replaced by their mean."""
    groups = [points[i : i + stride] for i in range(0, len(points), max(1, stride))]
    return [(mean([x for x, _ in g]), mean([y for _, y in g])) for g in groups]


def _pareto_point(checkpoint: Checkpoint, kept: str) -> dict[str, Any] | None:
    if kept == "prior":
        value = None if checkpoint.prior_mean is None else 100 * checkpoint.prior_mean
    else:
        value = checkpoint.kl_per_token
    if value is None or checkpoint.skill.accuracy is None:
        return None
    point = {name: getattr(checkpoint, name) for name in ("arm", "learning_rate", "seed", "step")}
    return point | {"skill": 100 * checkpoint.skill.accuracy, "kept": value}


def _score_rows(label: str, when: str, score: Estimate | None) -> list[dict[str, Any]]:
    if score is None or score.value is None or score.low is None or score.high is None:
        return []
    numbers = {"score": 100 * score.value, "low": 100 * score.low, "high": 100 * score.high}
    return [{"what": label, "when": when, **numbers}]


def _by_name(field: str, names: Sequence[str]) -> alt.Color:
    scale = alt.Scale(domain=list(names), range=[COLOURS[i % len(COLOURS)] for i in range(len(names))])
    return alt.Color(f"{field}:N", scale=scale, legend=alt.Legend(title=None, columns=3))


def _spec(chart: Any) -> dict[str, Any]:
    spec = chart.to_dict()
    spec.pop("config", None)
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    return spec
