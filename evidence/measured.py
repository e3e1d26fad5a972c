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
            MeasuredTask(name=name, base_accuracy=accuracy(found.base), winners=winners(found))
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
