"""Classifier-free guidance: a field that goes further towards a label than the model does.

Chapter 8.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from fmtutorial.fields import VelocityField, check_callable, check_number, check_same_shape

LabelledField = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""v(x, t, label), where label None means "no label"; a network trained with label dropout."""


def guided(network: LabelledField, label: Tensor, scale: float = 1.0) -> VelocityField:
    """Bind a label and return the field (1 − s) v(x, t, None) + s v(x, t, label).

    s = 1 is the model of that label, s = 0 the model of all data, s > 1 exaggerates what tells
    the label from the rest: samples become more typical and less varied, and no longer follow
    the distribution of the data. With s other than 0 and 1 each evaluation costs two of the
    network.

    Args:
        network: v(x, t, label), trained with label dropout if s is not 1.
        label: classes, integers, shape (B,); one for each sample of the later states.
        scale: s, called w + 1 by Ho and Salimans.

    Returns:
        A velocity field v(x, t), for states of that batch size. It can be pickled if the network
        can.

    Source: Ho and Salimans 2021, Eq. 6; Zheng et al. 2023 for flows. Chapter 8.
    """
    check_callable(network, "network")
    if not isinstance(label, Tensor) or label.ndim != 1:
        raise TypeError(f"label is {label!r}; pass a tensor of classes, shape (B,)")
    check_number(scale, "scale")
    return partial(_guided, network, label, float(scale))


def _guided(network: LabelledField, label: Tensor, scale: float, x: Tensor, t: Tensor) -> Tensor:
    if label.shape != x.shape[:1]:
        raise ValueError(
            f"x has shape {tuple(x.shape)} and the labels {tuple(label.shape)}; "
            "guided needs one label for each sample"
        )
    v = network(x, t, None if scale == 0 else label)
    check_same_shape(v, x, "v, x")
    if scale in (0, 1):
        return v
    free = network(x, t, None)
    check_same_shape(free, x, "v, x")
    return torch.lerp(free, v, scale)
