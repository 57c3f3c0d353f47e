"""Guidance: a field that goes further from one answer towards another than either does.

Chapters 8 and 11.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from fmtutorial.fields import (
    VelocityField,
    check_callable,
    check_number,
    check_same_shape,
    check_state,
    expand_time,
    flatten,
)

LabelledField = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""v(x, t, label), where label None means "no label"; a network trained with label dropout."""

ALWAYS = (0.0, 1.0)


def guided(
    network: LabelledField,
    label: Tensor,
    scale: float | Tensor = 1.0,
    during: tuple[float, float] = ALWAYS,
) -> VelocityField:
    """Bind a label and return the field (1 − s) v(x, t, None) + s v(x, t, label).

    s = 1 is the model of that label, s = 0 the model of all data, s > 1 exaggerates what tells
    the label from the rest: samples become more typical and less varied, and no longer follow
    the distribution of the data. With s other than 0 and 1 each evaluation costs two of the
    network.

    Args:
        network: v(x, t, label), trained with label dropout if s is not 1.
        label: classes, integers, shape (B,); one for each sample of the later states.
        scale: s, called w + 1 by Ho and Salimans; a number, or one for each sample, shape (B,).
        during: the first and the last t at which s acts, from 0 to 1. Before and after it the
            field is that of the label, by one evaluation.

    Returns:
        A velocity field v(x, t), for states of that batch size. It can be pickled if the network
        can.

    Source: Ho and Salimans 2021, Eq. 6; Zheng et al. 2023 for flows; Kynkäänniemi et al. 2024 for
    the interval. Chapters 8 and 11.
    """
    free, own = _bound(network, label)
    return _extrapolated(free, own, _checked(scale, label), during)


def rescaled(
    network: LabelledField, label: Tensor, scale: float | Tensor = 1.0, rest: float = 0.0
) -> VelocityField:
    """Return CFG-Zero*: guidance from the part of the free answer that the label's confirms.

    (1 − s) c u + s v with v = v(x, t, label), u = v(x, t, None) and c = ⟨v, u⟩ / ‖u‖², the
    projection of v on u, for each sample. Two evaluations of the network, none while it rests.

    Args:
        network: v(x, t, label), trained with label dropout.
        label: classes, integers, shape (B,).
        scale: s, as in ``guided``.
        rest: from 0 to 1; for t < rest the field is zero, and the state stays noise.

    Source: Fan et al. 2025. Chapter 11.
    """
    free, own = _bound(network, label)
    check_number(rest, "rest", low=0, high=1)
    return partial(_rescaled, free, own, _checked(scale, label), float(rest))


def autoguided(
    good: VelocityField, worse: VelocityField, scale: float | Tensor = 1.0
) -> VelocityField:
    """Return (1 − s) worse(x, t) + s good(x, t): away from the errors that both make.

    Args:
        good: v(x, t), with its label bound if it has one.
        worse: the same, made worse: a smaller network, or one that was trained less.
        scale: s, as in ``guided``.

    Source: Karras et al. 2024. Chapter 11.
    """
    check_callable(good, "good")
    check_callable(worse, "worse")
    return _extrapolated(worse, good, _checked(scale), ALWAYS)


def _bound(network: LabelledField, label: Tensor) -> tuple[VelocityField, VelocityField]:
    """Return the network without its label and with it, as fields."""
    check_callable(network, "network")
    if not isinstance(label, Tensor) or label.ndim != 1:
        raise TypeError(f"label is {label!r}; pass a tensor of classes, shape (B,)")
    return partial(_answer, network, label, False), partial(_answer, network, label, True)


def _answer(network: LabelledField, label: Tensor, use: bool, x: Tensor, t: Tensor) -> Tensor:
    if label.shape != x.shape[:1]:
        raise ValueError(
            f"x has shape {tuple(x.shape)} and the labels {tuple(label.shape)}; "
            "guidance needs one label for each sample"
        )
    return network(x, t, label if use else None)


def _checked(scale: float | Tensor, label: Tensor | None = None) -> float | Tensor:
    if not isinstance(scale, Tensor):
        check_number(scale, "scale")
        return float(scale)
    check_state(scale, "scale")
    if scale.ndim != 1 or label is not None and scale.shape != label.shape:
        raise ValueError(
            f"scale has shape {tuple(scale.shape)}; pass a number, or (B,), one for each sample"
        )
    if not bool(scale.isfinite().all()):
        raise ValueError("scale: an entry is not finite")
    return scale


def _extrapolated(
    start: VelocityField, end: VelocityField, scale: float | Tensor, during: tuple[float, float]
) -> VelocityField:
    """Return start + scale (end − start), one evaluation each where both are needed."""
    if not isinstance(during, (tuple, list)) or len(during) != 2:
        raise TypeError(f"during is {during!r}; pass two times, such as (0.2, 0.8)")
    for time in during:
        check_number(time, "a time of during", low=0, high=1)
    if during[0] > during[1]:
        raise ValueError(f"during is {during!r}; it must begin before it ends")
    return partial(_between, start, end, scale, (float(during[0]), float(during[1])))


def _between(
    start: VelocityField,
    end: VelocityField,
    scale: float | Tensor,
    during: tuple[float, float],
    x: Tensor,
    t: Tensor,
) -> Tensor:
    if during != ALWAYS:
        check_state(x)
        expand_time(t, x)  # refuses other shapes
        acts = (t >= during[0]) & (t <= during[1])
        each = scale if isinstance(scale, Tensor) else x.new_full(x.shape[:1], scale)
        scale = torch.where(acts, _for_each(each, x).reshape(acts.shape), 1.0)
    if _all(scale, 1.0):
        return _seen(end, x, t)
    if _all(scale, 0.0):
        return _seen(start, x, t)
    v, u = _seen(end, x, t), _seen(start, x, t)
    return torch.lerp(u, v, _for_each(scale, x))


def _all(scale: float | Tensor, value: float) -> bool:
    return bool((scale == value).all()) if isinstance(scale, Tensor) else scale == value


def _seen(field: VelocityField, x: Tensor, t: Tensor) -> Tensor:
    v = field(x, t)
    check_same_shape(v, x, "v, x")
    return v


def _for_each(scale: float | Tensor, x: Tensor) -> float | Tensor:
    """Return a scale that multiplies sample by sample."""
    if not isinstance(scale, Tensor):
        return scale
    if scale.shape != x.shape[:1]:
        raise ValueError(
            f"x has shape {tuple(x.shape)} and scale {tuple(scale.shape)}; "
            "pass one scale for each sample"
        )
    return expand_time(scale.to(x), x)


def _rescaled(
    free: VelocityField,
    own: VelocityField,
    scale: float | Tensor,
    rest: float,
    x: Tensor,
    t: Tensor,
) -> Tensor:
    resting = expand_time(t, x) < rest
    if bool(resting.all()):
        return torch.zeros_like(x)
    v, u = _seen(own, x, t), _seen(free, x, t)
    along, square = (flatten(a * u).sum(dim=1) for a in (v, u))
    part = along / torch.where(square == 0, 1, square)  # of u = 0 any multiple is 0
    moved = torch.lerp(expand_time(part, x) * u, v, _for_each(scale, x))
    return torch.where(resting, 0, moved)
