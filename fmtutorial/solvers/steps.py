"""One step of an ODE solver, four methods; what a solver counts and what it returns.

Chapter 5.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from fmtutorial.fields import VelocityField, check_callable, check_same_shape, check_state

ScalarTimeField = Callable[[Tensor, Tensor], Tensor]
"""A field as a step sees it: v(x, t) with x of shape (B, *event) and one time of shape ()."""

Step = Callable[[ScalarTimeField, Tensor, Tensor, Tensor], Tensor]
"""step(v, x, t, h) → x at t + h; h may be negative."""


def euler(v: ScalarTimeField, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
    """Follow the tangent: x + h v(x, t). Order 1, one evaluation a step."""
    return x + h * v(x, t)


def midpoint(v: ScalarTimeField, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
    """Follow the velocity found half a step ahead. Order 2, two evaluations a step."""
    return x + h * v(x + h / 2 * v(x, t), t + h / 2)


def heun(v: ScalarTimeField, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
    """Average the velocities at both ends of an Euler step. Order 2, two evaluations a step."""
    first = v(x, t)
    second = v(x + h * first, t + h)
    return x + h / 2 * (first + second)


def rk4(v: ScalarTimeField, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
    """Take the classical Runge-Kutta step. Order 4, four evaluations a step.

    Source: Kutta 1901; Hairer, Nørsett and Wanner 1993, Table II.1.2.
    """
    k1 = v(x, t)
    k2 = v(x + h / 2 * k1, t + h / 2)
    k3 = v(x + h / 2 * k2, t + h / 2)
    k4 = v(x + h * k3, t + h)
    return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


class Solution(NamedTuple):
    """States on the grid of times.

    ``states`` has shape (T, B, *event) and ``times`` shape (T,), or T = 1 where only the last was
    to be kept; ``evaluations`` counts the calls of the field, each on the whole batch.
    """

    times: Tensor
    states: Tensor
    evaluations: int

    @property
    def last(self) -> Tensor:
        """State at the last time of the grid, shape (B, *event); a copy, which may outlive them."""
        return self.states[-1].clone()


class CountedField:
    """A field as a step sees it, with one time of shape () for the batch; it counts its calls."""

    def __init__(self, field: VelocityField) -> None:
        check_callable(field, "field")
        self.field, self.evaluations = field, 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return v(x, t) for all samples at one time."""
        check_state(x)
        if not isinstance(t, Tensor) or t.shape != () or (t.dtype, t.layout) != (x.dtype, x.layout):
            raise TypeError(
                f"t is {t!r}; a step gives its field one time of shape (), typed like x"
            )
        self.evaluations += 1
        velocity = self.field(x, t.expand(len(x)))
        check_same_shape(velocity, x, "v, x")
        return velocity
