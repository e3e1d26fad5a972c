"""What accelerate does for several processes, and is not wanted here: wrapping the model, dealing out batches."""

from functools import partial
from typing import TYPE_CHECKING, Any, cast

from accelerate.data_loader import SeedableRandomSampler, prepare_data_loader
from torch.utils.data import DataLoader

from selfdistill.errors import UserError
from selfdistill.method.processes import Processes

if TYPE_CHECKING:
    from accelerate import Accelerator


def leave_replicas_alone(accelerator: "Accelerator", processes: Processes, *, split: bool) -> None:
    """Makes an accelerator leave models unwrapped (``processes`` says why), and give every process the same batches, in
    the same order.

    So every process knows the rows of a step, and takes its share. accelerate would give each process other batches,
    and fill up the last ones with rows that were used already. ``split``: weights are split over the processes, and lie
    where they must.

    Raises:
        UserError: it scales the loss, as for autocast.
    """
    own = cast(Any, accelerator)
    if getattr(own, "scaler", None) is not None:
        raise UserError("A loss scaler is active: float16 autocast is not used here. Start without it.")
    own.prepare_model = _as_it_is if split else partial(accelerator.prepare_model, evaluation_mode=True)
    if processes.size > 1:
        own.prepare_data_loader = partial(_prepared, accelerator, processes)


def _as_it_is(model: Any, **_: Any) -> Any:
    return model


def _prepared(accelerator: "Accelerator", processes: Processes, loader: DataLoader[Any], **_: Any) -> Any:
    prepared: Any = prepare_data_loader(
        loader,
        num_processes=1,
        process_index=0,
        use_seedable_sampler=accelerator.use_seedable_sampler,
        data_seed=accelerator.dataloader_config.data_seed,
    )
    order = prepared.batch_sampler.sampler
    if isinstance(order, SeedableRandomSampler):  # its seed is torch's, which a script may have set in each process
        order.initial_seed = processes.gathered(order.initial_seed)[0]
    return prepared
