"""What a velocity field is, and the one way in which time meets a state. Chapter 1."""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from types import UnionType
from typing import Protocol

import torch
from torch import Generator, Tensor


class VelocityField(Protocol):
    """Anything callable as v(x, t): a network, a closed form, a lambda.

    x is a batch of states of shape (B, *event), t a batch of times of shape (B,).
    The result has the shape of x; its unit is that of x per unit of time.
    Sample b of the result depends on sample b of the inputs only.
    """

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the velocity at the states x and the times t, shaped like x."""
        ...


def check_state(x: Tensor, name: str = "x") -> None:
    """Raise unless x is a floating-point batch of shape (B, *event).

    Raises:
        TypeError: x is not a dense tensor of a floating-point type.
        ValueError: x has no batch dimension.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} is a {type(x).__name__}; pass a torch.Tensor of shape (B, *event)")
    if not x.is_floating_point():
        raise TypeError(
            f"{name} has dtype {x.dtype}; states are real numbers: convert it with {name}.float()"
        )
    if x.layout is not torch.strided:
        raise TypeError(f"{name} has layout {x.layout}; pass {name}.to_dense()")
    if x.ndim == 0:
        raise ValueError(f"{name} has no batch dimension; pass {name}.unsqueeze(0) for one sample")


def check_same_shape(x: Tensor, y: Tensor, names: str) -> None:
    """Raise unless x and y are states of the same shape.

    Raises:
        TypeError: one of them is not a floating-point tensor.
        ValueError: the shapes differ.
    """
    first, second = names.rsplit(", ", 1)
    check_state(x, first)
    check_state(y, second)
    if x.shape != y.shape:
        raise ValueError(
            f"{first} has shape {tuple(x.shape)} and {second} has shape {tuple(y.shape)}; "
            "they must be equal, one row for each sample of the batch"
        )


def _check_time_type(t: Tensor) -> None:
    if not isinstance(t, Tensor) or not t.is_floating_point():
        kind = t.dtype if isinstance(t, Tensor) else type(t).__name__
        raise TypeError(f"t is of type {kind}; pass a floating-point tensor of shape (B,)")
    if t.layout is not torch.strided:
        raise TypeError(f"t has layout {t.layout}; pass t.to_dense()")


def check_times(t: Tensor, what: str, open_end: bool = False) -> None:
    """Raise unless every entry of t is a number in [0, 1], or in [0, 1) with ``open_end``.

    Args:
        t: times, any shape.
        what: what is defined there, for the message.
        open_end: whether t = 1 is outside.

    Raises:
        TypeError: t is not a floating-point tensor.
        ValueError: an entry is NaN or outside the interval.
    """
    _check_time_type(t)
    inside = (t >= 0) & (t < 1 if open_end else t <= 1)
    if not bool(inside.all()):
        wrong = t[~inside].flatten()[0].item()
        interval = "[0, 1)" if open_end else "[0, 1]"
        raise ValueError(f"t = {wrong} is outside {interval}, where {what} is defined")


def check_count(value: int, name: str, least: int = 1) -> None:
    """Raise unless value is a whole number of at least ``least``.

    Raises:
        TypeError: value is not an integer.
        ValueError: value is too small, or too large for PyTorch.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; pass a whole number")
    if value < least:
        raise ValueError(f"{name} is {value}; it must be at least {least}")
    if value >= 2**63:
        raise ValueError(f"{name} is {value}; it must be below 2^63")


def check_number(
    value: float,
    name: str,
    low: float = -math.inf,
    high: float = math.inf,
    without_low: bool = False,
    without_high: bool = False,
) -> None:
    """Raise unless value is a finite number from ``low`` to ``high``.

    Args:
        value: a number of Python or NumPy; a tensor is none.
        name: of it, for the message.
        low: least value.
        high: greatest value.
        without_low: whether the least value itself is outside.
        without_high: whether the greatest value itself is outside.

    Raises:
        TypeError: value is not a real number.
        ValueError: value is not finite, or outside the interval.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; pass a number")
    inside = (low < value if without_low else low <= value) and (
        value < high if without_high else value <= high
    )
    if not (inside and abs(value) <= sys.float_info.max):
        left = "(" if without_low or low == -math.inf else "["
        right = ")" if without_high or high == math.inf else "]"
        interval = f"{left}{low:g}, {high:g}{right}".replace("inf", "∞")
        raise ValueError(f"{name} is {value}; it must be a finite number in {interval}")


def check_callable(value: object, name: str) -> None:
    """Raise unless value can be called.

    Raises:
        TypeError: it cannot.
    """
    if not callable(value):
        raise TypeError(f"{name} is of type {type(value).__name__}; pass a function or a module")


def check_kind(value: object, kind: type | UnionType, name: str) -> None:
    """Raise unless value is of a class, or of one of several.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(value, kind):
        wanted = " or ".join(one.__name__ for one in getattr(kind, "__args__", (kind,)))
        raise TypeError(f"{name} is of type {type(value).__name__}, not {wanted}")


def expand_time(t: Tensor, x: Tensor) -> Tensor:
    """Give t of shape (B,) the dimensions of x, so that t * x multiplies sample by sample.

    PyTorch lines shapes up from the right. With B = D a product of shapes (B,) and (B, D) is
    accepted and wrong: each coordinate gets another sample's time. This function is the only
    place of the book where a time changes its shape.

    Args:
        t: times, shape (B,), floating point.
        x: states, shape (B, *event).

    Returns:
        t with shape (B, 1, …, 1), as many dimensions as x.

    Raises:
        TypeError: t or x is not a floating-point tensor.
        ValueError: t has another shape than (B,).
    """
    check_state(x)
    _check_time_type(t)
    if t.shape != x.shape[:1]:
        raise ValueError(
            f"t has shape {tuple(t.shape)}; for x of shape {tuple(x.shape)} it must be "
            f"({x.shape[0]},), one time for each sample: "
            "use t.flatten() for (B, 1), torch.full((B,), t) for a single time"
        )
    return t.reshape(-1, *[1] * (x.ndim - 1))


def flatten(x: Tensor) -> Tensor:
    """Return the states as rows, shape (B, D); also where B = 0 or an event is one number."""
    return x.reshape(len(x), math.prod(x.shape[1:]))


def generator_device(generator: Generator | None) -> torch.device:
    """Return the device on which a generator draws, PyTorch's default device without one.

    Raises:
        TypeError: it is neither a generator nor None, but a seed, for instance.
    """
    if generator is None:
        return torch.get_default_device()
    if not isinstance(generator, Generator):
        raise TypeError(
            f"generator is of type {type(generator).__name__}; "
            "pass a torch.Generator, such as torch.Generator().manual_seed(0)"
        )
    return generator.device


@contextmanager
def gradients() -> Iterator[None]:
    """Enable gradients, even where the caller has switched them off for everything else."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def outside_inference(value: Tensor | None) -> Tensor | None:
    """Return the tensor, or a copy if it was made in inference mode: no gradient passes that."""
    return value.clone() if value is not None and value.is_inference() else value
