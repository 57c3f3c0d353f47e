"""The exercise on editing of the excursion "Steering", chapter 11."""

from functools import partial

import torch
from torch import Tensor

from fmtutorial.coursework.exercises import Draw, Exercise, Function
from fmtutorial.coursework.steering import VECTORS
from fmtutorial.fields import expand_time


def _learn(mean: Tensor, c: Tensor, y: Tensor, over: Function = lambda first: first) -> Tensor:
    """Means (B, D) of all coordinates when the first is y."""
    means = mean + (y - mean[0])[:, None] * c[0] / over(c[0, 0])
    return torch.cat([y[:, None], means[:, 1:]], dim=1)


def _cut(c: Tensor) -> Tensor:
    """Nothing in the row and the column of the first coordinate."""
    rest = (torch.arange(len(c)) > 0).to(c)
    return c * torch.outer(rest, rest)


def _left(c: Tensor, sign: float = -1) -> Tensor:
    return _cut(c + sign * torch.outer(c[0], c[0]) / c[0, 0])


def _field(
    x: Tensor,
    t: Tensor,
    means: Tensor,
    c: Tensor,
    shrink: Function = lambda t: t,
    unit: Function = lambda c: torch.eye(len(c), dtype=c.dtype),
) -> Tensor:
    """Velocity of the linear path to N(mean, c) for each sample, t of shape (B, 1)."""
    s, one = t[:, :, None], unit(c)
    off = (x - shrink(t) * means)[:, :, None]
    share = torch.linalg.solve(s**2 * c + (1 - s) ** 2 * one, off)
    return means + ((s * c - (1 - s) * one) @ share)[:, :, 0]


def velocity_given_first(
    x: Tensor,
    t: Tensor,
    mean: Tensor,
    covariance: Tensor,
    known: Tensor,
    learn: Function = _learn,
    left: Function = _left,
    field: Function = _field,
) -> Tensor:
    """Velocity to a Gaussian of whose samples the first coordinate is known."""
    return field(x, expand_time(t, x), learn(mean, covariance, known), left(covariance))


def _replaced(x: Tensor, t: Tensor, mean: Tensor, covariance: Tensor, y: Tensor) -> Tensor:
    others = _field(x, t[:, None], mean.expand_as(x), covariance)[:, 1:]
    return torch.cat([((y - x[:, 0]) / (1 - t))[:, None], others], dim=1)


def _one_by_one(x: Tensor, t: Tensor, means: Tensor, c: Tensor) -> Tensor:
    return _field(x, t, means, torch.diag(c.diag()))


def _correlated(draw: Draw) -> tuple:
    (size,) = draw.setting.event
    a, one = draw.normal(size, size), torch.eye(size, dtype=draw.setting.dtype)
    known = draw.normal(draw.setting.batch)
    return draw.normal(), draw.times(), draw.normal(size), a @ a.T / size + one / 4, known


_given = partial(partial, velocity_given_first)

EXERCISES = (
    Exercise(
        "editing.velocity_given_first",
        velocity_given_first,
        _correlated,
        {
            "Nothing is known in this field. It leads to the whole Gaussian.": _given(
                learn=lambda m, c, y: m.expand(len(y), -1), left=lambda c: c
            ),
            "Only the first coordinate is led to y, and the others follow the field that has not "
            "been told. What y says of them must change their mean and covariance.": _replaced,
            "The other means have not learned. They move by the covariance with the first "
            "coordinate, over its variance.": _given(
                learn=lambda m, c, y: _learn(m, torch.diag(c.diag()), y)
            ),
            "The covariance has not shrunk. Who knows the first coordinate knows more of the "
            "others.": _given(left=lambda c: c),
            "The other coordinates vary as before. Take off the outer product of the covariances "
            "with the first one, over its variance.": _given(left=_cut),
            "The covariance has grown. What is known is taken off.": _given(
                left=lambda c: _left(c, sign=1)
            ),
            "The covariances with the first coordinate are not divided by its variance, in the "
            "means.": _given(learn=partial(_learn, over=torch.ones_like)),
            "The covariances with the first coordinate are divided by its standard deviation. "
            "Divide by the variance, in the means.": _given(learn=partial(_learn, over=torch.sqrt)),
            "The means learn from y. They learn from y − m₁: a first coordinate at its mean says "
            "nothing new.": _given(
                learn=(
                    lambda m, c, y: torch.cat([y[:, None], _learn(m, c, y + m[0])[:, 1:]], dim=1)
                )
            ),
            "The means are those of the data. At time t they are t m'.": _given(
                field=partial(_field, shrink=torch.ones_like)
            ),
            "(1 − t)² is added to every entry of the matrix. The noise is t² C' + (1 − t)² I: its "
            "own part belongs on the diagonal.": _given(
                field=partial(_field, unit=torch.ones_like)
            ),
            "The coordinates are treated one by one. What is left of them is still correlated.": (
                _given(field=_one_by_one)
            ),
            "The times of shape (B,) meet the coordinates. Give them the shape (B, 1).": (
                _given(field=partial(_field, shrink=lambda t: t[:, 0]))
            ),
        },
        settings=VECTORS,
    ),
)
