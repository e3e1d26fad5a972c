"""Does one arm keep more than another at the same skill? Fronts of skill against drift, and the answer in words."""

from collections.abc import Mapping, Sequence

from selfdistill.records.studies import Checkpoint, Front, FrontPoint
from selfdistill.stats.scores import mean
from selfdistill.stats.seeds import sign_beyond_noise
from selfdistill.studies.analysis import Runs, accuracy, at_skill


def fronts(base: Checkpoint, runs: Runs) -> list[Front]:
    """Every arm's front as every other arm sees it; none where drift was not measured."""
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
    """The checkpoints of ``arm`` that are better than the base and on its own front, seen from ``other``.

    Drift is KL from the base for each token. The other arm's is read off its path at the accuracy that ``arm`` has
    there, seed by seed. Seeds that only one of them has are left out.
    """
    seeds = [seed for seed in arm if seed in other]
    found: list[FrontPoint] = []
    for number in _on_front(base, [arm[seed] for seed in seeds]):
        here = {seed: arm[seed][number] for seed in seeds}
        try:
            rest = [at_skill([base, *other[seed]], accuracy(here[seed]))["kl_per_token"] for seed in seeds]
        except ValueError:
            sign = None
        else:
            sign = sign_beyond_noise([_drift(here[seed]) - kl for seed, kl in zip(seeds, rest, strict=True)])
        reached = mean([accuracy(checkpoint) for checkpoint in here.values()])
        found.append(FrontPoint(step=here[seeds[0]].step, accuracy=reached, sign=sign))
    return found


def verdict(found: Sequence[Front], distils: Mapping[str, bool], num_seeds: int) -> str:
    """Does self-distillation lie above learning the demonstrations' tokens? A sentence: yes, no or not decided.

    Args:
        found: the fronts.
        distils: by arm whether it is held to a teacher.
        num_seeds: seeds of the comparison.
    """
    ours, theirs = [arm for arm, kind in distils.items() if kind], [arm for arm, kind in distils.items() if not kind]
    if not found:
        return "Not measured: without drift (--drift_prompts) and two arms there are no fronts."
    if not ours or not theirs:
        return "Not asked: every arm is of the same kind. Compare an arm with a teacher and one without."
    beaten = {(front.arm, front.seen_from) for front in found if front.dominated}
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
    return f"{undecided}; {lost}." if lost else f"{undecided}."


def _on_front(base: Checkpoint, runs: Sequence[Sequence[Checkpoint]]) -> list[int]:
    """Numbers of the checkpoints above the base that no other of the same arm beats, by means over seeds."""
    means = [
        (mean([accuracy(each) for each in turn]), mean([_drift(each) for each in turn]))
        for turn in zip(*runs, strict=False)  # with a budget of tokens or seconds one seed may have fewer
    ]
    beaten = [
        any(a >= skill and kl <= drift and (a, kl) != (skill, drift) for a, kl in means) for skill, drift in means
    ]
    start = accuracy(base)
    return [number for number, (skill, _) in enumerate(means) if skill > start and not beaten[number]]


def _drift(checkpoint: Checkpoint) -> float:
    assert checkpoint.kl_per_token is not None, "drift is measured at every checkpoint or at none"
    return checkpoint.kl_per_token


def _names(arms: Sequence[str]) -> str:
    return " and ".join(f"`{arm}`" for arm in arms)
