"""What a training run costs, counted before it begins: operations and memory. Chapter 15."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from fmtutorial.fields import check_kind, check_number
from fmtutorial.images.settings import Settings
from fmtutorial.images.weights import NETWORKS

COPIES = 5
"""Numbers kept for each weight: itself, its average, its gradient, and AdamW's two moments."""


@dataclass(frozen=True)
class Cost:
    """What a run with some settings takes.

    ``flops_per_image`` counts the additions and multiplications of the products of matrices and
    the convolutions for one image in one step, forward and backward; ``state_bytes`` are those of
    weights, average, gradients and moments; ``activation_bytes`` are what the backward pass of a
    batch keeps of the forward pass.
    """

    flops_per_image: float
    parameters: int
    state_bytes: int
    activation_bytes: int

    @property
    def bytes(self) -> int:
        """Of the whole step; the images themselves, and PyTorch, come to it."""
        return self.state_bytes + self.activation_bytes


def training_cost(settings: Settings) -> Cost:
    """Count what a run costs, by a step on the device "meta", which computes nothing.

    In single precision, with the attention's matrix of weights, which not every device keeps: in
    half precision, or for large images on a GPU, a run takes less. On a CPU the peak of a process,
    less what it had before, was 1.1 to 1.7 times ``bytes`` for five networks of 180 to 360 MB: the
    rest are results that nobody keeps. On a GPU it was 1.1 and 1.3 times. With ``checkpointing`` a
    block's activations come to it while it is recomputed.

    Args:
        settings: of the run, with the images' shape and classes: see ``fitted``.

    Chapter 15.
    """
    check_kind(settings, Settings, "settings")
    kept = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        kept[storage._cdata] = (storage.nbytes(), value)  # held, so that no other takes its name
        return value

    with torch.device("meta"):
        network = NETWORKS[settings.network](
            **settings.arguments, checkpointing=settings.checkpointing
        )
        x, t = torch.empty(settings.batch, *settings.image_shape), torch.empty(settings.batch)
        with FlopCounterMode(display=False) as counter, saved_tensors_hooks(keep, lambda z: z):
            network(x, t).square().mean().backward()
    sizes = [p.numel() for p in network.parameters()]
    for p in network.parameters():
        kept.pop(p.untyped_storage()._cdata, None)
    return Cost(
        flops_per_image=counter.get_total_flops() / settings.batch,
        parameters=sum(sizes),
        state_bytes=4 * COPIES * sum(sizes),
        activation_bytes=sum(size for size, _ in kept.values()),
    )


def plan(settings: Settings, seconds: float, device: torch.device) -> str:
    """Return lines on what a run will take, from what is counted and from the time of a step.

    Args:
        settings: of the run.
        seconds: a step takes, see ``seconds_per_step``.
        device: on which that was measured.
    """
    cost = training_cost(settings)
    check_number(seconds, "seconds", 0)
    check_kind(device, torch.device, "device")
    flops = cost.flops_per_image * settings.batch
    speed = f", {flops / seconds / 1e9:.0f} GFLOP/s" if seconds else ""
    return "\n".join(
        [
            f"parameters   {cost.parameters}",
            f"operations   {cost.flops_per_image / 1e9:.3f} GFLOP an image and step, "
            f"{flops * settings.steps / 1e15:.3f} PFLOP in all",
            f"memory       {_size(cost.bytes)}, and up to half of it for what is not kept: "
            f"{_size(4 * cost.parameters)} weights, as much for "
            f"gradients and for the average, {_size(8 * cost.parameters)} for AdamW, "
            f"{_size(cost.activation_bytes)} activations of {settings.batch} images",
            f"time         {seconds:.3g} s a step on {device}{speed}; "
            f"{_time(seconds * settings.steps)} for {settings.steps} steps",
        ]
    )


def _size(count: int) -> str:
    unit, name = next(((u, n) for u, n in ((1e9, "GB"), (1e6, "MB")) if count >= u), (1e3, "kB"))
    return f"{count / unit:.3g} {name}"


def _time(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
