"""The method that a preflight recommends, by the measurements of docs/evidence.md."""

MEASURED_UP_TO = 0.25
"""In the tasks of docs/evidence.md the untrained student's accuracy is below this."""


def advice(base_accuracy: float | None) -> str:
    """A sentence or two for people. ``base_accuracy``: the untrained student's, in [0, 1]; None if it is not known."""
    if base_accuracy is not None and base_accuracy < MEASURED_UP_TO:
        return (
            f"The student is right in {base_accuracy:.0%} of rows. On three such tasks a 135M model learned more "
            "in as many steps, and drifted less at the same skill, by SFT with anchor prompts than by SDFT "
            "(docs/evidence.md): try --method sft --anchor_share 0.25 too."
        )
    return "Which method forgets less here is not known: selfdistill compare --methods sdft,sft finds out."
