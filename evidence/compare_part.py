"""What the page says of a comparison."""

from collections.abc import Mapping, Sequence
from typing import Any

from evidence.markdown import number, percent, points, table, teaches_itself
from evidence.noise import Point, dominated
from evidence.noise import points as seen_from
from selfdistill.report.formats import p_text, rate_text

Entry = dict[str, Any]
Seen = Mapping[tuple[str, str], Sequence[Point]]
"""By arm and other arm the points on the arm's front as the other one sees them."""
DRIFT = {"kl_per_token": "KL a token", "reference_nll": "reference loss"}


def compare_part(name: str, found: Mapping[str, Any], study: Mapping[str, Any]) -> list[str]:
    """Lines of a study: answer, tables.

    Args:
        name: of the study.
        found: its compare.json.
        study: the settings in its study.json.
    """
    runs = chosen_runs(found)
    seen = fronts(found["base"], runs)
    kinds = {arm["name"]: teaches_itself(arm, study) for arm in found["arms"]}
    rows = found["base"]["new_task"]["num_total"]
    setting = (
        f"Task `{found['dataset']}`, {rows} evaluation rows, base {percent([_accuracy(found['base'])])}%; "
        f"{found['budget']['amount']:g} {found['budget']['of']} of "
        f"{study['per_device_train_batch_size'] * study['gradient_accumulation_steps']} prompts, seeds "
        f"{', '.join(map(str, found['seeds']))}, {study['checkpoints']} checkpoints, {study['model_name']}."
    )
    lines = [f"### {name}", "", setting, "", answer(seen, kinds, len(found["seeds"])), ""]
    lines += ["Last checkpoint of the rate chosen, mean ± deviation over seeds:", *_last(found, runs)]
    lines += ["Fronts, and what an arm of the other kind has at the same accuracy:", *_fronts(seen, kinds)]
    lines += ["Learning rates, first seed, last checkpoint:", *_sweep(found)]
    if found["equal_skill"]:
        lines += ["At equal skill, mean over seeds:", *_equal(found)]
    if found["tests"]:
        lines += ["Paired tests of accuracy at the last checkpoint:", *_tests(found)]
    return lines[:-1]


def chosen_runs(found: Mapping[str, Any]) -> dict[str, dict[int, list[Entry]]]:
    """Entries of the chosen rates by arm and seed, in the order of their steps."""
    runs: dict[str, dict[int, list[Entry]]] = {arm["name"]: {} for arm in found["arms"]}
    for entry in sorted(found["entries"], key=lambda entry: entry["step"]):
        if entry["chosen"]:
            runs[entry["method"]].setdefault(entry["seed"], []).append(entry)
    return runs


def fronts(base: Entry, runs: Mapping[str, Mapping[int, Sequence[Entry]]]) -> Seen:
    """Every arm's front as every other arm sees it."""
    return {(arm, other): seen_from(base, runs[arm], runs[other]) for arm in runs for other in runs if arm != other}


def answer(seen: Seen, kinds: Mapping[str, bool], num_seeds: int) -> str:
    """Does self-distillation lie above supervised fine-tuning? Yes, no or not decided, and what of.

    Args:
        seen: the fronts.
        kinds: by arm whether it is one of self-distillation.
        num_seeds: for the wording.
    """
    ours, theirs = [arm for arm, kind in kinds.items() if kind], [arm for arm, kind in kinds.items() if not kind]
    winners = [arm for arm in ours if theirs and all(dominated(seen[other, arm]) for other in theirs)]
    losers = {arm: [other for other in theirs if dominated(seen[arm, other])] for arm in ours}
    noise = f"by more than the noise of {num_seeds} seed{'s' if num_seeds > 1 else ''}"
    if winners:
        text = f"yes. At every accuracy on the fronts of {_names(theirs)}, {_names(winners)} has less drift, {noise}"
    elif ours and all(losers.values()):
        said = "; ".join(f"{_names([arm])} is dominated by {_names(others)}" for arm, others in losers.items())
        text = f"no. {said}, {noise}"
    else:
        beaten = "; ".join(
            f"{_names([arm])} is dominated by {_names(others)}" for arm, others in losers.items() if others
        )
        kept = [arm for arm in ours if not losers[arm]]
        text = (
            f"not decided by {'these seeds' if num_seeds > 1 else 'one seed'}. No SFT arm dominates {_names(kept)}, "
            f"and no SDFT arm dominates {' and '.join(map(_code, theirs))} {noise}" + (f"; {beaten}" if beaten else "")
        )
    return f"**Does self-distillation keep more at the same skill?** {text[0].upper()}{text[1:]}."


