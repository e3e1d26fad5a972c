"""What a comparison concludes from its runs: paired tests, and cost at equal skill. Pure functions of the entries."""

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any

from selfdistill.stats.scores import holm, mcnemar, mean, over_seeds, paired_interval

Entry = Mapping[str, Any]
Runs = Mapping[str, Mapping[int, Sequence[Entry]]]
"""Entries of an arm's checkpoints in order, by arm and seed."""
Scores = Sequence[float | None]
"""Scores of the evaluation rows, in their order; None is unscored."""

DRIFT = ("kl_per_token", "reference_nll", "format_leak_rate")
MEASURES = (*DRIFT, "prior", "tokens", "wall_s")
"""What is read off at equal skill."""


def paired_tests(scores: Mapping[str, Mapping[int, Scores]]) -> list[dict[str, Any]]:
    """Every two arms on the same rows, seed by seed.

    Args:
        scores: by arm and seed, of the last checkpoint.

    Returns:
        For each pair ``first``, ``second``, ``seeds`` and ``over_seeds``. Of a seed: ``change`` (second minus
        first) with its 95% ``interval``, ``num_rows``, ``second_better``, ``first_better``, ``p_value`` (exact
        McNemar) and ``p_value_holm`` (corrected over all tests of the study). ``over_seeds`` is
        ``metrics.over_seeds`` of the changes.
    """
    pairs: list[dict[str, Any]] = []
    for first, second in combinations(scores, 2):
        shared = [seed for seed in scores[first] if seed in scores[second]]
        seeds = [{"seed": seed, **_test(scores[first][seed], scores[second][seed])} for seed in shared]
        if seeds:
            changes = over_seeds([found["change"] for found in seeds])
            pairs.append({"first": first, "second": second, "seeds": seeds, "over_seeds": changes})
    tests = [found for pair in pairs for found in pair["seeds"]]
    for found, p_value in zip(tests, holm([found["p_value"] for found in tests]), strict=True):
        found["p_value_holm"] = p_value
    return pairs


def _test(first: Scores, second: Scores) -> dict[str, Any]:
    both = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    ours, theirs = [a for a, _ in both], [b for _, b in both]
    change, low, high = paired_interval(ours, theirs)
    return {
        "change": change,
        "interval": [low, high],
        "num_rows": len(both),
        "second_better": sum(b > a for a, b in both),
        "first_better": sum(b < a for a, b in both),
        "p_value": mcnemar(ours, theirs),
    }


def equal_skill(base: Entry, runs: Runs) -> list[dict[str, Any]]:
    """What every two arms cost where both are equally good.

    An arm's path runs from the base model (step 0) in straight lines through its checkpoints. A level of accuracy is
    read off where the path first reaches it. The levels are the highest that every shared seed of both arms
    reaches, and the one halfway there from the base; pairs that never rise above the base are left out.

    Args:
        base: the base's entry, with the keys of the others.
        runs: the arms' checkpoints.

    Returns:
        For each pair and level ``first``, ``second``, ``accuracy``, ``share`` (1 or 0.5 of the way up), ``seeds``,
        ``values`` (by arm and measure the mean over seeds), and ``differences`` (second minus first, by measure
        ``metrics.over_seeds``). A measure that an entry lacks is left out.
    """
    found: list[dict[str, Any]] = []
    start = base["new_task"]["accuracy"]
    for first, second in combinations(runs, 2):
        seeds = [seed for seed in runs[first] if seed in runs[second]]
        paths = {arm: {seed: [base, *runs[arm][seed]] for seed in seeds} for arm in (first, second)}
        top = min(
            (max(entry["new_task"]["accuracy"] for entry in path) for by in paths.values() for path in by.values()),
            default=start,
        )
        if top <= start:
            continue
        for share in (1.0, 0.5):
            level = start + share * (top - start)
            read = {arm: [at_skill(path, level) for path in by.values()] for arm, by in paths.items()}
            found.append(
                {"first": first, "second": second, "accuracy": level, "share": share, "seeds": seeds}
                | _difference(read[first], read[second], (first, second))
            )
    return found


def _difference(
    first: Sequence[Mapping[str, float]], second: Sequence[Mapping[str, float]], names: tuple[str, str]
) -> dict[str, Any]:
    shared = [name for name in MEASURES if all(name in values for values in (*first, *second))]
    return {
        "values": {
            arm: {name: mean([values[name] for values in read]) for name in shared}
            for arm, read in zip(names, (first, second), strict=True)
        },
        "differences": {
            name: over_seeds([b[name] - a[name] for a, b in zip(first, second, strict=True)]) for name in shared
        },
    }


def at_skill(path: Sequence[Entry], level: float) -> dict[str, float]:
    """Every measure where the path first reaches ``level``, by linear interpolation between two checkpoints.

    Raises:
        ValueError: it never does.
    """
    if path[0]["new_task"]["accuracy"] >= level:
        return _measures(path[0])
    for before, after in pairwise(path):
        low, high = before["new_task"]["accuracy"], after["new_task"]["accuracy"]
        if high >= level:  # and low < level, or an earlier segment had reached it
            share = (level - low) / (high - low)
            old, new = _measures(before), _measures(after)
            return {name: old[name] + share * (new[name] - old[name]) for name in old if name in new}
    raise ValueError(f"no checkpoint reaches an accuracy of {level}")


def _measures(entry: Entry) -> dict[str, float]:
    drift, prior = entry.get("drift") or {}, entry.get("prior") or {}
    values = {name: drift.get(name) for name in DRIFT}
    values |= {"prior": mean(list(prior.values())) if prior else None}
    values |= {name: entry.get(name) for name in ("tokens", "wall_s")}
    return {name: value for name, value in values.items() if value is not None}


def best_rate(accuracies: Mapping[float, float]) -> float:
    """The learning rate with the highest validation accuracy; of equals the lowest, which moves the model least."""
    return max(accuracies, key=lambda rate: (accuracies[rate], -rate))
