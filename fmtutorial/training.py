"""The training loop as a generator, and the moving average of weights. Chapter 3."""

import copy
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from fmtutorial.fields import check_callable, check_count, check_kind, check_number


class TrainingStep(NamedTuple):
    """What one step of training leaves to look at."""

    number: int
    loss: float
    learning_rate: float


class EMA:
    """An exponential moving average of a network's weights.

    After each step: average ← d · average + (1 − d) · weights, where d = min(decay,
    (1 + n) / (10 + n)) lets the first averages forget the random start. The average is kept in
    float32 at least: in bfloat16 its steps, (1 − d) times a difference, would be rounded away.
    Buffers and parameters that are whole numbers are copied.

    Args:
        network: the network being trained.
        decay: between 0 and 1; 1 / (1 − decay) is about how many steps are averaged.

    Raises:
        ValueError: decay is not in [0, 1).

    Source: Polyak and Juditsky 1992, for averaging with equal weights. Chapter 3.
    """

    def __init__(self, network: nn.Module, decay: float = 0.999) -> None:
        check_kind(network, nn.Module, "network")
        check_number(decay, "decay", 0, 1, without_high=True)
        self.decay = decay
        self.updates = 0
        with torch.inference_mode(False):  # what is made under it could never be updated
            self.network = copy.deepcopy(network).requires_grad_(False).eval()
            """The averaged network: sample from this one."""
            for value in _values(self.network):
                if value.is_floating_point() and value.element_size() < 4:
                    value.data = value.data.float()
                elif value.dtype == torch.complex32:
                    value.data = value.data.to(torch.complex64)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the network's present weights.

        Raises:
            ValueError: the network has other weights than the one that is averaged.
        """
        check_kind(network, nn.Module, "network")
        averages, values = _values(self.network), _values(network)
        if [v.shape for v in values] != [v.shape for v in averages]:
            raise ValueError("the network has other weights than the average: make a new EMA of it")
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for average, value in zip(averages, values, strict=True):
            moves = average.is_floating_point() or average.is_complex()
            if moves and isinstance(average, nn.Parameter):
                average.lerp_(value.to(average), 1 - decay)
            else:
                average.copy_(value)


def train(
    network: nn.Module,
    loss: Callable[[], Tensor],
    steps: int,
    learning_rate: float | None = None,
    ema: EMA | None = None,
    warm_up: int = 0,
    max_gradient_norm: float = math.inf,
    optimizer: Optimizer | None = None,
    scaler: GradScaler | None = None,
    done: int = 0,
) -> Iterator[TrainingStep]:
    """Minimise a loss by AdamW; a generator, one item a step.

    Nothing happens until it is iterated: the caller's loop logs, plots and stops. The learning
    rate rises to its peak in the first ``warm_up`` steps and falls to 0 along half a cosine,
    which begins at the first step.

    Args:
        network: its parameters are trained in place.
        loss: draws a batch and returns its loss, shape (), with gradients.
        steps: number of steps.
        learning_rate: of AdamW at its peak, which is the start without a warm-up; 1e-3 if not
            given. An optimizer has its own: leave it out with one.
        ema: updated after each step.
        warm_up: number of steps.
        max_gradient_norm: a longer gradient is shortened to this length; not if it is infinite.
        optimizer: of the network's parameters; AdamW without weight decay if not given. The
            rates of its groups are their peaks, one of 0 stays 0. They are kept as
            "initial_lr", as PyTorch's schedulers do, so that one with a loaded state continues.
        scaler: multiplies the loss while its gradients are computed in half precision; it skips
            a step whose gradients overflow.
        done: how many of the steps an earlier run took.

    Yields:
        The number of the step, from done + 1, its loss and its learning rate, which is that of
        the optimizer's first group.

    Raises:
        ValueError: a number is outside its range, the loss is not a single number or has no
            gradient, or the optimizer holds other parameters than the network's.
        FloatingPointError: the loss or its gradient is not finite; the weights are those before
            that step.

    Source: Loshchilov and Hutter 2019, for AdamW. Chapters 3 and 8.
    """
    check_count(steps, "steps")
    check_count(warm_up, "warm_up", 0)
    check_count(done, "done", 0)
    if done > steps:
        raise ValueError(f"done is {done}; it must be at most steps={steps}")
    if max_gradient_norm != math.inf:
        check_number(max_gradient_norm, "max_gradient_norm", 0, without_low=True)
    check_kind(network, nn.Module, "network")
    check_callable(loss, "loss")
    for value, kind, name in (
        (ema, EMA, "ema"),
        (optimizer, Optimizer, "optimizer"),
        (scaler, GradScaler, "scaler"),
    ):
        if value is not None:
            check_kind(value, kind, name)
    groups = (optimizer := _optimizer(network, learning_rate, optimizer)).param_groups
    scaler = scaler or GradScaler(enabled=False)
    parameters = list(network.parameters())
    for number in range(done + 1, steps + 1):
        for group in groups:
            rate = float(group["initial_lr"])
            rate *= 0.5 * (1 + math.cos(math.pi * (number - 1) / steps))
            rate *= min(1.0, number / (warm_up + 1))
            if isinstance(group["lr"], Tensor):  # which a compiled step reads
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        value = loss()
        _check_loss(value, f"step {number} of {steps}")
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(value).backward()
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(parameters, max_gradient_norm)
        if not scaler.is_enabled() and not math.isfinite(norm):  # else the scaler skips the step
            raise FloatingPointError(
                f"the gradient is not finite at step {number} of {steps}: "
                "look for a square root or a norm at 0 in the loss"
            )
        scaler.step(optimizer)
        scaler.update()
        if ema is not None:
            ema.update(network)
        yield TrainingStep(number, value.item(), float(groups[0]["lr"]))


def _optimizer(
    network: nn.Module, learning_rate: float | None, optimizer: Optimizer | None
) -> Optimizer:
    """Return the optimizer of a run, whose groups know their peaks."""
    own = set(network.parameters())
    if not any(p.requires_grad for p in own):
        raise ValueError("the network has no parameters to train: network.requires_grad_(True)")
    if any(p.is_inference() for p in own):
        raise ValueError("the network was made under torch.inference_mode(): make it outside")
    if optimizer is None:
        rate = 1e-3 if learning_rate is None else learning_rate
        check_number(rate, "learning_rate", 0, without_low=True)
        optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.0)
    elif learning_rate is not None:
        raise ValueError(
            f"learning_rate={learning_rate} and an optimizer were given, which has its own: "
            "set the rates of its groups and leave learning_rate out"
        )
    for group in optimizer.param_groups:
        if not own.issuperset(group["params"]):
            raise ValueError(
                "the optimizer holds parameters that are not the network's: "
                "make it of network.parameters()"
            )
        rate = group["lr"]
        group.setdefault("initial_lr", rate.clone() if isinstance(rate, Tensor) else rate)
        check_number(float(group["initial_lr"]), "the optimizer's learning rate", 0)
    return optimizer


def _check_loss(value: Tensor, step: str) -> None:
    """Raise unless a loss is one finite number with a gradient."""
    check_kind(value, Tensor, "the loss")
    if value.shape != ():
        raise ValueError(f"the loss has shape {tuple(value.shape)}; return its mean")
    if not math.isfinite(value.item()):
        raise FloatingPointError(
            f"the loss is {value.item()} at {step}: "
            "lower the learning rate, or look at the times and data of the batch"
        )
    if not value.requires_grad:
        raise ValueError(
            f"the loss has no gradient at {step}: it must depend on the network's parameters, and "
            "train be iterated, outside torch.no_grad() and torch.inference_mode()"
        )


def _values(network: nn.Module) -> list[Tensor]:
    """Return parameters and buffers."""
    return [*network.parameters(), *network.buffers()]