def _last(found: Mapping[str, Any], runs: Mapping[str, Mapping[int, Sequence[Entry]]]) -> list[str]:
    parts = list(found["base"]["new_task"].get("parts", {}))
    heads = ["arm", "rate", "accuracy %", *(f"{part} %" for part in parts), *DRIFT.values(), "format leak %", "seconds"]
    base = found["base"]
    rows = [["base", "", *_scores([base], parts), ""]]
    for arm in found["arms"]:
        last = [entries[-1] for entries in runs[arm["name"]].values()]
        seconds = number([entry["wall_s"] for entry in last], 0)
        rows.append([_code(arm["name"]), rate_text(arm["learning_rate"]), *_scores(last, parts), seconds])
    return table(heads, rows)


def _scores(entries: Sequence[Entry], parts: Sequence[str]) -> list[str]:
    cells = [percent([_accuracy(entry) for entry in entries])]
    cells += [percent([entry["new_task"]["parts"][part]["accuracy"] for entry in entries]) for part in parts]
    cells += [number([entry["drift"][name] for entry in entries]) for name in DRIFT]
    return [*cells, percent([entry["drift"]["format_leak_rate"] for entry in entries])]


def _fronts(seen: Seen, kinds: Mapping[str, bool]) -> list[str]:
    heads = ["front of", "seen from", "its points", "there less drift", "more", "not decided", "not reached"]
    rows: list[list[str]] = []
    for (arm, other), found in seen.items():
        if kinds[arm] == kinds[other]:
            continue
        signs = [point.sign for point in found]
        counts = [len(signs), *(signs.count(sign) for sign in (1, -1, 0, None))]
        rows.append([_code(arm), f"{_code(other)}{', dominates' if dominated(found) else ''}", *map(str, counts)])
    return table(heads, rows)


def _sweep(found: Mapping[str, Any]) -> list[str]:
    heads = ["arm", "rate", "validation %", "accuracy %", *DRIFT.values(), "format leak %", "chosen"]
    first = found["seeds"][0]
    last = {(e["method"], e["learning_rate"]): e for e in found["entries"] if e["seed"] == first}
    rows: list[list[str]] = []
    for (arm, rate), entry in last.items():  # of an arm and rate the last checkpoint is kept: entries are in order
        validation = entry["validation"]
        tried = percent([validation["accuracy"]]) if validation else ""
        chosen = "yes" if entry["chosen"] else "no"
        rows.append([_code(arm), rate_text(rate), tried, *_scores([entry], []), chosen])
    return table(heads, rows)


def _equal(found: Mapping[str, Any]) -> list[str]:
    heads = ["first, second", "accuracy %", "KL of first", "of second", "second − first", "same sign %", "seconds"]
    rows: list[list[str]] = []
    for level in found["equal_skill"]:
        ours, theirs = (level["values"][level[arm]] for arm in ("first", "second"))
        gap = level["differences"]["kl_per_token"]
        several = f" ± {number([gap['deviation']])}" if len(level["seeds"]) > 1 else ""
        rows.append(
            [
                f"{_code(level['first'])}, {_code(level['second'])}",
                percent([level["accuracy"]]),
                number([ours["kl_per_token"]]),
                number([theirs["kl_per_token"]]),
                number([gap["mean"]]) + several,
                f"{100 * gap['sign_consistency']:.0f}",
                f"{ours['wall_s']:.0f}, {theirs['wall_s']:.0f}",
            ]
        )
    return table(heads, rows)


def _tests(found: Mapping[str, Any]) -> list[str]:
    heads = ["first, second", "second − first, points", "same sign %", "p (Holm) by seed"]
    rows = [
        [
            f"{_code(pair['first'])}, {_code(pair['second'])}",
            points([test["change"] for test in pair["seeds"]]),
            f"{100 * pair['over_seeds']['sign_consistency']:.0f}",
            ", ".join(p_text(test["p_value_holm"]) for test in pair["seeds"]),
        ]
        for pair in found["tests"]
    ]
    return table(heads, rows)


def _accuracy(entry: Entry) -> float:
    return entry["new_task"]["accuracy"]


def _names(arms: Sequence[str]) -> str:
    return " and ".join(map(_code, arms)) or "any"


def _code(name: str) -> str:
    return f"`{name}`"
