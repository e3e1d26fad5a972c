"""Statistics of a comparison: paired tests, and what each arm costs at equal skill. Pure functions of the records."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations, pairwise

from selfdistill.records.studies import ArmTest, Checkpoint, EqualSkill, SeedTest
from selfdistill.stats.paired import holm, paired_test
from selfdistill.stats.scores import mean
from selfdistill.stats.seeds import over_seeds

Runs = Mapping[str, Mapping[int, Sequence[Checkpoint]]]
"""Checkpoints by arm and seed, by rising step."""
Scores = Sequence[float | None]
"""Score of each evaluation row, in [0, 1], in the order of the rows; None for an unscored row."""
KL = "kl_per_token"
DRIFT_MEASURES = (KL, "reference_nll", "format_leak_rate")
COSTS = (*DRIFT_MEASURES, "prior", "tokens", "seconds")
"""Measures of a checkpoint that are compared at equal skill."""


def paired_tests(scores: Mapping[str, Mapping[int, Scores]]) -> list[ArmTest]:
    """Tests every two arms on the same rows, once for each seed that both have.

    Args:
        scores: scores at the last checkpoint, by arm and seed.

    Returns:
        One entry for each pair with a shared seed; ``p_value_holm`` is corrected over all tests returned.

    Raises:
        ValueError: two arms have different numbers of rows.
    """
    pairs: list[ArmTest] = []
    for first, second in combinations(scores, 2):
        shared = [seed for seed in scores[first] if seed in scores[second]]
        tests = [SeedTest(seed=seed, test=paired_test(scores[first][seed], scores[second][seed])) for seed in shared]
        if tests:
            changes = over_seeds([one.test.change for one in tests])
            pairs.append(ArmTest(first=first, second=second, seeds=tests, over_seeds=changes))
    corrected = iter(holm([one.test.p_value for pair in pairs for one in pair.seeds]))
    return [
        replace(pair, seeds=[replace(one, test=replace(one.test, p_value_holm=next(corrected))) for one in pair.seeds])
        for pair in pairs
    ]


def equal_skill(base: Checkpoint, runs: Runs) -> list[EqualSkill]:
    """Compares the costs of every two arms at the same accuracy.

    An arm's path runs in straight lines from the base model (step 0) through its checkpoints; costs are read as by
    ``at_skill``. Each pair is compared at two levels: the highest that both arms reach in every shared seed, and the
    level halfway between the base and that one. A pair is left out if this highest level is not above the base, and a
    measure is left out if any checkpoint that is read lacks it.
    """
    comparisons: list[EqualSkill] = []
    start = accuracy(base)
    for first, second in combinations(runs, 2):
        seeds = [seed for seed in runs[first] if seed in runs[second]]
        paths = {arm: [[base, *runs[arm][seed]] for seed in seeds] for arm in (first, second)}
        top = min((max(map(accuracy, path)) for by_seed in paths.values() for path in by_seed), default=start)
        if top <= start:
            continue
        for share, level in ((1.0, top), (0.5, (start + top) / 2)):
            read = {arm: [at_skill(path, level) for path in by_seed] for arm, by_seed in paths.items()}
            comparisons.append(_at_level(first, second, level, share, seeds, read))
    return comparisons


def _at_level(
    first: str,
    second: str,
    level: float,
    share: float,
    seeds: list[int],
    read: Mapping[str, Sequence[Mapping[str, float]]],
) -> EqualSkill:
    shared = [name for name in COSTS if all(name in values for by_seed in read.values() for values in by_seed)]
    pairs = list(zip(read[first], read[second], strict=True))
    return EqualSkill(
        first=first,
        second=second,
        accuracy=level,
        share=share,
        seeds=seeds,
        values={arm: {name: mean([values[name] for values in read[arm]]) for name in shared} for arm in read},
        differences={name: over_seeds([b[name] - a[name] for a, b in pairs]) for name in shared},
    )


def at_skill(path: Sequence[Checkpoint], level: float) -> dict[str, float]:
    """The measures at that point of the path which is the nearest to the base model of those with at least ``level``.

    The nearest is the one with the least KL per token; the first of equals, or where it is not known. Between two
    checkpoints the path is a straight line. An arm with anchors may come nearer again while its skill still rises: what
    it had moved when it first reached the level is then not what that skill costs.

    Args:
        path: checkpoints by rising step, beginning with the base model.
        level: accuracy in [0, 1].

    Returns:
        Values by the names in ``COSTS``; a measure that either checkpoint lacks is left out.

    Raises:
        ValueError: the path never reaches the level.
    """
    found = [_measures(path[0])] if accuracy(path[0]) >= level else []
    for before, after in pairwise(path):
        if (accuracy(before) < level) != (accuracy(after) < level):
            found.append(_between(before, after, level))
        if accuracy(after) >= level:
            found.append(_measures(after))
    if not found:
        raise ValueError(f"no checkpoint reaches an accuracy of {level}")
    return min(found, key=lambda measures: measures.get(KL, math.inf))


def _between(before: Checkpoint, after: Checkpoint, level: float) -> dict[str, float]:
    """The measures where the straight line between two checkpoints has the accuracy ``level``."""
    share = (level - accuracy(before)) / (accuracy(after) - accuracy(before))
    old, new = _measures(before), _measures(after)
    return {name: old[name] + share * (new[name] - old[name]) for name in old if name in new}


def accuracy(checkpoint: Checkpoint) -> float:
    """Accuracy on the trained task, in [0, 1]."""
    assert checkpoint.skill.accuracy is not None, "a study stops if no row can be scored"
    return checkpoint.skill.accuracy


def best_rate(accuracies: Mapping[float, float]) -> float:
    """The learning rate with the highest validation accuracy; on a tie the lowest rate, which moves the model least."""
    return max(accuracies, key=lambda rate: (accuracies[rate], -rate))


def _measures(checkpoint: Checkpoint) -> dict[str, float]:
    drift = checkpoint.drift
    values: dict[str, float | None] = {"prior": checkpoint.prior_mean}
    values |= {"tokens": checkpoint.tokens, "seconds": checkpoint.seconds}
    if drift is not None:
        values |= {name: getattr(drift, name) for name in DRIFT_MEASURES}
    return {name: value for name, value in values.items() if value is not None}
