"""The model card, README.md: what a run's, an evaluation's and a ledger's records say of a model, and how to load it.

It names no path of this machine and shows no row, no completion and no answer.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from selfdistill import run_folder
from selfdistill.export.source import Source
from selfdistill.models.embedded import EMBEDDED_TITLE
from selfdistill.records.evaluations import DriftRecord
from selfdistill.records.ledger import Version
from selfdistill.records.runs import RunConfig, run_in
from selfdistill.report.contents import Comparison
from selfdistill.report.evaluations import change_estimate, compare, read_drift, read_evaluations
from selfdistill.report.formats import cell_text, number_text
from selfdistill.run_folder import EVAL, EVAL_BEFORE
from selfdistill.settings.groups import DEFAULT_MODEL
from selfdistill.settings.sources import parts

CARD = "README.md"
SHOWN = ("method", "target", "template", "teacher", "learning_rate", "max_steps", "num_train_epochs", "seed")
"""Settings in the table of the training."""
FILES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", ".gz", ".arrow", ".gguf")
"""Endings of files of rows and models, which may be gone by now."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def card(source: Source, *, title: str, form: str, loading: str, check: str) -> str:
    """The text of the card.

    Args:
        source: the model.
        title: its name.
        form: what was written.
        loading: how to load it, as a block of code.
        check: what came of the comparison of logits.

    Raises:
        UserError: a record of the run, of an evaluation or of the ledger is broken.
    """
    parts_of_it = [
        _front_matter(source, form),
        f"# {title}\n",
        f"Written by [selfdistill](https://arxiv.org/abs/2601.19897) {run_folder.versions().get('selfdistill', '')}, "
        f"`--to {form}`. {check}\n",
        f"## How to load it\n\n{loading}",
        _data(source.run),
        _training(source.run),
        *_measured(source),
        _lineage(source),
        "## Licence\n\nThat of the base model, and of the data, holds for this one.\n",
    ]
    return "\n".join(part for part in parts_of_it if part)


def public_name(name: str) -> str:
    """A model's or a data set's name without the folders of this machine: Hub ids as they are, of a path the last
    part."""
    if name == DEFAULT_MODEL:
        return EMBEDDED_TITLE
    return name if hub_id(name) else Path(name).name or name


def hub_id(name: str | None) -> str | None:
    """The Hub id that a name is, without configuration and revision; None for what is nowhere but here."""
    if name == DEFAULT_MODEL:
        return EMBEDDED_TITLE.partition(" ")[0]
    found = (name or "").partition(":")[0]
    is_file = Path(found).exists() or Path(found).suffix in FILES
    return found if HUB_ID.fullmatch(found) and not is_file else None


def first_model(source: Source) -> str:
    """The model that all training began with, as far as runs and the ledger tell."""
    if source.ledger is not None:
        return source.ledger.base
    name, run = "", source.run
    for _ in range(20):  # a record may have been changed to name itself
        if run is None:
            break
        name = run.model_name
        run = run_in(name)
    return name or source.base or source.name


def _front_matter(source: Source, form: str) -> str:
    """Metadata that the Hub reads; a name that only means something here is left out."""
    base = hub_id(first_model(source))
    datasets = [hub_id(part) for part in parts(source.run.dataset)] if source.run and "/" in source.run.dataset else []
    library = {"adapter": "peft", "gguf": "gguf", "ollama": "gguf", "mlx": "mlx"}.get(form, "transformers")
    relation = "adapter" if form == "adapter" else "quantized" if library == "gguf" else "finetune"
    lines = [f"library_name: {library}", "pipeline_tag: text-generation", "tags:", "- selfdistill"]
    if base:
        lines += [f"base_model: {base}", f"base_model_relation: {relation}"]
    if known := [name for name in datasets if name]:
        lines += ["datasets:", *(f"- {name}" for name in known)]
    return "\n".join(["---", *lines, "---"]) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _data(run: RunConfig | None) -> str:
    if run is None:
        return "## Data\n\nThere is no record of a run beside the weights.\n"
    name = ", ".join(public_name(part) for part in parts(run.dataset)) or "rows passed from Python"
    prints = [
        (what, f"`{hash}`") for what, hash in run.fingerprints.items() if what in ("training rows", "anchor prompts")
    ]
    hashes = f"\n{_table(('fingerprint of', 'hash'), prints)}" if prints else ""
    return f"## Data\n\n{run.num_training_rows:,} rows of {name}. They are not part of this folder.\n{hashes}"


