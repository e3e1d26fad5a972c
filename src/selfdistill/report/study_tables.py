"""The report's tables of compare and continual."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from selfdistill.report.contents import Measure, Results
from selfdistill.report.table import COST, COST_COLUMNS, DRIFT, DRIFT_COLUMNS, Column, Table, Value


def study_tables(results: Results) -> list[Table]:
    """The tables of both studies, in the order of the page; some of them may have no rows."""
    found = [compare_summary(results), compare_tests(results), equal_skill(results), compare_checkpoints(results)]
    return [*found, *continual(results)]


def compare_summary(results: Results) -> Table:
    """The last checkpoint of each method and learning rate, over its seeds."""
    last: dict[tuple[str, float, int], dict[str, Any]] = {}
    for entry in sorted(results.compare, key=lambda entry: entry["step"]):
        last[entry["method"], entry["learning_rate"], entry["seed"]] = entry
    groups: dict[tuple[str, float], list[dict[str, Any]]] = defaultdict(list)
    for (method, rate, _), entry in last.items():
        groups[method, rate].append(entry)
    columns = [
        Column(title="method"),
        Column(title="learning rate", kind="rate"),
        Column(title="seeds", kind="count"),
        Column(title="step", kind="count"),
        Column(title="new task % [seeds' range]", kind="percent", meaning="new task"),
        Column(title="prior % [seeds' range]", kind="percent", meaning="prior"),
        *DRIFT_COLUMNS,
        *COST_COLUMNS,
        Column(title="validation %", kind="percent", meaning="validation"),
        Column(title="rate", meaning="validation"),
    ]
    rows: list[list[Value]] = []
    for (method, rate), group in sorted(groups.items()):
        row: list[Value] = [method, rate, len(group), _mean([entry["step"] for entry in group])]
        row += [_range([e["new_task"]["accuracy"] for e in group]), _range([prior_mean(e) for e in group])]
        for name in DRIFT:
            row.append(_mean([(entry.get("drift") or {}).get(name) for entry in group]))
        row += [_mean([entry.get(name) for entry in group]) for name in COST]
        rows.append([*row, _mean([(e.get("validation") or {}).get("accuracy") for e in group]), _choice(group)])
    title = "Last checkpoint of each method, mean over seeds"
    return Table(name="compare", section="methods", title=title, columns=columns, rows=rows)


def compare_tests(results: Results) -> Table:
    """Every two arms on the same rows, seed by seed and over seeds."""
    columns = [
        Column(title="first"),
        Column(title="second"),
        Column(title="seed"),
        Column(title="second minus first", kind="points", meaning="change"),
        Column(title="second better", kind="count"),
        Column(title="first better", kind="count"),
        Column(title="p", kind="p", meaning="p value"),
        Column(title="p (Holm)", kind="p", meaning="p holm"),
        Column(title="deviation over seeds", kind="points", meaning="over seeds"),
        Column(title="same sign %", kind="percent", meaning="over seeds"),
    ]
    rows: list[list[Value]] = []
    for pair in results.tests:
        for test in pair["seeds"]:
            low, high = test["interval"]
            change = Measure(value=test["change"], low=low, high=high, num_total=test["num_rows"])
            counts = [test["second_better"], test["first_better"], test["p_value"], test["p_value_holm"]]
            rows.append([pair["first"], pair["second"], str(test["seed"]), change, *counts, None, None])
        if len(pair["seeds"]) > 1:
            spread = pair["over_seeds"]
            row: list[Value] = [pair["first"], pair["second"], "mean", spread["mean"], None, None, None, None]
            rows.append([*row, spread["deviation"], spread["sign_consistency"]])
    title = "Paired tests at the last checkpoint"
    return Table(name="tests", section="methods", title=title, columns=columns, rows=rows)


def equal_skill(results: Results) -> Table:
    """What every two arms cost where both are equally good."""
    names = (*DRIFT, "prior", *COST)
    columns = [
        Column(title="pair"),
        Column(title="at a new task of %", kind="percent", meaning="equal skill"),
        Column(title="method"),
        *DRIFT_COLUMNS,
        Column(title="prior %", kind="percent", meaning="prior"),
        *COST_COLUMNS,
        Column(title="KL, second minus first", kind="number", meaning="over seeds"),
        Column(title="deviation over seeds", kind="number", meaning="over seeds"),
    ]
    rows: list[list[Value]] = []
    for found in results.equal_skill:
        pair = f"{found['first']}, {found['second']}"
        for arm in (found["first"], found["second"]):
            row: list[Value] = [pair, found["accuracy"], arm]
            row += [found["values"][arm].get(name) for name in names]
            spread = found["differences"].get("kl_per_token", {}) if arm == found["second"] else {}
            several = spread if len(found["seeds"]) > 1 else {}
            rows.append([*row, spread.get("mean"), several.get("deviation")])
    title = "At equal skill, mean over seeds"
    return Table(name="equal_skill", section="methods", title=title, columns=columns, rows=rows)


def compare_checkpoints(results: Results) -> Table:
    """Every checkpoint of every method, seed and learning rate."""
    priors = list(dict.fromkeys(name for entry in results.compare for name in entry.get("prior") or {}))
    columns = [
        Column(title="method"),
        Column(title="learning rate", kind="rate"),
        Column(title="seed", kind="count"),
        Column(title="step", kind="count"),
        Column(title="new task %", kind="percent", meaning="new task"),
        *(Column(title=f"{name} %", kind="percent") for name in priors),
        *DRIFT_COLUMNS,
        *COST_COLUMNS,
    ]
    rows: list[list[Value]] = []
    for entry in results.compare:
        low, high = entry["new_task"].get("interval") or (None, None)
        skill = Measure(value=entry["new_task"]["accuracy"], low=low, high=high)
        moved, prior = entry.get("drift") or {}, entry.get("prior") or {}
        rows.append(
            [entry["method"], entry["learning_rate"], entry["seed"], entry["step"], skill]
            + [prior.get(name) for name in priors]
            + [moved.get(name) for name in DRIFT]
            + [entry.get(name) for name in COST]
        )
    return Table(name="checkpoints", section="methods", title="All checkpoints", columns=columns, rows=rows)


def continual(results: Results) -> list[Table]:
    """The summaries of every sequence, then each one's accuracy matrix."""
    names = ("average_accuracy", "average_incremental_accuracy", "learning_accuracy")
    signed = ("backward_transfer", "forward_transfer", "forgetting")
    columns = [Column(title="method")]
    columns += [Column(title=f"{name.replace('_', ' ')} %", kind="percent", meaning=name) for name in names]
    columns += [Column(title=name.replace("_", " "), kind="points", meaning=name) for name in signed]
    rows: list[list[Value]] = [
        [run["method"], *(run.get(name) for name in (*names, *signed))] for run in results.continual
    ]
    found = [Table(name="continual", section="sequence", title="Summary", columns=columns, rows=rows)]
    for index, run in enumerate(results.continual, start=1):
        heads = [Column(title="after stage"), *(Column(title=f"{task} %", kind="heat") for task in run["tasks"])]
        matrix: list[list[Value]] = [["before training", *run["base"]]] if run.get("base") else []
        matrix += [
            [f"{i}. {task}", *row]
            for i, (task, row) in enumerate(zip(run["tasks"], run["accuracy_matrix"], strict=True), start=1)
        ]
        of = f" of {run['method']}" if run["method"] else ""
        name = f"accuracy_matrix_{index}" if len(results.continual) > 1 else "accuracy_matrix"
        title = f"Accuracy matrix{of}"
        found.append(Table(name=name, section="sequence", title=title, columns=heads, rows=matrix))
        number = name.removeprefix("accuracy_matrix")
        found += [_normalized(run, f"normalized{number}", of), _stages(run, f"sequence{number}", of)]
    return found


