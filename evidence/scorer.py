"""The scorers of the evidence's tasks, which the sequence asks for rows of several tasks."""

from selfdistill.tasks.office import right_value, same_answer

__all__ = ["right_value", "same_answer"]
