"""Batches of images that depend on seed and step alone, and the loss of a network on them.

Chapter 8.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from fmtutorial.couplings import exact_ot, within_labels
from fmtutorial.fields import check_callable, check_count, check_number
from fmtutorial.guidance import LabelledField
from fmtutorial.images.data import Digits, check_digits, dequantise
from fmtutorial.images.devices import in_precision
from fmtutorial.losses import (
    flow_matching_loss,
    likelihood_times,
    logit_normal_times,
    uniform_times,
)
from fmtutorial.paths import LINEAR, AffinePath

CLASSES = 10
DIGIT = (1, 28, 28)
"""Number of classes, and shape, of MNIST's digits."""

PAIRINGS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "independent": lambda x0, x1, label: x0,
    "optimal": lambda x0, x1, label: exact_ot(x0, x1),
    "optimal-per-class": lambda x0, x1, label: within_labels(exact_ot, x0, x1, label),
}
"""(x0, x1, label) → x0', a permutation of the noise, by name."""


TIMES: dict[str, Callable[..., Tensor]] = {
    "uniform": uniform_times,
    "logit-normal": logit_normal_times,
    "logit-normal-0.5": partial(logit_normal_times, std=0.5),
    "likelihood": likelihood_times,
}
"""Distributions of the time, by name: logit-normal ones with mean 0 and std 1 or 0.5; for a
likelihood, 1 − t log-uniform down to 0.002."""


class Batch(NamedTuple):
    """Noise and data of shape (B, channels, height, width), times and labels of shape (B,)."""

    x0: Tensor
    x1: Tensor
    t: Tensor
    label: Tensor


def digit_batch(
    digits: Digits,
    step: int,
    size: int,
    seed: int,
    pairing: str = "independent",
    times: str = "logit-normal",
    label_dropout: float = 0.1,
    classes: int = CLASSES,
) -> Batch:
    """Return the batch of one step of training, a function of seed and step and nothing else.

    So a run that is resumed needs no state of a random generator, and several devices that take
    some rows each do together what one does alone. Every epoch runs through the digits in a new
    order and leaves out what does not fill a batch.

    Args:
        digits: or any other images, on the device of the training.
        step: from 0.
        size: B, digits in the batch.
        seed: of the run.
        pairing: "independent", "optimal" (over the batch) or "optimal-per-class".
        times: "uniform", "logit-normal" (of std 1), "logit-normal-0.5" or "likelihood".
        label_dropout: probability with which a label is replaced by "no label".
        classes: their number, which stands for "no label"; 0 if there are none, where all labels
            are 0 and stay so.

    Raises:
        ValueError: fewer digits than a batch, not a label for each, or an unknown name.

    Chapter 8.
    """
    check_digits(digits)
    check_count(step, "step", 0)
    check_count(seed, "seed", 0)
    check_count(size, "size")
    check_number(label_dropout, "label_dropout", 0, 1)
    check_count(classes, "classes", 0)
    if size > len(digits.images):
        raise ValueError(
            f"a batch of {size} images cannot be drawn from {len(digits.images)}: "
            "take a smaller one, as with --batch 32"
        )
    for name, known in ((pairing, PAIRINGS), (times, TIMES)):
        if name not in list(known):
            raise ValueError(f'unknown name "{name}"; choose from {", ".join(known)}')
    device = digits.images.device
    epoch, part = divmod(step, len(digits.images) // size)
    rows = _epoch_order(len(digits.images), seed, epoch)[part * size : (part + 1) * size]
    rows = rows.to(device)
    generator = Generator(device).manual_seed(_mix(seed, step))
    label, x1 = digits.labels[rows], dequantise(digits.images[rows], generator)
    x0 = torch.randn(x1.shape, generator=generator, device=device)
    x0 = PAIRINGS[pairing](x0, x1, label)
    t = TIMES[times](size, generator=generator)
    dropped = torch.rand(size, generator=generator, device=device) < label_dropout
    return Batch(x0, x1, t, torch.where(dropped, int(classes), label))


@lru_cache(maxsize=2)
def _epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    generator = Generator("cpu").manual_seed(2**31 + _mix(seed, epoch))
    return torch.randperm(n, generator=generator, device="cpu")


def _mix(seed: int, number: int) -> int:
    """Return one number below 2³¹ for both: PyTorch's CPU generator reads 32 bits of a seed."""
    return (1_000_003 * int(seed) + int(number)) % 2**31


def check_shard(shard: tuple[int, int]) -> None:
    """Raise unless it is (r, n) for process r of n, each on a device of its own.

    Raises:
        TypeError: it is no pair of whole numbers.
        ValueError: there is no such process.
    """
    if not isinstance(shard, tuple) or len(shard) != 2:
        raise TypeError(f"shard is {shard!r:.60}; pass (r, n), for process r of n")
    check_count(shard[1], "the number of processes")
    check_count(shard[0], "the number of the process", 0)
    if shard[0] >= shard[1]:
        raise ValueError(f"there is no process {shard[0]} of {shard[1]}; the first is 0")


def digit_loss(
    field: LabelledField,
    batches: Callable[[int], Batch],
    precision: torch.dtype = torch.float32,
    done: int = 0,
    shard: tuple[int, int] = (0, 1),
) -> Callable[[], Tensor]:
    """Return a function for ``train``: each call is the loss of the next batch, per pixel.

    Args:
        field: v(x, t, label), the network or a wrapper of it.
        batches: from a step to its batch, ``digit_batch`` with all else bound.
        precision: in which the network runs; the loss is always in float32.
        done: how many batches an earlier run used.
        shard: (r, n): this process takes rows r, r + n, r + 2n … of each batch.

    Raises:
        ValueError: an unknown precision, r is not one of the n, or, on the first call, the batch
            cannot be shared equally.
    """
    check_callable(batches, "batches")
    check_count(done, "done", 0)
    check_shard(shard)
    step, (first, stride) = done, shard
    network = in_precision(field, precision)

    def loss() -> Tensor:
        nonlocal step
        batch = batches(step)
        if not isinstance(batch, Batch):
            raise TypeError(f"batches gave {batch!r:.60}; they give a Batch for a step")
        step += 1
        if len(batch.t) % stride:
            raise ValueError(f"a batch of {len(batch.t)} cannot be shared by {stride} devices")
        x0, x1, t, label = (rows[first::stride] for rows in batch)

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            return network(x.contiguous(memory_format=torch.channels_last), t, label)

        return flow_matching_loss(velocity, AffinePath(LINEAR), x0, x1, t) / x1[0].numel()

    return loss
