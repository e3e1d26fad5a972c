"""A short explanation of every number in the report."""

MEANINGS = {
    "score": "Mean score of the evaluation rows, in percent, with its 95% Wilson interval.",
    "change": "After minus before over the same rows, in percentage points, with its 95% interval for paired scores.",
    "fixed": "Rows whose score rose.",
    "broke": "Rows whose score fell.",
    "p value": "Exact McNemar test on the rows that changed: the probability that chance is at least as one-sided. It "
    "is not corrected for the number of rows in the table.",
    "could show": "Smallest true change, in percentage points, that a test of this size finds with 80% probability at "
    "the 5% level.",
    "verdict": "BETTER or WORSE if p is below 0.05, otherwise NOT ENOUGH DATA: no change was shown, which is not "
    "the same as no change.",
    "kl_per_token": "KL from the base model per token of the base's own answers to general prompts, in nats. "
    "0 means that nothing moved.",
    "reference_nll": "Loss on general reference answers, in nats per token. A rise means that general ability was "
    "lost.",
    "format_leak_rate": "Share of answers to general prompts that carry the new task's format. "
    "It should stay near the base's.",
    "loss": "What the optimizer lowers: by default the mean over completions of the mean loss of their tokens.",
    "eval/accuracy": "Mean score of held-out rows, greedily decoded during training (--eval_steps).",
    "eval/drift": "KL from the start model per token of its own answers to general prompts, in nats, measured during "
    "training. 0 means that nothing moved.",
    "divergence": "Mean divergence between teacher and student per completion token, in nats. It falls as the student "
    "learns to answer like the teacher.",
    "anchor_divergence": "Mean divergence from the start model per token on anchor prompts: how far general answers "
    "have moved.",
    "cross_entropy": "Mean negative log-probability of the demonstrations' tokens, in nats per token.",
    "grad_norm": "Norm of the gradient before clipping. Spikes are a sign of unstable training.",
    "learning_rate": "Learning rate of the step.",
    "completion_tokens": "Mean length of the sampled completions, in tokens.",
    "entropy": "How unsure the student is of its own tokens, in nats, estimated from those that it sampled. Near 0 it "
    "writes the same again and again.",
    "distinct_1": "Different tokens over all tokens of a step's completions. It falls when they repeat themselves.",
    "distinct_2": "Different pairs of neighbouring tokens over all pairs of a step's completions. It falls when they "
    "repeat themselves.",
    "self_bleu": "How much a completion of a step is like the others, from 0 to 1: its mean BLEU score against them.",
    "first_token_share": "Share of a step's completions that begin with the most frequent first token.",
    "truncated_share": "Share of completions that reached the token limit before they ended.",
    "tokens_seen": "Tokens that passed through the student in training so far.",
    "skipped_steps": "Steps so far that changed nothing, since their gradients were not finite.",
    "wall_seconds": "Seconds since training began.",
    "position": "Mean divergence at each position of the completion. High values at the start concern the choice of "
    "format, high values later the rest of the answer.",
    "accuracy_matrix": "R[i, j]: score on task j after stage i. The diagonal is each task just after it was learned, "
    "below it is what was kept, above it what was known in advance.",
    "average_accuracy": "Mean of the last row of R: all tasks after the last stage.",
    "average_incremental_accuracy": "Mean over stages of the mean score on the tasks seen so far.",
    "backward_transfer": "Mean over the earlier tasks j of R[last, j] - R[j, j]. Negative is forgetting.",
    "forward_transfer": "Mean over the later tasks j of R[j-1, j] - base[j]: what earlier stages add to a task "
    "before it is trained.",
    "forgetting": "Mean over the earlier tasks j of (best R[i, j] before the last stage) - R[last, j]. 0 is none.",
    "learning_accuracy": "Mean of the diagonal of R: each task just after its stage.",
    "normalized": "(R[i, j] - base[j]) / (best[j] - base[j]), best[j] the highest R[i, j] of all stages i: 0 is the "
    "model before training, 1 the best score of this sequence on the task. Empty if no stage rose above the base.",
    "validation": "Score on training rows that were held back. Of several learning rates of an arm, the one with the "
    "highest score runs with the other seeds; on a tie it is the lowest rate.",
    "p holm": "The p-value corrected by Holm's method for all tests of this table.",
    "over seeds": "Standard deviation of the difference over seeds, and the share of seeds in which it has the sign of "
    "the mean.",
    "equal skill": "An arm's path runs in straight lines from the base model through its checkpoints; values are "
    "read where it first reaches this score: the highest that both arms reach in every seed, and half way up to it.",
    "new task": "Score on the task that was trained, in percent, with its 95% interval.",
    "prior": "Mean score on the prior benchmarks, in percent.",
    "tokens": "Tokens that passed through the student in training.",
    "seconds": "Seconds of training.",
    "front": "Checkpoints of an arm above the base that none of its other checkpoints beats in both skill and drift; "
    "and at how many of them the other arm has less drift at the same skill, beyond the noise of the seeds (95% "
    "t-interval).",
}