def _normalized(run: dict[str, Any], name: str, of: str) -> Table:
    """The accuracy matrix on a scale from the base (0) to the best that the sequence reached (1)."""
    heads = [Column(title="after stage", meaning="normalized")]
    heads += [Column(title=f"{task} %", kind="heat") for task in run["tasks"]]
    rows: list[list[Value]] = [
        [f"{i}. {task}", *row]
        for i, (task, row) in enumerate(zip(run["tasks"], run.get("normalized", ()), strict=False), start=1)
    ]
    return Table(name=name, section="sequence", title=f"Normalised accuracy matrix{of}", columns=heads, rows=rows)


def _stages(run: dict[str, Any], name: str, of: str) -> Table:
    """What each stage kept of the base model, and what it cost."""
    stages = run.get("stages", [])
    priors = list(dict.fromkeys(prior for stage in stages for prior in stage["prior"]))
    columns = [
        Column(title="after stage"),
        Column(title="prior %", kind="percent", meaning="prior"),
        *(Column(title=f"{prior} %", kind="percent") for prior in priors),
        *DRIFT_COLUMNS,
        Column(title="steps", kind="count"),
        *COST_COLUMNS,
    ]
    before = [("before training", run["before"])] if run.get("before") else []
    rows: list[list[Value]] = []
    for title, found in [*before, *((f"{stage['stage']}. {stage['task']}", stage) for stage in stages)]:
        row: list[Value] = [title, prior_mean(found), *(found["prior"].get(prior) for prior in priors)]
        row += [found["drift"].get(measure) for measure in DRIFT]
        rows.append([*row, *(found.get(cost) for cost in ("step", *COST))])
    return Table(name=name, section="sequence", title=f"What was kept, stage by stage{of}", columns=columns, rows=rows)


def prior_mean(entry: dict[str, Any]) -> float | None:
    """Mean over an entry's prior benchmarks; None if it has none."""
    return _mean(list((entry.get("prior") or {}).values()))


def _range(values: Sequence[float | None]) -> Measure | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    several = len(known) > 1
    return Measure(
        value=sum(known) / len(known), low=min(known) if several else None, high=max(known) if several else None
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _choice(group: Sequence[dict[str, Any]]) -> str:
    """``chosen`` or ``not chosen`` where the entries' rate stood in a sweep."""
    if not any(entry.get("validation") for entry in group):
        return ""
    return "chosen" if any(entry.get("chosen") for entry in group) else "not chosen"
