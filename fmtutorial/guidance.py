"""Classifier-free guidance: a field that goes further towards a label than the model does.

Chapter 8.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fmtutorial.fields import VelocityField

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
        A velocity field v(x, t), for states of that batch size.

    Source: Ho and Salimans 2021, Eq. 6; Zheng et al. 2023 for flows. Chapter 8.
    """
    if scale == 1:
        return lambda x, t: network(x, t, label)
    if scale == 0:
        return lambda x, t: network(x, t, None)

    def field(x: Tensor, t: Tensor) -> Tensor:
        return torch.lerp(network(x, t, None), network(x, t, label), scale)

    return field
