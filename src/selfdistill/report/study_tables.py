"""The report's tables of the studies ``compare`` and ``continual``."""

from collections import defaultdict
from collections.abc import Sequence

from selfdistill.records.studies import Checkpoint, CompareRecord, Measurements, SequenceRecord
from selfdistill.report.contents import Estimate, Results
from selfdistill.report.evaluations import change_estimate, estimate
from selfdistill.report.table import COST_COLUMNS, DRIFT_COLUMNS, DRIFT_FIELDS, Column, Table, Value, drift_cells
from selfdistill.stats.scores import mean


def study_tables(results: Results) -> list[Table]:
    """The tables of both studies, in the order of the page; some may have no rows."""
    study = results.compare
    tables: list[Table] = []
    if study is not None:
        tables += [compare_summary(study), compare_tests(study), equal_skill(study), front_table(study)]
        tables.append(compare_checkpoints(study))
    return [*tables, *continual(results.continual)]


def compare_summary(study: CompareRecord) -> Table:
    """The last checkpoint of each arm and learning rate, with means over seeds."""
    last: dict[tuple[str, float, int], Checkpoint] = {}
    for checkpoint in sorted(study.checkpoints, key=lambda each: each.step):
        last[checkpoint.arm, checkpoint.learning_rate, checkpoint.seed] = checkpoint
    groups: dict[tuple[str, float], list[Checkpoint]] = defaultdict(list)
    for (arm, rate, _), checkpoint in last.items():
        groups[arm, rate].append(checkpoint)
    columns = [
        Column(title="arm"),
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
    for (arm, rate), group in sorted(groups.items()):
        row: list[Value] = [arm, rate, len(group), _mean([each.step for each in group])]
        row += [_range([each.skill.accuracy for each in group]), _range([each.prior_mean for each in group])]
        row += [_mean(list(cells)) for cells in zip(*(drift_cells(each.drift) for each in group), strict=True)]
        row += [_mean([each.tokens for each in group]), _mean([each.seconds for each in group])]
        rows.append([*row, _mean([each.validation for each in group]), _choice(group)])
    title = "Last checkpoint of each arm, mean over seeds"
    return Table(name="compare", section="methods", title=title, columns=columns, rows=rows)


def compare_tests(study: CompareRecord) -> Table:
    """Paired tests of every two arms, for each seed and over seeds."""
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
    for pair in study.tests:
        for seed, test in ((each.seed, each.test) for each in pair.seeds):
            counts: list[Value] = [test.num_better, test.num_worse, test.p_value, test.p_value_holm]
            rows.append([pair.first, pair.second, str(seed), change_estimate(test), *counts, None, None])
        if len(pair.seeds) > 1:
            spread = pair.over_seeds
            row: list[Value] = [pair.first, pair.second, "mean", spread.mean, None, None, None, None]
            rows.append([*row, spread.deviation, spread.sign_consistency])
    title = "Paired tests at the last checkpoint"
    return Table(name="tests", section="methods", title=title, columns=columns, rows=rows)


def equal_skill(study: CompareRecord) -> Table:
    """The costs of every two arms at the same accuracy."""
    names = (*DRIFT_FIELDS, "prior", "tokens", "seconds")
    columns = [
        Column(title="pair"),
        Column(title="at a new task of %", kind="percent", meaning="equal skill"),
        Column(title="arm"),
        *DRIFT_COLUMNS,
        Column(title="prior %", kind="percent", meaning="prior"),
        *COST_COLUMNS,
        Column(title="KL, second minus first", kind="number", meaning="over seeds"),
        Column(title="deviation over seeds", kind="number", meaning="over seeds"),
    ]
    rows: list[list[Value]] = []
    for level in study.equal_skill:
        pair = f"{level.first}, {level.second}"
        for arm in (level.first, level.second):
            row: list[Value] = [pair, level.accuracy, arm, *(level.values[arm].get(name) for name in names)]
            gap = level.differences.get("kl_per_token") if arm == level.second else None
            several = gap is not None and len(level.seeds) > 1
            rows.append([*row, gap.mean if gap else None, gap.deviation if gap and several else None])
    title = "At equal skill, mean over seeds"
    return Table(name="equal_skill", section="methods", title=title, columns=columns, rows=rows)


def front_table(study: CompareRecord) -> Table:
    """Every arm's front of skill against drift, compared with every other arm."""
    columns = [
        Column(title="front of"),
        Column(title="seen from"),
        Column(title="points", kind="count", meaning="front"),
        Column(title="less drift", kind="count", meaning="front"),
        Column(title="more", kind="count"),
        Column(title="not decided", kind="count"),
        Column(title="not reached", kind="count"),
        Column(title="dominated"),
    ]
    rows: list[list[Value]] = []
    for front in study.fronts:
        signs = [point.sign for point in front.points]
        counts: list[Value] = [len(signs), *(signs.count(sign) for sign in (1, -1, 0, None))]
        rows.append([front.arm, front.seen_from, *counts, "yes" if front.dominated else "no"])
    title = "Fronts of skill against drift"
    return Table(name="fronts", section="methods", title=title, columns=columns, rows=rows)


def compare_checkpoints(study: CompareRecord) -> Table:
    """Every checkpoint of every arm, seed and learning rate."""
    priors = list(dict.fromkeys(name for each in study.checkpoints for name in each.prior))
    columns = [
        Column(title="arm"),
        Column(title="learning rate", kind="rate"),
        Column(title="seed", kind="count"),
        Column(title="step", kind="count"),
        Column(title="new task %", kind="percent", meaning="new task"),
        *(Column(title=f"{name} %", kind="percent") for name in priors),
        *DRIFT_COLUMNS,
        *COST_COLUMNS,
    ]
    rows: list[list[Value]] = [
        [
            *(each.arm, each.learning_rate, each.seed, each.step, estimate(each.skill)),
            *(each.prior.get(name) for name in priors),
            *drift_cells(each.drift),
            *(each.tokens, each.seconds),
        ]
        for each in study.checkpoints
    ]
    return Table(name="checkpoints", section="methods", title="All checkpoints", columns=columns, rows=rows)


def continual(runs: Sequence[SequenceRecord]) -> list[Table]:
    """The summaries of all sequences; then, for each, its two accuracy matrices and what each stage kept."""
    names = ("average_accuracy", "average_incremental_accuracy", "learning_accuracy")
    signed = ("backward_transfer", "forward_transfer", "forgetting")
    columns = [Column(title="arm")]
    columns += [Column(title=f"{name.replace('_', ' ')} %", kind="percent", meaning=name) for name in names]
    columns += [Column(title=name.replace("_", " "), kind="points", meaning=name) for name in signed]
    rows: list[list[Value]] = [[run.arm, *(getattr(run, name) for name in (*names, *signed))] for run in runs]
    tables = [Table(name="continual", section="sequence", title="Summary", columns=columns, rows=rows)]
    for index, run in enumerate(runs, start=1):
        number = f"_{index}" if len(runs) > 1 else ""
        matrix: list[list[Value]] = [["before training", *run.base], *_by_stage(run, run.accuracy_matrix)]
        title = f"Accuracy matrix of {run.arm}"
        tables.append(_matrix_table(run, f"accuracy_matrix{number}", title, Column(title="after stage"), matrix))
        scaled: list[list[Value]] = _by_stage(run, run.normalized)
        stage = Column(title="after stage", meaning="normalized")
        title = f"Normalised accuracy matrix of {run.arm}"
        tables += [_matrix_table(run, f"normalized{number}", title, stage, scaled), _stages(run, f"sequence{number}")]
    return tables


def _by_stage(run: SequenceRecord, matrix: Sequence[Sequence[float | None]]) -> list[list[Value]]:
    rows = enumerate(zip(run.tasks, matrix, strict=True), start=1)
    return [[f"{number}. {task}", *row] for number, (task, row) in rows]


def _matrix_table(run: SequenceRecord, name: str, title: str, stage: Column, rows: list[list[Value]]) -> Table:
    heads = [stage, *(Column(title=f"{task} %", kind="heat") for task in run.tasks)]
    return Table(name=name, section="sequence", title=title, columns=heads, rows=rows)


def _stages(run: SequenceRecord, name: str) -> Table:
    """What each stage kept of the base model's capabilities, and what it cost."""
    priors = list(dict.fromkeys(prior for stage in run.stages for prior in stage.measured.prior))
    columns = [
        Column(title="after stage"),
        Column(title="prior %", kind="percent", meaning="prior"),
        *(Column(title=f"{prior} %", kind="percent") for prior in priors),
        *DRIFT_COLUMNS,
        Column(title="steps", kind="count"),
        *COST_COLUMNS,
    ]

    def kept(measured: Measurements) -> list[Value]:
        return [
            measured.prior_mean,
            *(measured.prior.get(prior) for prior in priors),
            *drift_cells(measured.drift),
        ]

    rows: list[list[Value]] = [["before training", *kept(run.before), None, None, None]]
    for stage in run.stages:
        cost: list[Value] = [stage.step, stage.tokens, stage.seconds]
        rows.append([f"{stage.stage}. {stage.task}", *kept(stage.measured), *cost])
    title = f"What was kept, stage by stage, of {run.arm}"
    return Table(name=name, section="sequence", title=title, columns=columns, rows=rows)


def _range(values: Sequence[float | None]) -> Estimate | None:
    """Mean, smallest and largest of the known values; None if there are none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    several = len(known) > 1
    return Estimate(value=mean(known), low=min(known) if several else None, high=max(known) if several else None)


def _mean(values: Sequence[Value]) -> float | None:
    """Mean of the values that are numbers; None if there are none."""
    known = [value for value in values if isinstance(value, int | float)]
    return mean(known) if known else None


def _choice(group: Sequence[Checkpoint]) -> str:
    """``chosen`` or ``not chosen`` for a learning rate of a sweep; empty if there was no sweep."""
    if all(each.validation is None for each in group):
        return ""
    return "chosen" if any(each.chosen for each in group) else "not chosen"
