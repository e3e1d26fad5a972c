"""What a comparison concludes from its runs: paired tests, and cost at equal skill. Pure functions of the records."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations, pairwise

from selfdistill.records.studies import ArmTest, Checkpoint, EqualSkill, SeedTest
from selfdistill.stats.paired import holm, paired_test
from selfdistill.stats.scores import mean
from selfdistill.stats.seeds import over_seeds

Runs = Mapping[str, Mapping[int, Sequence[Checkpoint]]]
"""An arm's checkpoints in order, by arm and seed."""
Scores = Sequence[float | None]
"""Scores of the evaluation rows, in their order; None is unscored."""
MEASURES = ("kl_per_token", "reference_nll", "format_leak_rate", "prior", "tokens", "seconds")
"""What is read off at equal skill."""


def paired_tests(scores: Mapping[str, Mapping[int, Scores]]) -> list[ArmTest]:
    """Every two arms on the same rows, seed by seed; p-values corrected over all tests of the study.

    Args:
        scores: by arm and seed, of the last checkpoint.
    """
    pairs: list[ArmTest] = []
    for first, second in combinations(scores, 2):
        shared = [seed for seed in scores[first] if seed in scores[second]]
        tests = [SeedTest(seed=seed, test=paired_test(scores[first][seed], scores[second][seed])) for seed in shared]
        if tests:
            changes = over_seeds([each.test.change for each in tests])
            pairs.append(ArmTest(first=first, second=second, seeds=tests, over_seeds=changes))
    corrected = iter(holm([each.test.p_value for pair in pairs for each in pair.seeds]))
    return [
        replace(
            pair,
            seeds=[replace(each, test=replace(each.test, p_value_holm=next(corrected))) for each in pair.seeds],
        )
        for pair in pairs
    ]


def equal_skill(base: Checkpoint, runs: Runs) -> list[EqualSkill]:
    """What every two arms cost where both are equally good.

    An arm's path runs from the base model (step 0) in straight lines through its checkpoints. A level of accuracy is
    read off where the path first reaches it. The levels are the highest that every shared seed of both arms
    reaches, and the one halfway there from the base; pairs that never rise above the base are left out. So is a
    measure that a checkpoint lacks.
    """
    found: list[EqualSkill] = []
    start = accuracy(base)
    for first, second in combinations(runs, 2):
        seeds = [seed for seed in runs[first] if seed in runs[second]]
        paths = {arm: [[base, *runs[arm][seed]] for seed in seeds] for arm in (first, second)}
        top = min((max(map(accuracy, path)) for by_seed in paths.values() for path in by_seed), default=start)
        if top <= start:
            continue
        for share in (1.0, 0.5):
            level = start + share * (top - start)
            read = {arm: [at_skill(path, level) for path in by_seed] for arm, by_seed in paths.items()}
            found.append(_at_level(first, second, level, share, seeds, read))
    return found


def _at_level(
    first: str,
    second: str,
    level: float,
    share: float,
    seeds: list[int],
    read: Mapping[str, Sequence[Mapping[str, float]]],
) -> EqualSkill:
    shared = [name for name in MEASURES if all(name in values for by_seed in read.values() for values in by_seed)]
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
    """Every measure where the path first reaches ``level``, by linear interpolation between two checkpoints.

    Raises:
        ValueError: it never does.
    """
    if accuracy(path[0]) >= level:
        return _measures(path[0])
    for before, after in pairwise(path):
        low, high = accuracy(before), accuracy(after)
        if high >= level:  # and low < level, or an earlier segment had reached it
            share = (level - low) / (high - low)
            old, new = _measures(before), _measures(after)
            return {name: old[name] + share * (new[name] - old[name]) for name in old if name in new}
    raise ValueError(f"no checkpoint reaches an accuracy of {level}")


def accuracy(checkpoint: Checkpoint) -> float:
    """Score on the task that is trained."""
    assert checkpoint.skill.accuracy is not None, "a study stops where nothing is scored"
    return checkpoint.skill.accuracy


def best_rate(accuracies: Mapping[float, float]) -> float:
    """The learning rate with the highest validation accuracy; of equals the lowest, which moves the model least."""
    return max(accuracies, key=lambda rate: (accuracies[rate], -rate))


def _measures(checkpoint: Checkpoint) -> dict[str, float]:
    drift = checkpoint.drift
    values: dict[str, float | None] = {"prior": checkpoint.prior_mean}
    values |= {"tokens": checkpoint.tokens, "seconds": checkpoint.seconds}
    if drift is not None:
        values |= {name: getattr(drift, name) for name in ("kl_per_token", "reference_nll", "format_leak_rate")}
    return {name: value for name, value in values.items() if value is not None}
