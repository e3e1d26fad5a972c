"""The page's part about a comparison."""

from collections.abc import Mapping, Sequence
from typing import Any

from evidence.markdown import number, percent, points, table
from selfdistill.records.studies import QUESTION, Checkpoint, CompareRecord
from selfdistill.report.formats import p_text, rate_text
from selfdistill.studies.analysis import accuracy

DRIFT = {"kl_per_token": "KL per token", "reference_nll": "reference loss"}


def compare_part(name: str, found: CompareRecord, study: Mapping[str, Any]) -> list[str]:
    """Markdown lines about a comparison: its setting, its answer and its tables.

    Args:
        name: name of the study.
        found: the record of the comparison.
        study: the settings in its study.json.
    """
    runs = found.runs()
    lines = [f"### {name}", "", setting(found, study), "", f"**{QUESTION}** {found.verdict}", ""]
    lines += ["Last checkpoint of the rate chosen, mean ± deviation over seeds:", *_last(found, runs)]
    lines += ["Fronts, and what an arm of the other kind has at the same accuracy:", *_fronts(found)]
    lines += ["Learning rates, first seed, last checkpoint:", *_sweep(found)]
    if found.equal_skill:
        lines += ["At equal skill, mean over seeds:", *_equal(found)]
    if found.tests:
        lines += ["Paired tests of accuracy at the last checkpoint:", *_tests(found)]
    return lines[:-1]


def setting(found: CompareRecord, study: Mapping[str, Any]) -> str:
    """A sentence about what was compared; ``study``: the settings in its study.json."""
    return (
        f"Task `{found.dataset}`, {found.base.skill.num_total} evaluation rows, base "
        f"{percent([accuracy(found.base)])}%; {found.budget_amount:g} {found.budget} of "
        f"{study['per_device_train_batch_size'] * study['gradient_accumulation_steps']} prompts, seeds "
        f"{', '.join(map(str, found.seeds))}, {study['checkpoints']} checkpoints, {study['model_name']}."
    )


def _last(found: CompareRecord, runs: Mapping[str, Mapping[int, Sequence[Checkpoint]]]) -> list[str]:
    parts = list(found.base.skill.parts)
    heads = ["arm", "rate", "accuracy %", *(f"{part} %" for part in parts), *DRIFT.values(), "format leak %", "seconds"]
    rows = [["base", "", *_scores([found.base], parts), ""]]
    for arm in found.arms:
        last = [checkpoints[-1] for checkpoints in runs[arm.name].values()]
        seconds = number([each.seconds for each in last], 0)
        rows.append([_code(arm.name), rate_text(arm.learning_rate), *_scores(last, parts), seconds])
    return table(heads, rows)


def _scores(checkpoints: Sequence[Checkpoint], parts: Sequence[str]) -> list[str]:
    cells = [percent([accuracy(each) for each in checkpoints])]
    cells += [percent([each.skill.parts[part].accuracy or 0.0 for each in checkpoints]) for part in parts]
    drifts = [each.drift for each in checkpoints if each.drift is not None]
    cells += [number([getattr(drift, name) for drift in drifts]) for name in DRIFT]
    return [*cells, percent([drift.format_leak_rate for drift in drifts])]


def _fronts(found: CompareRecord) -> list[str]:
    heads = ["front of", "seen from", "its points", "there less drift", "more", "not decided", "not reached"]
    kinds = {arm.name: arm.distils for arm in found.arms}
    rows: list[list[str]] = []
    for front in found.fronts:
        if kinds[front.arm] == kinds[front.seen_from]:
            continue
        signs = [point.sign for point in front.points]
        counts = [len(signs), *(signs.count(sign) for sign in (1, -1, 0, None))]
        dominates = ", dominates" if front.dominated else ""
        rows.append([_code(front.arm), f"{_code(front.seen_from)}{dominates}", *map(str, counts)])
    return table(heads, rows)


def _sweep(found: CompareRecord) -> list[str]:
    heads = ["arm", "rate", "validation %", "accuracy %", *DRIFT.values(), "format leak %", "chosen"]
    first = found.seeds[0]
    last = {(each.arm, each.learning_rate): each for each in found.checkpoints if each.seed == first}
    rows: list[list[str]] = []
    for (arm, rate), each in last.items():  # of an arm and rate the last checkpoint is kept: they are in order
        tried = "" if each.validation is None else percent([each.validation])
        rows.append([_code(arm), rate_text(rate), tried, *_scores([each], []), "yes" if each.chosen else "no"])
    return table(heads, rows)


def _equal(found: CompareRecord) -> list[str]:
    heads = ["first, second", "accuracy %", "KL of first", "of second", "second − first", "same sign %", "seconds"]
    rows: list[list[str]] = []
    for level in found.equal_skill:
        ours, theirs = level.values[level.first], level.values[level.second]
        gap = level.differences["kl_per_token"]
        several = f" ± {number([gap.deviation])}" if len(level.seeds) > 1 else ""
        rows.append(
            [
                f"{_code(level.first)}, {_code(level.second)}",
                percent([level.accuracy]),
                number([ours["kl_per_token"]]),
                number([theirs["kl_per_token"]]),
                number([gap.mean]) + several,
                f"{100 * gap.sign_consistency:.0f}",
                f"{ours['seconds']:.0f}, {theirs['seconds']:.0f}",
            ]
        )
    return table(heads, rows)


def _tests(found: CompareRecord) -> list[str]:
    heads = ["first, second", "second − first, points", "same sign %", "p (Holm) by seed"]
    rows = [
        [
            f"{_code(pair.first)}, {_code(pair.second)}",
            points([each.test.change for each in pair.seeds]),
            f"{100 * pair.over_seeds.sign_consistency:.0f}",
            ", ".join(p_text(each.test.p_value_holm or 0.0) for each in pair.seeds),
        ]
        for pair in found.tests
    ]
    return table(heads, rows)


def _code(name: str) -> str:
    return f"`{name}`"
