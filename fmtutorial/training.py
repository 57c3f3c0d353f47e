"""The training loop as a generator, and the moving average of weights. Chapter 3."""

import copy
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer


class TrainingStep(NamedTuple):
    """What one step of training leaves to look at."""

    number: int
    loss: float
    learning_rate: float


class EMA:
    """An exponential moving average of a network's weights.

    After each step: average ← d · average + (1 − d) · weights, where d = min(decay,
    (1 + n) / (10 + n)) lets the first averages forget the random start.

    Args:
        network: the network being trained.
        decay: between 0 and 1; 1 / (1 − decay) is about how many steps are averaged.

    Raises:
        ValueError: decay is not in [0, 1).

    Source: Polyak and Juditsky 1992, for averaging with equal weights. Chapter 3.
    """

    def __init__(self, network: nn.Module, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}; pass a number in [0, 1), such as 0.999")
        self.decay = decay
        self.updates = 0
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        """The averaged network: sample from this one."""

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the network's present weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for average, weight in zip(self.network.parameters(), network.parameters(), strict=True):
            average.lerp_(weight, 1 - decay)
        for average, value in zip(self.network.buffers(), network.buffers(), strict=True):
            average.copy_(value)


def train(
    network: nn.Module,
    loss: Callable[[], Tensor],
    steps: int,
    learning_rate: float = 1e-3,
    ema: EMA | None = None,
    warm_up: int = 0,
    max_gradient_norm: float = math.inf,
    optimizer: Optimizer | None = None,
    scaler: GradScaler | None = None,
    done: int = 0,
) -> Iterator[TrainingStep]:
    """Minimise a loss by AdamW; a generator, one item a step.

    Nothing happens until it is iterated: the caller's loop logs, plots and stops. The learning
    rate rises to ``learning_rate`` in the first ``warm_up`` steps and falls to 0 along half a
    cosine, which begins at the first step.

    Args:
        network: its parameters are trained in place.
        loss: draws a batch and returns its loss, shape (), with gradients.
        steps: number of steps.
        learning_rate: at its peak, which is the start without a warm-up.
        ema: updated after each step.
        warm_up: number of steps.
        max_gradient_norm: a longer gradient is shortened to this length; not if it is infinite.
        optimizer: of the network's parameters; AdamW without weight decay if not given. One with
            a loaded state continues.
        scaler: multiplies the loss while its gradients are computed in half precision; it skips
            a step whose gradients overflow.
        done: how many of the steps an earlier run took.

    Yields:
        The number of the step, from done + 1, its loss and its learning rate.

    Raises:
        ValueError: steps, learning rate or the length of the gradient are not positive, other
            numbers are negative, or the loss is not a single number.
        FloatingPointError: the loss or its gradient is not finite; the weights are those before
            that step.

    Source: Loshchilov and Hutter 2019, for AdamW. Chapters 3 and 8.
    """
    if steps < 1 or not learning_rate > 0:
        raise ValueError(f"steps={steps} and learning_rate={learning_rate} must be positive")
    if not max_gradient_norm > 0 or warm_up < 0 or not 0 <= done <= steps:
        raise ValueError(
            f"max_gradient_norm={max_gradient_norm} must be positive, warm_up={warm_up} and "
            f"done={done} at least 0, and done at most steps={steps}"
        )
    optimizer = optimizer or torch.optim.AdamW(
        network.parameters(), lr=learning_rate, weight_decay=0.0
    )
    scaler = scaler or GradScaler(enabled=False)
    for number in range(done + 1, steps + 1):
        rate = learning_rate * 0.5 * (1 + math.cos(math.pi * (number - 1) / steps))
        rate *= min(1.0, number / (warm_up + 1))
        for group in optimizer.param_groups:
            group["lr"] = rate
        value = loss()
        if value.shape != ():
            raise ValueError(f"the loss has shape {tuple(value.shape)}; return its mean")
        if not math.isfinite(value.item()):
            raise FloatingPointError(
                f"the loss is {value.item()} at step {number} of {steps}: "
                "lower the learning rate, or look at the times and data of the batch"
            )
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(value).backward()
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(network.parameters(), max_gradient_norm)
        if not scaler.is_enabled() and not math.isfinite(norm):  # else the scaler skips the step
            raise FloatingPointError(
                f"the gradient is not finite at step {number} of {steps}: "
                "look for a square root or a norm at 0 in the loss"
            )
        scaler.step(optimizer)
        scaler.update()
        if ema is not None:
            ema.update(network)
        yield TrainingStep(number, value.item(), rate)
