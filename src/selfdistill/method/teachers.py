"""The models that a step compares the student with."""

from collections.abc import Mapping

from torch import Tensor
from transformers import PreTrainedModel

from selfdistill.method.master_weights import MasterWeights
from selfdistill.method.methods import METHODS
from selfdistill.method.needs import target_reads
from selfdistill.method.other_teacher import OtherTeacher
from selfdistill.method.sharded import Sharding
from selfdistill.method.teacher import Teacher
from selfdistill.settings.method import MethodConfig
from selfdistill.types import Target


def make_teachers(
    config: MethodConfig,
    masters: MasterWeights,
    model: PreTrainedModel,
    taught_by: PreTrainedModel,
    sharding: Sharding,
    base_weights: Mapping[str, Tensor] | None,
) -> dict[Target, Teacher | OtherTeacher]:
    """Makes the teacher, unless a server has it, and the frozen start model if anchor prompts or the target read it;
    one object if both are the same.

    Args:
        config: the settings.
        masters: of the student's weights.
        model: the student's module.
        taught_by: the module that the teacher's passes take; the student's, or that of another model.
        sharding: where the weights are.
        base_weights: weights by parameter name that they start from; by default the student's.

    Raises:
        ValueError: base weights or the model that the settings name are missing.
    """
    spec, teachers = METHODS[config.method], dict[Target, Teacher | OtherTeacher]()
    if (config.teacher_model is None) != (taught_by is model):
        raise ValueError("teacher_model: give the setting, and the model that it names")
    if taught_by is not model:
        teachers["teacher"] = OtherTeacher(taught_by)
    elif spec.has_teacher and config.teacher_server is None:
        kind = "frozen" if spec.teacher == "base_model" else config.teacher
        teachers["teacher"] = Teacher(
            masters,
            kind,
            config.teacher_update_rate,
            config.teacher_sync_steps,
            config.teacher_home,
            config.teacher_restart_steps,
            sharding,
        )
    if config.anchor_share > 0 or "start" in target_reads(config):
        stays = [one for one in teachers.values() if isinstance(one, Teacher) and one.stays]
        start = stays[0] if stays else None
        teachers["start"] = start or Teacher(masters, "frozen", home=config.teacher_home, sharding=sharding)
    if base_weights is not None:
        for teacher in (one for one in teachers.values() if isinstance(one, Teacher)):
            teacher.load_state_dict({name: base_weights[name] for name in masters.parameters})
    elif spec.teacher == "base_model":
        raise ValueError(f"method {config.method} needs base_weights: the model to distil from")
    return teachers
