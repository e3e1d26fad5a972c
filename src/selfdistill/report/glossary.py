"""One line of meaning for every number the report shows."""

MEANINGS = {
    "score": "Mean score of the evaluation rows, in percent, with its 95% Wilson interval.",
    "change": "After minus before over the same rows, in percentage points, with its 95% interval for paired scores.",
    "fixed": "Rows whose score rose.",
    "broke": "Rows whose score fell.",
    "p value": "Exact McNemar test on the rows that changed: how often chance alone would be as one-sided. There is no "
    "correction for looking at several lines of the table.",
    "could show": "Smallest true change, in percentage points, that a test of this size finds with 80% probability at "
    "the 5% level.",
    "verdict": "BETTER or WORSE where p is below 0.05, else NOT ENOUGH DATA: no change was shown, which is not "
    "the same as no change.",
    "kl_per_token": "KL from the base model per token of the base's own answers to general prompts, in nats. "
    "0 is unmoved.",
    "reference_nll": "Loss on general reference answers, in nats for each token. A rise means that general ability was "
    "lost.",
    "format_leak_rate": "Share of answers to general prompts that carry the new task's format. "
    "It should stay near the base's.",
    "loss": "What the optimizer lowers: the mean over rollouts of the mean divergence of their tokens.",
    "divergence": "Mean divergence between teacher and student per completion token, in nats. It falls as the student "
    "comes to answer as the teacher does.",
    "anchor_divergence": "The same on anchor prompts, against the start model: how far general answers have moved.",
    "cross_entropy": "Mean negative log-probability of the demonstrations' tokens, in nats.",
    "grad_norm": "Norm of the gradient before clipping. Spikes go with unsteady training.",
    "learning_rate": "Learning rate of the step.",
    "completion_tokens": "Mean length of the sampled completions, in tokens.",
    "truncated_share": "Share of completions that met the token limit before they ended.",
    "tokens_seen": "Tokens that passed through the student in training so far.",
    "wall_seconds": "Seconds since training began.",
    "position": "Mean divergence at each place of the completion. A high start is the choice of format, "
    "a high tail disagreement on the rest.",
    "accuracy_matrix": "R[i, j]: score on task j after stage i. The diagonal is each task just learned, below it is "
    "what stayed, above it what was known before.",
    "average_accuracy": "Mean of the last row of R: all tasks after the last stage.",
    "average_incremental_accuracy": "Mean over stages of the mean score on the tasks seen so far.",
    "backward_transfer": "Mean over the earlier tasks j of R[last, j] - R[j, j]. Negative is forgetting.",
    "forward_transfer": "Mean over the later tasks j of R[j-1, j] - base[j]: what earlier stages gave a task "
    "in advance.",
    "forgetting": "Mean over the earlier tasks j of (best R[i, j] before the last stage) - R[last, j]. 0 is none.",
    "learning_accuracy": "Mean of the diagonal of R: each task just after its stage.",
    "normalized": "(R[i, j] - base[j]) / (best[j] - base[j]), best[j] the highest R[i, j] of all stages i: 0 is the "
    "model before training, 1 the best that this sequence was at the task. Empty where it never rose above its base.",
    "validation": "Score on training rows that were held back. Of several learning rates of an arm the one with the "
    "highest score there runs on the other seeds; of equals the lowest.",
    "p holm": "The p-value corrected by Holm's method for all tests of this table.",
    "over seeds": "Standard deviation over seeds of the difference, and the share of seeds in which it has the sign of "
    "its mean.",
    "equal skill": "An arm's path runs in straight lines from the base model through its checkpoints; values are "
    "read off where it first reaches this score: the highest that every seed of both reaches, and half the way there.",
    "new task": "Score on the task that was trained, in percent, with its 95% interval.",
    "prior": "Mean score on the prior benchmarks, in percent: what was kept.",
    "tokens": "Tokens that passed through the student in training.",
    "seconds": "Seconds of training.",
    "front": "The checkpoints of an arm, above the base, that no other of its own beats in both skill and drift; and "
    "how often the other arm, at the same skill, has less drift there, beyond the noise of the seeds (95% t-interval).",
}