def _training(run: RunConfig | None) -> str:
    if run is None:
        return ""
    rows = [(name, run.settings[name]) for name in SHOWN if run.settings.get(name) is not None]
    rows += [("start model", public_name(run.model_name))]
    rows += [(f"{name} version", version) for name, version in run.versions.items()]
    differing = [(name, ours, paper) for name, (ours, paper) in run.deviations_from_paper.items()]
    deviations = (
        _table(("setting", "here", "paper"), differing)
        if differing
        else "None of the settings that the paper gives has another value.\n"
    )
    return (
        f"## Training\n\n{_table(('setting', 'value'), rows)}\n### Differences from the paper (arXiv 2601.19897)\n\n"
        f"{deviations}"
    )


def _measured(source: Source) -> list[str]:
    """Skill and losses, from the evaluations in the run's folder."""
    folder = source.folder
    if folder is None or source.run is None:
        return []
    after = read_evaluations(folder) | read_evaluations(folder / EVAL)
    before = read_evaluations(folder / EVAL_BEFORE)
    found = [each for name, result in after.items() for each in compare("", before.get(name), result, headline=True)]
    drifts = [each.drift for place in (folder, folder / EVAL) for each in read_drift(place, "", "after")]
    own, others = _split(found, source.run.task)
    skill = _scores(own) or "Not evaluated.\n"
    lost = _scores(others) + _drift(drifts) or "Not measured: neither prior capabilities nor drift.\n"
    return [f"## Skill\n\n{skill}", f"## What it cost\n\n{lost}"]


def _split(found: Sequence[Comparison], task: str) -> tuple[list[Comparison], list[Comparison]]:
    """Scores on the run's own task, and on everything else. Where nothing is of the task, all is taken for it but the
    prior capabilities."""
    own = [each for each in found if each.dataset == task]
    own = own or [each for each in found if not each.dataset.startswith("prior")]
    return own, [each for each in found if each not in own]


def _scores(found: Sequence[Comparison]) -> str:
    rows = [
        (
            each.dataset + (f": {each.part}" if each.part else ""),
            Path(each.metric).name if ".py:" in each.metric else each.metric,
            f"{each.after.num_total:,}",
            cell_text("percent", each.before),
            cell_text("percent", each.after),
            f"{cell_text('points', change_estimate(each.test))} {each.test.verdict}" if each.test else "not compared",
        )
        for each in found
    ]
    head = ("data set", "scorer", "rows", "before %", "after %", "change in points")
    return f"{_table(head, rows)}\nIn brackets: 95% intervals.\n" if rows else ""


def _drift(found: Sequence[DriftRecord]) -> str:
    return "".join(
        f"\nDrift on {each.num_prompts:,} general prompts: KL(base‖model) {number_text(each.kl_per_token)} nats per "
        f"token; loss on general answers {number_text(each.reference_nll)} nats per token (base "
        f"{number_text(each.base_reference_nll)}); answers in the task's format {100 * each.format_leak_rate:.1f}%.\n"
        for each in found
    )


def _lineage(source: Source) -> str:
    book = source.ledger
    if book is None:
        return ""
    chain: list[Version] = []
    number = source.version
    while number:
        chain.insert(0, book.version(number))
        number = chain[0].parent
    rows = [
        (
            each.number,
            each.skill.name,
            f"{each.skill.num_rows:,}",
            f"`{each.skill.rows_sha256[:12]}`",
            each.method.get("method", ""),
            ", ".join(f"{v.skill} {100 * v.then:.1f} → {100 * v.now:.1f}" for v in each.verdicts),
        )
        for each in chain
    ]
    refused = (
        "" if not (chain and chain[-1].refused) else "\nThe gate refused this version: it loses an earlier skill.\n"
    )
    head = ("version", "skill", "rows", "hash of rows", "method", "the gate's scores in %, before → after")
    return f"## Lineage\n\nBase: {public_name(book.base)}.\n\n{_table(head, rows)}{refused}"


def check_card(source: Source) -> None:
    """Raises UserError, before weights are loaded, if a record that the card is made of is broken."""
    card(source, title="", form="", loading="", check="")
