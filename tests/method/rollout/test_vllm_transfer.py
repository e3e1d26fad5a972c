"""All weights by vLLM's weight transfer, with stand-ins for the server and for NCCL: who may, and what fails."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from selfdistill.errors import EngineError
from selfdistill.method.rollout import vllm_transfer
from selfdistill.method.rollout.copies import CopyOptions
from selfdistill.method.rollout.vllm_server import VLLMServerEngine
from selfdistill.method.rollout.vllm_transfer import WeightsOverNccl, goes_by_nccl
from tests.support.fake_transfer import OurGloo, TransferServer, transferring
from tests.support.fake_vllm import serving
from tests.support.mistakes import mistake
from tests.support.training import make_trainer, steps, student, weights

CPU = torch.device("cpu")
FIRST = [
    "pause?mode=wait",
    "init_weight_transfer_engine",
    "start_weight_update",
    "update_weights",
    "finish_weight_update",
]
LATER = [name for name in FIRST if not name.startswith("init")]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[TransferServer]:
    with transferring(monkeypatch, student().config) as made:
        yield made


def paths(server: TransferServer) -> list[str]:
    return [path.removeprefix("/") for path, _ in server.asked if "completions" not in path]


def changed(model: Any) -> Any:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)
    return model


def test_every_transfer_brings_the_weights_as_they_are_then(server: TransferServer) -> None:
    """Between a pause and the going on; the group is made once. A tensor that is not contiguous arrives as it is."""
    model = student()
    model.lm_head.weight.data = model.lm_head.weight.data.t().contiguous().t()
    sender = WeightsOverNccl(model, server.url)
    for _ in range(2):
        sender.send()
        for name, weight in server.weights.model.state_dict().items():
            assert torch.equal(weight, model.state_dict()[name]), name
        changed(model)
    assert paths(server) == [*FIRST, "resume", *LATER, "resume"]
    sender.close()
    sender.close()
    assert paths(server)[-2:] == ["resume", "shutdown_weight_transfer_engine"]


def test_a_run_without_a_folder_is_the_run_with_one(tmp_path: Path, server: TransferServer) -> None:
    settings: dict[str, Any] = {"rollout_engine": "vllm-server", "vllm_url": server.url, "max_steps": 3}
    folder = make_trainer(tmp_path / "folder", vllm_weight_transfer="folder", **settings)
    folder.train()
    assert {"collective_rpc", "reset_prefix_cache"} == set(paths(server))
    server.asked.clear()
    nccl = make_trainer(tmp_path / "nccl", vllm_weight_transfer="nccl", **settings)
    nccl.train()
    assert paths(server) == [*FIRST, "resume", *LATER, "resume", *LATER, "resume"]
    expected = weights(folder)
    assert all(torch.equal(weight, expected[name]) for name, weight in weights(nccl).items())
    assert [line["importance_weight"] for line in steps(tmp_path / "nccl")] == [pytest.approx(1.0, abs=1e-5)] * 3
    nccl.step.engine.close()


# -- who may ---------------------------------------------------------------------------------------------------------


def test_it_is_taken_where_it_can_be_and_refused_where_not(
    server: TransferServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(url: str = server.url, device: torch.device = CPU) -> str:
        assert not goes_by_nccl("auto", url, device)
        return mistake(goes_by_nccl, "nccl", url, device)

    assert goes_by_nccl("auto", server.url, CPU)
    assert goes_by_nccl("nccl", server.url, CPU)
    assert not goes_by_nccl("folder", server.url, CPU)
    server.backend = "ipc"
    assert told().startswith(
        "vllm_weight_transfer nccl: the server's weight transfer is ipc. Start it with VLLM_SERVER"
    )
    server.backend = None
    assert "the server's weight transfer is off. Start it with VLLM_SERVER_DEV_MODE=1 and --weight-transfer" in told()
    with serving(student().config) as other:  # which does not say how it was started
        assert "weight transfer is off" in told(other.url)
    assert "NCCL needs CUDA, and the model is on meta. Take auto or folder." in told(device=torch.device("meta"))
    for version in (None, "0.31.9"):
        monkeypatch.setattr(vllm_transfer, "installed_version", lambda version=version: version)
        assert "vLLM 0.32 or newer, which has the trainer's side, is not installed here." in told()


def test_a_run_that_can_t_is_refused_before_anything_is_loaded(
    tmp_path: Path, server: TransferServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"rollout_engine": "vllm-server", "vllm_url": server.url, "vllm_weight_transfer": "nccl"}
    server.backend = None
    assert "weight transfer is off" in mistake(make_trainer, tmp_path, model="nowhere", **given)
    monkeypatch.setattr(vllm_transfer, "DEVICES", ("cuda",))
    assert "the model is on cpu" in mistake(make_trainer, tmp_path, model="nowhere", **given)


def test_an_adapter_goes_by_a_folder(tmp_path: Path, server: TransferServer) -> None:
    lora = {"peft_config": LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")}
    server.weights.load(student().state_dict())
    given: dict[str, Any] = {"rollout_engine": "vllm-server", "vllm_url": server.url, "options": lora}
    make_trainer(tmp_path / "auto", max_steps=1, **given).train()
    assert paths(server) == ["v1/load_lora_adapter"]
    text = mistake(make_trainer, tmp_path / "nccl", vllm_weight_transfer="nccl", **given)
    assert text.startswith("vllm_weight_transfer nccl sends all weights; an adapter goes by a folder")


def test_an_evaluation_sends_nothing(server: TransferServer) -> None:
    VLLMServerEngine(student(), {2}, 0, 4, CopyOptions(url=server.url)).sync()
    assert paths(server) == []


# -- what fails ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FIRST)
def test_a_refusal_ends_the_run_while_our_side_still_waits(server: TransferServer, path: str) -> None:
    server.refuses = f"/{path}"
    began = time.monotonic()
    with pytest.raises(EngineError) as caught:
        WeightsOverNccl(student(), server.url).send()
    assert time.monotonic() - began < 20  # gloo would wait for 60 seconds
    assert caught.value.exit_code == 7
    assert f"the server refuses /{path}: Worker failed. Start it again with VLLM_SERVER_DEV_MODE=1" in str(caught.value)
    assert ("resume" in paths(server)) == (path != FIRST[0])


@pytest.mark.parametrize("path", ["init_weight_transfer_engine", "update_weights"])
def test_a_server_that_dies_ends_the_run_while_our_side_still_waits(
    server: TransferServer, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OurGloo, "broadcast", lambda *_, **__: time.sleep(30))  # as NCCL does, but for ever
    server.dies_at = f"/{path}"
    with pytest.raises(EngineError, match=f"{path}: the server does not answer") as caught:
        WeightsOverNccl(student(), server.url).send()
    assert caught.value.exit_code == 7
    assert "give the same command again to go on from the last checkpoint." in str(caught.value)


def test_what_fails_here_ends_the_run_while_the_server_still_waits(
    server: TransferServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("NCCL error: unhandled system error")

    monkeypatch.setattr(OurGloo, "broadcast", fails)
    monkeypatch.setattr(vllm_transfer, "CHECK_TIMEOUT", 0.5)  # it is told to leave the group, and does not hear
    with pytest.raises(
        EngineError, match="NCCL failed at /update_weights: NCCL error: unhandled system error"
    ) as caught:
        WeightsOverNccl(student(), server.url).send()
    assert caught.value.exit_code == 7


def test_without_nccl_s_library_nothing_is_sent(server: TransferServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OurGloo, "available", False)
    with pytest.raises(EngineError, match="NCCL failed at /init_weight_transfer_engine: vLLM finds no NCCL library"):
        WeightsOverNccl(student(), server.url).send()


def test_a_run_whose_transfer_fails_goes_on_to_the_same_weights(tmp_path: Path, server: TransferServer) -> None:
    given: dict[str, Any] = {"rollout_engine": "vllm-server", "max_steps": 3, "vllm_weight_transfer": "nccl"}
    given |= {"save_strategy": "steps", "save_steps": 1, "vllm_url": server.url}
    whole = make_trainer(tmp_path / "whole", **given)
    whole.train()
    whole.step.engine.close()
    cut = make_trainer(tmp_path / "cut", **given)
    end_step = cut.end_step

    def refuse(control: Any) -> None:
        end_step(control)
        if cut.state.global_step == 2:
            server.refuses = "/finish_weight_update"

    cut.end_step = refuse  # type: ignore[method-assign]
    with pytest.raises(EngineError):
        cut.train()
    server.refuses = ""
    again = make_trainer(tmp_path / "cut", **(given | {"vllm_weight_transfer": "auto"}))
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 3
    expected = weights(whole)
    assert all(torch.equal(weight, expected[name]) for name, weight in weights(again).items())
    again.step.engine.close()
