"""``selfdistill eval``."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from selfdistill import run_folder
from selfdistill.checkpoints.lock import check_unlocked, locked
from selfdistill.errors import UserError
from selfdistill.evaluate.scorer_choice import rows_to_score
from selfdistill.records.runs import run_in
from selfdistill.settings.evaluate import DRIFT, HUMANEVAL, MEASURES, EvalOptions

if TYPE_CHECKING:
    from selfdistill.evaluate.jobs import Evaluated


def run(options: EvalOptions, console: Console) -> None:
    """Evaluates the model on every data set named, writes the result files and prints one table.

    Raises:
        UserError: an option is wrong, data or model can't be loaded, earlier results would be overwritten, or another
            command uses the folder. Also, after all results are written, if they can't be compared with
            ``--base_results``.
    """
    options.check()
    options = _as_the_run_was(options)
    folder, names = _folder(options), options.names
    check_unlocked(folder)
    if not options.overwrite:
        _check_free(folder, names)
    unrendered = set(MEASURES) - {HUMANEVAL}
    rows = {name: rows_to_score(name, options, console) for name in names if name not in unrendered}

    from selfdistill.evaluate.jobs import against_bases, base_results, job_for  # loads torch
    from selfdistill.evaluate.results import write_records
    from selfdistill.evaluate.table import results_table
    from selfdistill.method.rollout.engines import check_engine
    from selfdistill.models import loading

    loading.quiet_libraries()
    decoding = options.decoding
    check_engine(
        decoding.rollout_engine,
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        corrected=False,
        url=decoding.vllm_url,
    )
    jobs = {name: job_for(name, rows.get(name), options, console) for name in names}
    bases = base_results(names, options)
    tokenizer = loading.load_tokenizer(
        options.model_path,
        chat_template=options.chat_template,
        chat_template_kwargs=decoding.chat_template_kwargs,
    )
    if DRIFT in names or any(task_rows.task.prompt == "chat" for task_rows in rows.values()):
        loading.require_chat_template(tokenizer, options.model_path)
    with locked(folder):
        if not options.overwrite:
            _check_free(folder, names)  # another eval may have written there since
        model = loading.load_model(options.model_path, dtype=options.dtype, quantize=options.quantize, beside=True)
        facts = {"model_path": options.model_path, "dtype": str(model.dtype), "versions": run_folder.versions()}
        given = {"quantize": options.quantize, "chat_template": options.chat_template}
        facts |= {name: value for name, value in given.items() if value is not None}
        evaluated = []
        for job in jobs.values():
            evaluated.append(job(model, tokenizer).with_facts(facts))
            write_records(folder, evaluated[-1].name, evaluated[-1].record, evaluated[-1].rows)
        evaluated, refusals = against_bases(evaluated, bases)
        _write(folder, evaluated)
    console.print(results_table({result.name: result.record for result in evaluated}, title=options.model_path))
    console.print(f"Results are in {escape(str(folder))}.")
    if refusals:
        raise UserError(refusals[0])


def _write(folder: Path, evaluated: "Sequence[Evaluated]") -> None:
    """Writes the results, and copies of them under the reference implementation's names."""
    from selfdistill.evaluate.results import write_records, write_reference_view

    for result in evaluated:
        write_records(folder, result.name, result.record, result.rows)
        view = folder if len(evaluated) == 1 else folder / result.name
        write_reference_view(view, result.record, result.rows)
    if len(evaluated) > 1:
        (folder / run_folder.REFERENCE_RESPONSES).unlink(missing_ok=True)  # of an earlier eval of one data set
        records = {result.name: result.record for result in evaluated}
        run_folder.write_json(folder / run_folder.REFERENCE_RESULTS, records)


def _as_the_run_was(options: EvalOptions) -> EvalOptions:
    """The options; variables for the chat template, if not given, are those of the run that made the model."""
    if options.decoding.chat_template_kwargs is not None:
        return options
    made_by = run_in(options.model_path)
    given = made_by.chat_template_kwargs if made_by else {}
    return replace(options, decoding=replace(options.decoding, chat_template_kwargs=given))


def _folder(options: EvalOptions) -> Path:
    """The folder for the results. Raises UserError if none is named and the model is not in the folder of a run."""
    if options.output_dir is not None:
        folder = Path(options.output_dir)
        if folder.is_file():
            raise UserError(f"--output_dir {folder} is a file. Name a folder.")
        return folder
    if run_in(options.model_path) is None:
        raise UserError("--output_dir is missing: name a folder for the results.")
    return Path(options.model_path).expanduser() / run_folder.EVAL


def _check_free(folder: Path, names: list[str]) -> None:
    """Raises UserError if existing results would be overwritten."""
    for name in names:
        if (path := folder / run_folder.results_file(name)).exists():
            raise UserError(f"{path} exists. Name another --output_dir or give --overwrite.")
    for view in [folder, *(folder / name for name in names if len(names) > 1)]:
        if path := _foreign(view, folder):
            raise UserError(f"{path} exists. Name another --output_dir or give --overwrite.")


def _foreign(view: Path, folder: Path) -> Path | None:
    """A file in ``view`` under one of the reference's names that is not a copy of results in ``folder``, or None."""
    results, responses = view / run_folder.REFERENCE_RESULTS, view / run_folder.REFERENCE_RESPONSES
    if results.exists():
        return None if _is_view(results, folder) else results
    return responses if responses.exists() else None


def _is_view(path: Path, folder: Path) -> bool:
    """True if ``path`` only repeats results for which the folder has files of their own."""
    try:
        shown = json.loads(path.read_text(encoding="utf-8"))
        names = [shown["config"]["task"]] if "config" in shown else list(shown)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return all((folder / run_folder.results_file(name)).is_file() for name in names)
