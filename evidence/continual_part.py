"""The page's part about the sequences."""

from collections.abc import Mapping, Sequence
from typing import Any

from evidence.markdown import number, percent, points, table
from selfdistill.records.studies import SequenceRecord
from selfdistill.report.formats import rate_text, signed
from selfdistill.stats.seeds import over_seeds, sign_beyond_noise

Runs = Mapping[int, Sequence[SequenceRecord]]
"""The arms' sequences by seed. Later seeds may have fewer arms."""
Arms = Mapping[str, Mapping[int, SequenceRecord]]
"""The sequences of an arm by seed."""
SHARES = ("average_accuracy", "average_incremental_accuracy", "learning_accuracy")
CHANGES = ("backward_transfer", "forward_transfer", "forgetting")


def continual_part(found: Runs, study: Mapping[str, Any]) -> list[str]:
    """Markdown lines about the sequences of all seeds: setting, answers and tables.

    Args:
        found: the runs of each seed's continual.json.
        study: the settings in the study.json of one of them.
    """
    arms = by_arm(found)
    first = next(iter(found.values()))
    rows = [score.num_total for score in first[0].stages[0].measured.tasks.values()]
    setting = (
        f"Tasks {', '.join(first[0].tasks)}, {', '.join(map(str, rows))} evaluation rows; {study['max_steps']} "
        f"steps of {study['per_device_train_batch_size'] * study['gradient_accumulation_steps']} prompts a stage, "
        f"seeds {', '.join(map(str, found))}, {study['model_name']}."
    )
    ones = [next(iter(runs.values())) for runs in arms.values()]
    pairs = [
        (ours.arm, theirs.arm)
        for ours in ones
        for theirs in ones
        if ours.distils and not theirs.distils and ours.anchor_share == theirs.anchor_share
        if arms[ours.arm].keys() & arms[theirs.arm].keys()
    ]
    lines = ["### continual", "", setting, "", *(answer(arms, ours, theirs) for ours, theirs in pairs), ""]
    lines += ["Summaries, mean ± deviation over seeds:", *_summaries(arms)]
    lines += ["SDFT minus SFT, seed by seed:", *_differences(arms, pairs)]
    lines += ["Accuracy after each stage, mean ± deviation over seeds:", *_matrix(arms)]
    return lines[:-1]


def by_arm(found: Runs) -> dict[str, dict[int, SequenceRecord]]:
    """Sequences by arm, and of each by seed."""
    arms: dict[str, dict[int, SequenceRecord]] = {}
    for seed, runs in found.items():
        for run in runs:
            arms.setdefault(run.arm, {})[seed] = run
    return arms


def answer(arms: Arms, ours: str, theirs: str) -> str:
    """A list item that answers: does ``ours`` forget less than ``theirs``, and is it better at the end?"""
    less = sign_beyond_noise([-value for value in difference(arms, ours, theirs, "forgetting")])
    better = sign_beyond_noise(difference(arms, ours, theirs, "average_accuracy"))
    words = {1: "yes", -1: "no, {}", 0: "not decided by these seeds"}
    return (
        f"- **Does `{ours}` forget less than `{theirs}`?** {words[less].format('it forgets more').capitalize()}. "
        f"**Is it better at the end?** {words[better].format('it is worse').capitalize()}."
    )


def difference(arms: Arms, ours: str, theirs: str, name: str) -> list[float]:
    """``ours`` minus ``theirs`` in a summary, or in the drift at the end; one value for each seed that both have."""
    return [
        _value(run, name) - _value(arms[theirs][seed], name) for seed, run in arms[ours].items() if seed in arms[theirs]
    ]


def _value(run: SequenceRecord, name: str) -> float:
    drift = run.stages[-1].measured.drift
    return getattr(drift if name in ("kl_per_token", "format_leak_rate") else run, name)


def _summaries(arms: Arms) -> list[str]:
    heads = ["arm", "rate", "seeds", *(f"{_words(name)} %" for name in SHARES), *map(_words, CHANGES)]
    heads += ["KL per token at the end", "format leak %"]
    rows: list[list[str]] = []
    for arm, by_seed in arms.items():
        runs = list(by_seed.values())
        row = [f"`{arm}`", rate_text(runs[0].learning_rate), str(len(runs))]
        row += [percent([_value(run, name) for run in runs]) for name in SHARES]
        row += [points([_value(run, name) for run in runs]) for name in CHANGES]
        row.append(number([_value(run, "kl_per_token") for run in runs]))
        rows.append([*row, percent([_value(run, "format_leak_rate") for run in runs])])
    return table(heads, rows)


def _differences(arms: Arms, pairs: Sequence[tuple[str, str]]) -> list[str]:
    heads = ["arms", "of", "by seed", "mean", "same sign %", "beyond the noise"]
    rows: list[list[str]] = []
    for ours, theirs in pairs:
        for name in (*SHARES, *CHANGES, "kl_per_token"):
            values = difference(arms, ours, theirs, name)
            is_share = name != "kl_per_token"
            each = [signed(100 * value) if is_share else number([value]) for value in values]
            told = {1: "higher", -1: "lower", 0: "no"}[sign_beyond_noise(values)]
            same = f"{100 * over_seeds(values).sign_consistency:.0f}"
            spread = points(values) if is_share else number(values)
            what = _words(name) if is_share else "KL per token at the end"
            rows.append([f"`{ours}` − `{theirs}`", what, ", ".join(each), spread, same, told])
    return table(heads, rows)


def _matrix(arms: Arms) -> list[str]:
    one = next(iter(next(iter(arms.values())).values()))
    tasks, rows = one.tasks, [["base", "", *(percent([accuracy]) for accuracy in one.base)]]
    for arm, runs in arms.items():
        for stage, name in enumerate(tasks):
            cells = [[run.accuracy_matrix[stage][task] for run in runs.values()] for task in range(len(tasks))]
            rows.append([f"`{arm}`", f"{stage + 1}. {name}", *map(percent, cells)])
    return table(["arm", "after stage", *(f"{task} %" for task in tasks)], rows)


def _words(name: str) -> str:
    return name.replace("_", " ")
