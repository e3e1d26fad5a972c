"""What one of several processes does in a test (``together``), and a command in it:
``python -m tests.distributed.worker FOLDER command ...``."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from benchmarks.processes import CONFIGURATIONS, SHAPES, train
from selfdistill.errors import UserError
from selfdistill.launcher import place
from selfdistill.method.accepted import check_model
from selfdistill.method.master_weights import MasterWeights
from selfdistill.method.processes import Processes
from tests.support.checkpointed import CHECKPOINTS
from tests.support.mistakes import mistake
from tests.support.training import make_config, make_trainer, student

SAVED: dict[str, Any] = {**CHECKPOINTS, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
"""A run of four steps with checkpoints, four rows a step in two processes."""


LEFT_OUT = ("full, frozen", "full, live", "lora, ema", "anchors")
IN_TWO = tuple(name for name in CONFIGURATIONS if name not in LEFT_OUT and not name.startswith("split"))
IN_THREE = ("anchors", "5 rows")
"""Configurations of the benchmark, which has more of them, by number of processes."""


def equivalence(folder: Path) -> None:
    """Trains configurations as the benchmark does."""
    size = place().size
    for name in IN_TWO if size == 2 else IN_THREE:
        train(name, folder / str(size) / name, SHAPES[size])


def exchanges(folder: Path) -> None:
    """What each exchange gives, written for each process."""
    config = make_config(folder / "unused")
    here = Processes.here(config.device)
    found: dict[str, Any] = {"once": here.once(lambda: f"of {here.rank}"), "gathered": here.gathered(here.rank)}
    found["totals"] = here.totals(here.rank + 1, 0.5)
    for error in (UserError("a mistake"), ValueError("a fault")):
        try:
            here.once(lambda error=error: (_ for _ in ()).throw(error))
        except ValueError as raised:
            found[f"raised {error}"] = f"{type(raised).__name__}: {raised}"
    asks = dict.fromkeys(("should_training_stop", "should_epoch_stop", "should_save", "should_log"), False)
    control = SimpleNamespace(**{**asks, "should_save": here.rank == 1})
    here.agree(control)
    found["agreed"] = vars(control)
    found |= _summed(here)
    mesh, model = init_device_mesh("cpu", (here.size,)), student()
    model.lm_head.weight = torch.nn.Parameter(distribute_tensor(model.lm_head.weight.detach(), mesh, [Shard(0)]))
    found["split"] = mistake(check_model, model)
    (folder / f"exchanges-{here.rank}.json").write_text(json.dumps(found))


def _summed(here: Processes) -> dict[str, Any]:
    """Gradients of three parameters, one of which only process 1 has, and one nobody; then weights that are shared."""
    module = torch.nn.ParameterDict({name: torch.nn.Parameter(torch.zeros(2)) for name in ("both", "one", "none")})
    module["bf16"] = torch.nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))
    masters = MasterWeights(module)
    masters.masters["both"].grad = torch.tensor([1.0, 10.0]) * (here.rank + 1)
    masters.masters["bf16"].grad = torch.tensor([2.0**-20, 1.0, 0.0]) + here.rank
    if here.rank == 1:
        masters.masters["one"].grad = torch.tensor([5.0, 6.0])
    loss = here.add_up(masters, torch.tensor(0.25 + here.rank))
    summed = {name: None if (grad := master.grad) is None else grad.tolist() for name, _, master in masters.items()}
    for name in masters.parameters:
        masters.set_value(name, torch.full_like(masters.value(name), 1 + 2.0**-12 + here.rank))
    here.share_weights(masters)
    shared = {name: masters.value(name)[0].item() for name in masters.parameters}
    return {"loss": loss.item(), "gradients": summed, "weights": shared}


def unbroken(folder: Path) -> None:
    """A run of four steps."""
    make_trainer(folder / "unbroken", **SAVED).train()


def stopped(folder: Path) -> None:
    """The same run, stopped after the second step: by a callback of process 1 alone, which asks within the step."""
    from transformers import TrainerCallback

    class Stops(TrainerCallback):
        def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if place().rank == 1 and state.global_step == 1:
                control.should_training_stop = True

    make_trainer(folder / "stopped", options={"callbacks": [Stops()]}, **SAVED).train()


def resumed(folder: Path) -> None:
    """Goes on with the stopped run; in another number of processes it is refused first."""
    name = f"resumed in {place().size}"
    trainer = make_trainer(folder / name, **SAVED)
    trainer.processes.once(lambda: shutil.copytree(folder / "stopped", folder / name, dirs_exist_ok=True))
    said: list[str] = []
    trainer.checkpoints.on_warning = said.append
    if place().size != 2:
        try:
            trainer.train(resume_from_checkpoint=True)
        except UserError as error:
            said.append(f"refused: {error}")
    trainer.train(resume_from_checkpoint=True, allow_changes=place().size != 2)
    (folder / f"{name}-{trainer.processes.rank}.json").write_text(json.dumps(said))


def other_rows(folder: Path) -> None:
    """Process 1 has other rows."""
    rows = [{"prompt": "Why?", "demonstration": f"So {place().rank}."}] * 2
    try:
        make_trainer(folder / "other", rows=rows, **SAVED).train()
    except UserError as error:
        (folder / f"other_rows-{place().rank}.txt").write_text(str(error))


def command(folder: Path) -> None:
    """``train`` in which process 1 fails or dies in its second rollout; ``FAULT`` says how. Ends this process."""
    from selfdistill.cli import main
    from selfdistill.method.rollout.own import OwnEngine

    generate, fault, calls = OwnEngine.generate, os.environ["FAULT"], []

    def faulty(self: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if place().rank == 1 and len(calls) == 2:
            if fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise {"mistake": UserError("the engine is out of order"), "fault": KeyError("a bug")}[fault]
        return generate(self, *arguments, **options)

    OwnEngine.generate = faulty
    os.chdir(folder)
    sys.exit(main(sys.argv[3:]))


if __name__ == "__main__":
    command(Path(sys.argv[1]))
