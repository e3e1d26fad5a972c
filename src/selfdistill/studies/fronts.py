"""Fronts of skill against drift, and what they say: does one arm drift less than another at the same skill?"""

from collections.abc import Mapping, Sequence

from selfdistill.records.studies import Checkpoint, Front, FrontPoint
from selfdistill.stats.scores import mean
from selfdistill.stats.seeds import sign_beyond_noise
from selfdistill.studies.analysis import Runs, accuracy, at_skill


def fronts(base: Checkpoint, runs: Runs) -> list[Front]:
    """Every arm's front, compared with every other arm; empty if drift was not measured."""
    if base.drift is None:
        return []
    return [
        Front(arm=arm, seen_from=other, points=front_points(base, runs[arm], runs[other]))
        for arm in runs
        for other in runs
        if arm != other
    ]


def front_points(
    base: Checkpoint, arm: Mapping[int, Sequence[Checkpoint]], other: Mapping[int, Sequence[Checkpoint]]
) -> list[FrontPoint]:
    """The front of ``arm``: checkpoints above the base that no other checkpoint of the arm beats in skill and drift.

    Each point says whether ``other`` drifts less at the same accuracy. Drift is KL from the base per token, of both
    arms the least that they have with this accuracy or more, seed by seed. Seeds that only one of the two arms has are
    left out.

    Args:
        base: the base model.
        arm: checkpoints by seed, by rising step.
        other: the same of the other arm.
    """
    seeds = [seed for seed in arm if seed in other]
    points: list[FrontPoint] = []
    for number in _on_front(base, [arm[seed] for seed in seeds]):
        here = {seed: arm[seed][number] for seed in seeds}
        levels = {seed: accuracy(point) for seed, point in here.items()}
        try:
            ours, theirs = (
                [at_skill([base, *each[seed]], levels[seed])["kl_per_token"] for seed in seeds] for each in (arm, other)
            )
        except ValueError:  # in some seed the other arm never reaches this accuracy
            sign = None
        else:
            sign = sign_beyond_noise([kl - other_kl for kl, other_kl in zip(ours, theirs, strict=True)])
        reached = mean([accuracy(checkpoint) for checkpoint in here.values()])
        points.append(FrontPoint(step=here[seeds[0]].step, accuracy=reached, sign=sign))
    return points


def verdict(all_fronts: Sequence[Front], distils: Mapping[str, bool], num_seeds: int) -> str:
    """The answer to "does self-distillation keep more at the same skill?": yes, no or not decided, with the reason.

    One that is not decided also names the arms that are ahead as far as they get.

    Args:
        all_fronts: as ``fronts`` returns them.
        distils: for each arm, whether it learns from a teacher.
        num_seeds: number of seeds of the comparison.
    """
    ours, theirs = [arm for arm, kind in distils.items() if kind], [arm for arm, kind in distils.items() if not kind]
    if not all_fronts:
        return "Not measured: it takes drift (--drift_prompts) and two arms."
    if not ours or not theirs:
        return "Not asked: every arm is of the same kind. Compare an arm that has a teacher with one that has none."
    beaten = {(front.arm, front.seen_from) for front in all_fronts if front.dominated}
    winners = [arm for arm in ours if all((other, arm) in beaten for other in theirs)]
    losers = {arm: [other for other in theirs if (arm, other) in beaten] for arm in ours}
    noise = f"by more than the noise of {num_seeds} seed{'s' if num_seeds > 1 else ''}"
    lost = "; ".join(f"{_names([arm])} is dominated by {_names(others)}" for arm, others in losers.items() if others)
    if winners:
        return f"Yes. At every accuracy on the fronts of {_names(theirs)}, {_names(winners)} has less drift, {noise}."
    if all(losers.values()):
        return f"No. {lost}, {noise}."
    kept = [arm for arm in ours if not losers[arm]]
    undecided = (
        f"Not decided by {'these seeds' if num_seeds > 1 else 'one seed'}. No arm without a teacher dominates "
        f"{_names(kept)}, and no arm with one dominates {_names(theirs)} {noise}"
    )
    ahead = [_ahead(all_fronts, arms, others) for arms, others in ((ours, theirs), (theirs, ours))]
    return " ".join([f"{undecided}; {lost}." if lost else f"{undecided}.", *ahead[0], *ahead[1]])


def _ahead(all_fronts: Sequence[Front], arms: Sequence[str], others: Sequence[str]) -> list[str]:
    """A sentence for each of the arms that drifts less than some of the others at points of its front, and more than
    these nowhere there."""
    sentences: list[str] = []
    for arm in arms:
        behind = [
            f"`{front.seen_from}` at {signs.count(-1)} of {len(signs)}"
            for front in all_fronts
            if front.arm == arm and front.seen_from in others
            for signs in [[point.sign for point in front.points]]
            if -1 in signs and 1 not in signs
        ]
        if behind:
            sentences.append(f"On its own front `{arm}` has less drift than {', '.join(behind)} points, more at none.")
    return sentences


def _on_front(base: Checkpoint, runs: Sequence[Sequence[Checkpoint]]) -> list[int]:
    """Indices of the checkpoints above the base that no other one beats, by means over seeds.

    ``runs``: the arm's checkpoints, one list for each seed.
    """
    means = [
        (mean([accuracy(point) for point in turn]), mean([_drift(point) for point in turn]))
        for turn in zip(*runs, strict=False)  # with a budget in tokens or seconds a seed may have fewer
    ]
    beaten = [
        any(a >= skill and kl <= drift and (a, kl) != (skill, drift) for a, kl in means) for skill, drift in means
    ]
    start = accuracy(base)
    return [number for number, (skill, _) in enumerate(means) if skill > start and not beaten[number]]


def _drift(checkpoint: Checkpoint) -> float:
    assert checkpoint.kl_per_token is not None, "drift is measured at every checkpoint or never"
    return checkpoint.kl_per_token


def _names(arms: Sequence[str]) -> str:
    return " and ".join(f"`{arm}`" for arm in arms)
