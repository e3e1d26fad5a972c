"""Which method preflight recommends, by what docs/evidence.md measured."""

MEASURED_UP_TO = 0.25
"""docs/evidence.md compares methods on tasks that the student gets right less often than this."""


def advice(base_accuracy: float | None) -> str:
    """A sentence or two for people; ``base_accuracy``: of the untrained model, None where it is not known."""
    if base_accuracy is not None and base_accuracy < MEASURED_UP_TO:
        return (
            f"The student is right in {base_accuracy:.0%}. On three such tasks a 135M model learned more "
            "in as many steps, and drifted less at the same skill, by SFT with anchor prompts than by SDFT "
            "(docs/evidence.md): try --method sft --anchor_share 0.25, too."
        )
    return "Which method keeps more here is not known: selfdistill compare --methods sdft,sft finds out."
