"""What saving a run writes, compared with the free space before training starts."""

from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn

from selfdistill.checkpoints.find import FEWEST
from selfdistill.checkpoints.space import check_space
from selfdistill.method.optimizers import embeddings, optimizer_name, state_bytes
from selfdistill.method.trainer_state import teachers_state

if TYPE_CHECKING:
    from selfdistill.method.trainer import SDFTTrainer


def model_bytes(model: nn.Module) -> int:
    """Bytes of a saved model: of all its weights, or of an adapter's."""
    tensors = {id(one): one for one in (*model.parameters(), *model.buffers())}
    adapter = hasattr(model, "peft_config")
    return _bytes(one for one in tensors.values() if one.requires_grad or not adapter)


def checkpoint_bytes(trainer: "SDFTTrainer") -> int:
    """Bytes of a checkpoint: the model, the masters' lower bits, the teachers and the optimizer's states."""
    size = model_bytes(trainer.model)
    if trainer.args.save_only_model:
        return size
    masters = trainer.step.masters
    trained = sum(parameter.numel() for parameter in masters.parameters.values())
    size += _bytes(masters.state_dict().values()) + _bytes(teachers_state(trainer).values())
    exact = sum(master.numel() for master in embeddings(masters, trainer.model))
    return size + state_bytes(optimizer_name(trainer.args), trained, exact, on_cpu=True)


def check_save_space(trainer: "SDFTTrainer") -> None:
    """Checks that the checkpoints that are on the disk at the same time fit on it: one, where nothing limits them.

    Raises:
        UserError: they don't.
    """
    args, state = trainer.args, cast(Any, trainer.state)
    if str(getattr(args.save_strategy, "value", args.save_strategy)) == "no" or trainer.checkpoints.is_finished:
        return
    number = 1 if args.save_total_limit is None else max(args.save_total_limit, FEWEST) + 1
    if args.save_strategy == "steps":
        number = min(number, -(-(state.max_steps - state.global_step) // max(int(state.save_steps), 1)))
    what = "A checkpoint takes" if number == 1 else f"{number} checkpoints, of which one is being written, take"
    remedy = "Free some, name another --output_dir, lower save_total_limit, or train an adapter (--lora_r)."
    check_space(trainer.run_log.folder, number * checkpoint_bytes(trainer), what, remedy)


def _bytes(tensors: Any) -> int:
    return sum(cast(Tensor, tensor).numel() * cast(Tensor, tensor).element_size() for tensor in tensors)
