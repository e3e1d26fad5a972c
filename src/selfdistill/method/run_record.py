"""The record of a run, ``run_config.json``."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from selfdistill import run_folder
from selfdistill.method.fingerprints import PROCESSES, SERVED, of_data, of_model, of_scoring
from selfdistill.method.needs import deviations
from selfdistill.method.rollout.engines import describe
from selfdistill.models.quantization import quantized_to
from selfdistill.records.runs import RunConfig
from selfdistill.types import NamedScorer, PromptPair

if TYPE_CHECKING:
    from selfdistill.method.trainer import SDFTTrainer


def run_record(
    trainer: "SDFTTrainer",
    pairs: Sequence[PromptPair],
    anchors: Sequence[PromptPair],
    scorer: NamedScorer | None,
    facts: Mapping[str, str],
) -> RunConfig:
    """The settings and the data of a run that is about to begin.

    Args:
        trainer: the run's.
        pairs: the training rows.
        anchors: the anchor prompts.
        scorer: tells which completions succeeded; None if nothing does.
        facts: as SDFTTrainer takes them.
    """
    model, args, server = trainer.model, trainer.args, trainer.step.teacher_server
    return RunConfig(
        model_name=facts.get("model_name") or str(model.name_or_path),
        task=facts.get("task", ""),
        dataset=facts.get("dataset", ""),
        chat_template=facts.get("chat_template", ""),
        quantize=quantized_to(model),
        num_training_rows=trainer.num_rows,
        versions=run_folder.versions(),
        deviations_from_paper=deviations(args),
        settings=args.to_dict(),
        rollout_engine=describe(trainer.step.engine),
        fingerprints={
            **of_data(trainer.tokenizer, pairs, anchors),
            **of_scoring(args, pairs, scorer),
            **of_model(model, trainer.step.sharding.dtype),
            **({} if server is None else {SERVED: server.model}),
            PROCESSES: str(trainer.processes.size),
        },
    )
