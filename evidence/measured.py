"""What a preflight knows of the studies: which arms won which comparisons."""

from collections.abc import Mapping

from selfdistill.evaluate.advice import Measured, MeasuredTask
from selfdistill.records.studies import CompareRecord
from selfdistill.studies.analysis import accuracy


def measured(model: str, comparisons: Mapping[str, CompareRecord]) -> Measured:
    """The outcome of comparisons, given by name, that share their arms and the model."""
    arms = {arm.name: dict(arm.settings) for found in comparisons.values() for arm in found.arms}
    return Measured(
        model=model,
        arms=arms,
        tasks=[
            MeasuredTask(
                name=name, base_accuracy=accuracy(found.base), winners=winners(found), anchored=anchored(found)
            )
            for name, found in comparisons.items()
        ],
    )


def winners(found: CompareRecord) -> list[str]:
    """The arms by which every arm of the other kind is dominated."""
    beaten = {(front.arm, front.seen_from) for front in found.fronts if front.dominated}
    return [
        arm.name
        for arm in found.arms
        if (others := [other.name for other in found.arms if other.distils != arm.distils])
        and all((other, arm.name) in beaten for other in others)
    ]


def anchored(found: CompareRecord) -> float | None:
    """Drift of SFT with anchors as a share of that without, at the highest accuracy that both reach; None if the
    comparison has not both, or one of them never rises above the base."""
    plain = [arm for arm in found.arms if {**arm.settings, "anchor_share": 0} == {"method": "sft", "anchor_share": 0}]
    names = {arm.anchor_share > 0: arm.name for arm in plain}
    for level in found.equal_skill:
        if level.share == 1 and len(names) == 2 and {level.first, level.second} == set(names.values()):
            return level.values[names[True]]["kl_per_token"] / level.values[names[False]]["kl_per_token"]
    return None
