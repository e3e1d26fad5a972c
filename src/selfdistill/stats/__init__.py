"""Statistics of scores: intervals, paired tests, the accuracy matrix, measures of texts. No tensors, no files."""

from selfdistill.stats.continual import (
    average_accuracy,
    average_incremental_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    learning_accuracy,
    normalized,
)
from selfdistill.stats.paired import PairedTest, holm, mcnemar, paired_interval, paired_test
from selfdistill.stats.scores import Interval, detectable_difference, mean, pass_at_k, wilson_interval
from selfdistill.stats.seeds import OverSeeds, over_seeds, sign_beyond_noise

__all__ = [
    "Interval",
    "OverSeeds",
    "PairedTest",
    "average_accuracy",
    "average_incremental_accuracy",
    "backward_transfer",
    "detectable_difference",
    "forgetting",
    "forward_transfer",
    "holm",
    "learning_accuracy",
    "mcnemar",
    "mean",
    "normalized",
    "over_seeds",
    "paired_interval",
    "paired_test",
    "pass_at_k",
    "sign_beyond_noise",
    "wilson_interval",
]
