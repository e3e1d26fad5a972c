"""One export: everything is checked, the model loaded and written, what was written loaded and compared."""

from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape

from selfdistill import run_folder
from selfdistill.checkpoints.commit import commit
from selfdistill.checkpoints.manifest import DamagedError
from selfdistill.checkpoints.space import check_space
from selfdistill.errors import DamagedFilesError, DiskError, UserError
from selfdistill.export.card import CARD, card, check_card, hub_id
from selfdistill.export.compare import Difference, difference, is_the_model, logits_of, probe_ids
from selfdistill.export.forms import FORMS, Job
from selfdistill.export.hub import check_hub, push
from selfdistill.export.source import Source, find_source
from selfdistill.models.device import compute_dtype
from selfdistill.models.loading import load_model, load_tokenizer, quiet_libraries
from selfdistill.settings.export import ExportOptions


def export(options: ExportOptions, console: Console) -> None:
    """Writes a model to a new folder, whole or not at all, and pushes it if that is asked for.

    Raises:
        UserError: an option is wrong, the model can't be found or written so, or the Hub refuses it.
        DamagedFilesError: what was written gives other logits than the model. Nothing is kept.
        DiskError: there is no space, or it can't be written.
    """
    quiet_libraries()
    folder, form = Path(str(options.output_dir)), FORMS[str(options.to)]
    if folder.is_file() or run_folder.in_use(folder):
        raise UserError(f"--output_dir {folder} is not an empty folder. Name a new one.")
    source = find_source(options.folder)
    form.check(source, options.quantize)
    check_card(source)
    if options.push_to_hub:
        _check_push(source, options)
    job = _loaded(source, options)
    size = sum(parameter.numel() for parameter in job.model.parameters()) * job.dtype.itemsize
    if options.to != "adapter":
        check_space(folder, size, "The exported model may take", "Free some, or name another --output_dir.")
    told = _written(job, options, folder)
    console.print(f"{escape(str(options.folder))} is in {escape(str(folder))}. {told}")
    if options.push_to_hub:
        address = push(folder, options.push_to_hub, public=options.public)
        console.print(f"Uploaded, {'public' if options.public else 'private'}: {escape(address)}")


def _check_push(source: Source, options: ExportOptions) -> None:
    if options.to == "adapter" and hub_id(source.base) != source.base:
        raise UserError(
            f"--push_to_hub: the base of this adapter, {source.base}, is not on the Hub, so nobody could load it. "
            "Push --to merged."
        )
    check_hub(str(options.push_to_hub), public=options.public)


def _loaded(source: Source, options: ExportOptions) -> Job:
    cpu = torch.device("cpu")
    variables = source.run.chat_template_kwargs if source.run else {}
    tokenizer = load_tokenizer(source.name, chat_template=options.chat_template, chat_template_kwargs=variables)
    return Job(
        source=source,
        model=load_model(source.name, dtype="float32", device="cpu"),
        tokenizer=tokenizer,
        name=(options.push_to_hub or Path(str(options.output_dir)).resolve().name).rpartition("/")[2],
        dtype=source.dtype if options.dtype == "auto" else compute_dtype(options.dtype, cpu),
        quantize=options.quantize,
    )


def _written(job: Job, options: ExportOptions, folder: Path) -> str:
    """Writes, compares and commits the folder; returns what is to be told of it."""
    form, source = FORMS[str(options.to)], job.source
    ids = probe_ids(job.model, job.tokenizer)
    expected = logits_of(job.model, ids)
    told: list[str] = []

    def write(staging: Path) -> None:
        remark = form.write(job, staging)
        found = difference(expected, form.logits(job, staging, ids))
        if not is_the_model(found, job.dtype, quantized=job.quantize is not None):
            raise DamagedFilesError(
                f"--to {options.to}: what was written gives other logits than {source.name} "
                f"({found.relative:.0%} off). Nothing was kept. Please report this with the model's config.json."
            )
        said = in_words(found, job, str(options.to))
        text = card(
            source,
            title=job.name,
            form=str(options.to),
            loading=form.loading(options.push_to_hub or job.name, source),
            check=said,
        )
        run_folder.write_text(staging / CARD, text)
        told.extend(part for part in (said, remark) if part)

    try:
        run_folder.make_folder(folder.absolute().parent)
        commit(folder.absolute(), write)
    except DamagedError as error:
        raise DiskError(f"--output_dir {folder}: {error} as it was read back. Nothing was kept.") from error
    return " ".join(told)


def in_words(found: Difference, job: Job, form: str) -> str:
    """What came of the comparison."""
    dtype = str(job.dtype).removeprefix("torch.")
    stored = "as in the adapter's file" if form == "adapter" else job.quantize or dtype
    if found.largest == 0:
        return f"Weights: {stored}. Its logits, computed in fp32, are the model's own."
    return (
        f"Weights: {stored}. Computed in fp32, its logits are at most {found.largest:.3g} off ({found.relative:.2%} of "
        f"the largest), KL {found.kl:.2g} nats, the likeliest token the same at {found.same_top:.0%} of positions."
    )
