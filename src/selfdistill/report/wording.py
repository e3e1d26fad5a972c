"""The verdict in words."""

from selfdistill.report.contents import Comparison, Results
from selfdistill.report.evaluations import change_estimate
from selfdistill.report.formats import interval_text, main_text, p_text
from selfdistill.stats.paired import NOT_ENOUGH_DATA


def headlines(results: Results) -> list[Comparison]:
    """The comparisons that the verdicts of the shown runs are about, one for each run."""
    return [comparison for comparison in results.comparisons if comparison.headline and comparison.run in results.shown]


def verdict(comparison: Comparison) -> str:
    """BETTER, WORSE or NOT ENOUGH DATA."""
    return comparison.test.verdict if comparison.test else NOT_ENOUGH_DATA


def reasons(comparison: Comparison) -> list[str]:
    """Sentences that explain a verdict: the change, the test, and what the evaluation could have shown."""
    test = comparison.test
    if test is None and comparison.before is None:
        return [f"{comparison.dataset} was not scored before training, so there is nothing to compare with."]
    if test is None:
        return ["Before and after were not scored on the same rows in the same way, so they are not compared."]
    change = change_estimate(test)
    rows = f"{test.num_items:,} row{'s' if test.num_items != 1 else ''}"
    p_value = "p < 0.0001" if test.p_value < 0.0001 else f"p = {p_text(test.p_value)}"
    sentences = [
        f"{main_text('points', change)} points, 95% interval {interval_text('points', change)}, over the same "
        f"{rows} of {comparison.dataset}: {test.num_better:,} fixed, {test.num_worse:,} broke (exact McNemar test, "
        f"{p_value})."
    ]
    if test.detectable is None:
        return [*sentences, "So few rows can't show any change."]
    return [
        *sentences,
        f"The smallest change {rows} could have shown is {main_text('percent', test.detectable)} points "
        "(80% chance, 5% level).",
    ]
