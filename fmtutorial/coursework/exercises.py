"""What an exercise is: how its inputs are drawn, what is right, and which mistakes it knows."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from fmtutorial.fields import expand_time


class Setting(NamedTuple):
    """What a case is drawn for: a batch of events in one precision."""

    batch: int
    event: tuple[int, ...]
    dtype: torch.dtype


SETTINGS = (
    Setting(4, (2,), torch.float64),
    Setting(3, (3,), torch.float64),
    Setting(5, (), torch.float32),
    Setting(2, (1, 4, 4), torch.float64),
    Setting(1, (6,), torch.float32),
    Setting(7, (2,), torch.float32),
)
"""Event shapes of points, numbers and images; one batch as large as its events have entries."""


class Field:
    """A smooth velocity field v(x, t) with entries that depend on each other and on the time.

    Args:
        setting: of the states that it takes.
        generator: of its coefficients.
        time: "batch" if it takes times of shape (B,), "scalar" if it takes one of shape ().
        trainable: whether its values can be differentiated with respect to its coefficients.
    """

    def __init__(
        self, setting: Setting, generator: Generator, time: str = "batch", trainable: bool = False
    ) -> None:
        size = max(1, torch.Size(setting.event).numel())
        like = {"generator": generator, "dtype": torch.float64}
        self.matrix = torch.randn(size, size, **like) / size**0.5
        self.shift = torch.randn(size, **like).requires_grad_(trainable)
        self.event, self.time = setting.event, time

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return v(x, t), in the shape and precision of x.

        Raises:
            ValueError: x has another event shape, or t is not what this field takes.
        """
        if tuple(x.shape[1:]) != self.event:
            raise ValueError(f"v was given states of shape {tuple(x.shape)}")
        t = torch.as_tensor(t, dtype=x.dtype)
        if self.time == "scalar":
            if t.ndim:
                raise ValueError(f"v takes one time, of shape (), and was given {tuple(t.shape)}")
            t = t.expand(len(x))
        flat = x.reshape(len(x), -1)
        angle = flat @ self.matrix.to(x).T + expand_time(t, flat) * (1 + self.shift.to(x))
        return (torch.sin(angle) + (1 + t).unsqueeze(1) * flat.roll(1, dims=1) / 2).reshape(x.shape)


class Draw:
    """Random inputs of one case; two draws with the same seed and setting are the same.

    Args:
        setting: of the case.
        generator: of everything that is drawn.
    """

    def __init__(self, setting: Setting, generator: Generator) -> None:
        self.setting, self.generator = setting, generator

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, by default a state of shape (B, *event)."""
        shape = shape or (self.setting.batch, *self.setting.event)
        return self._typed(torch.randn(shape, generator=self.generator, dtype=torch.float64))

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform numbers, by default one of shape (); multiples of 1/1024.

        Sums of a few of them are exact in single precision, so that a time that a student copies
        into a new tensor is not another time.
        """
        u = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        return self._typed(_rounded(low + (high - low) * u))

    def times(self, low: float = 0.1, high: float = 0.9) -> Tensor:
        """A time for each sample, shape (B,)."""
        return self.uniform(low, high, self.setting.batch)

    def grid(self, low: float = 0.0, high: float = 1.0, steps: int = 5) -> Tensor:
        """Return uneven increasing times from low to high, shape (steps + 1,)."""
        gaps = self.uniform(0.5, 1.5, steps).double()
        shares = torch.cat([gaps.new_zeros(1), gaps.cumsum(0) / gaps.sum()])
        return self._typed(_rounded(low + (high - low) * shares))

    def field(self, time: str = "batch", trainable: bool = False) -> Field:
        """A velocity field, see ``Field``."""
        return Field(self.setting, self.generator, time, trainable)

    def integer(self, low: int, high: int) -> int:
        """Return a whole number from low to high, both included."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def _typed(self, x: Tensor) -> Tensor:
        return x.to(self.setting.dtype)


def _rounded(x: Tensor) -> Tensor:
    return (1024 * x).round() / 1024


Function = Callable[..., Tensor]
"""What a student writes, and what stands in an exercise for it."""


@dataclass(frozen=True)
class Exercise:
    """A function to write.

    Args:
        name: topic and name of the function, "solvers.heun_step".
        answer: a right one, from the package or a closed form.
        draw: the arguments of a case.
        mistakes: wrong answers by the hint that names the mistake.
        settings: for which cases are drawn.
        points: for a right answer.
        trains: whether the result is a loss, which must have gradients; needs a trainable field.
    """

    name: str
    answer: Function
    draw: Callable[[Draw], tuple]
    mistakes: dict[str, Function] = field(default_factory=dict, hash=False)
    settings: tuple[Setting, ...] = SETTINGS
    points: int = 1
    trains: bool = False

    @property
    def function(self) -> str:
        """The name of the function to write."""
        return self.name.split(".")[1]

    def arguments(self, seed: int) -> list[tuple]:
        """Draw the arguments of all cases."""
        generator = Generator().manual_seed(seed)
        return [self.draw(Draw(setting, generator)) for setting in self.settings]
