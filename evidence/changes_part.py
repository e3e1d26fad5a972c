"""The page's part about single changes of SDFT."""

from collections.abc import Mapping, Sequence
from typing import Any

from evidence.compare_part import setting
from evidence.markdown import number, percent, table
from selfdistill.records.studies import Checkpoint, CompareRecord
from selfdistill.studies.analysis import accuracy, at_skill

PLAIN, RIVAL = "sdft", "sft-anchored"
"""The arm that is changed, and the one whose drift it is measured by."""


def changes_part(name: str, found: CompareRecord, study: Mapping[str, Any]) -> list[str]:
    """Markdown lines about a comparison of one seed: its setting, and a row for each arm.

    At the highest accuracy that an arm, ``sdft`` and ``sft-anchored`` all reach, the gap is what ``sdft`` drifts more
    than ``sft-anchored``, and the arm removes the part of it by which it drifts less than ``sdft``.

    Args:
        name: name of the study.
        found: the record of the comparison.
        study: the settings in its study.json.
    """
    paths = {arm: [found.base, *by_seed[found.seeds[0]]] for arm, by_seed in found.runs().items()}
    heads = [
        "arm",
        "accuracy %",
        "highest %",
        "KL per token",
        "at accuracy %",
        "KL there",
        f"of `{PLAIN}`",
        f"of `{RIVAL}`",
        "gap removed %",
        "seconds",
    ]
    rows = [_row(arm, path, paths[PLAIN], paths[RIVAL]) for arm, path in paths.items()]
    return [f"### {name}", "", setting(found, study), *table(heads, rows)][:-1]


def _row(arm: str, path: Sequence[Checkpoint], plain: Sequence[Checkpoint], rival: Sequence[Checkpoint]) -> list[str]:
    last, ways = path[-1], (path, plain, rival)
    level = min(max(map(accuracy, way)) for way in ways)
    cells = [f"`{arm}`", percent([accuracy(last)]), percent([max(map(accuracy, path))])]
    cells += [number([last.kl_per_token or 0.0])]
    seconds = f"{last.seconds:.0f}"
    if level <= accuracy(path[0]):
        return [*cells, "none", "", "", "", "", seconds]
    own, plains, rivals = (at_skill(way, level)["kl_per_token"] for way in ways)
    removed = f"{100 * (plains - own) / (plains - rivals):.0f}" if plains > rivals else "no gap"
    return [*cells, percent([level]), number([own]), number([plains]), number([rivals]), removed, seconds]
