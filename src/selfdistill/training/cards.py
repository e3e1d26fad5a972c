"""What a plan is made for: a GPU by its data sheet, or this machine as it is measured."""

from dataclasses import dataclass

import torch

from selfdistill.errors import UserError
from selfdistill.method.memory import available
from selfdistill.models.device import compute_dtype
from selfdistill.training.duration import fastest

EFFICIENCY = 0.54
"""Share of a card's peak that a training step's bf16 products reach: 7B on an H200, student and loss."""
BANDWIDTH_SHARE = 0.9
"""Share of a card's memory bandwidth that is reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A GPU by its maker's data sheet, or this machine."""

    memory: float
    """GiB that a program can use."""
    flops: float
    """Peak of dense bf16 products, in TFLOP/s; of fp32 ones where a card has no bf16."""
    bandwidth: float
    """Memory bandwidth, in TB/s."""
    link: float
    """Bandwidth to the host, in GB/s."""
    peers: float
    """Bandwidth between cards of a machine, in GB/s: NVLink's, or the host's link."""
    bf16: bool = True
    device: str = "cuda"


CARDS: dict[str, Card] = {
    "h200": Card(memory=139.5, flops=989, bandwidth=4.8, link=50, peers=450),
    "h100": Card(memory=78.0, flops=989, bandwidth=3.35, link=50, peers=450),
    "a100-80": Card(memory=78.0, flops=312, bandwidth=2.0, link=25, peers=300),
    "a100-40": Card(memory=38.5, flops=312, bandwidth=1.55, link=25, peers=300),
    "l40s": Card(memory=44.0, flops=362, bandwidth=0.86, link=25, peers=25),
    "4090": Card(memory=23.2, flops=165, bandwidth=1.0, link=25, peers=25),
    "t4": Card(memory=14.4, flops=8, bandwidth=0.32, link=12, peers=12, bf16=False),
}
HERE = ("cpu", "mps")
"""Names of what this machine computes on, which is measured."""


def card_named(name: str) -> Card:
    """The card of that name.

    Raises:
        UserError: ``mps`` on a machine without Apple's GPU.
    """
    if name not in HERE:
        return CARDS[name]
    if name == "mps" and not torch.backends.mps.is_available():
        raise UserError("--gpu mps: this machine has none of Apple's GPUs. Plan on the Mac that is to train.")
    return _measured(torch.device(name))


def _measured(device: torch.device) -> Card:
    """This machine: the memory that is available, the speed of a large product and of a large copy. Takes a second."""
    dtype = compute_dtype("auto", device)
    rows, columns = torch.randn(512, 2048).to(device, dtype), torch.randn(2048, 2048).to(device, dtype)
    large = torch.zeros(2**26, device=device)
    flops = 2 * 512 * 2048 * 2048 / fastest(lambda: (rows @ columns)[-1, -1].item())
    bandwidth = 2 * large.nbytes / fastest(lambda: large.clone()[-1].item())
    return Card(
        memory=available(device) / 2**30,
        flops=flops / 1e12 / EFFICIENCY,
        bandwidth=bandwidth / 1e12 / BANDWIDTH_SHARE,
        link=bandwidth / 1e9,
        peers=bandwidth / 1e9,
        bf16=dtype == torch.bfloat16,
        device=device.type,
    )
