"""How a time and a label enter a network for images, and the checks that networks share.

Chapter 8.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fmtutorial.fields import check_count, check_state, expand_time


def check_event_shape(shape: tuple[int, ...], name: str, length: int | None = None) -> torch.Size:
    """Return the shape of one sample, or raise unless it is a tuple of positive whole numbers.

    Raises:
        TypeError: it is no tuple or list, or an entry is not a whole number.
        ValueError: an entry is not positive, or there are not ``length`` of them.
    """
    if not isinstance(shape, (tuple, list)):
        raise TypeError(f"{name} is {shape!r}; pass a tuple of whole numbers")
    if length is not None and len(shape) != length:
        raise ValueError(f"{name} is {tuple(shape)}; pass {length} numbers")
    for size in shape:
        check_count(size, f"an entry of {name}")
    return torch.Size(shape)


def check_types(weight: Tensor, x: Tensor, *times: Tensor) -> None:
    """Raise unless a network with this weight can take states x at these times.

    Raises:
        TypeError: x has another floating-point type, or a time one of more digits.
    """
    wanted, device = weight.dtype, x.device.type
    found = [("x", x, x.dtype)]
    found += [("t", t, torch.promote_types(t.dtype, wanted)) for t in times]
    others = [each for each in found if each[2] != wanted]
    # a question at which older compilers break the graph: only where it matters
    if others and torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        known = torch.get_autocast_dtype(device)  # it converts between the two
        others = [each for each in others if each[2] != known]
    for name, value, _ in others:
        raise TypeError(
            f"{name} has dtype {value.dtype} and the network's weights {wanted}; "
            f"convert {name}.to({wanted}), or the network with network.to({value.dtype})"
        )


def check_event(x: Tensor, event_shape: tuple[int, ...]) -> None:
    """Raise unless the samples of x have the shape that a network was built for.

    Raises:
        ValueError: they have another one.
    """
    check_state(x)
    if tuple(x.shape[1:]) != tuple(event_shape):
        raise ValueError(
            f"x has event shape {tuple(x.shape[1:])}; "
            f"the network was built for {tuple(event_shape)}"
        )


def padded(x: Tensor, multiple: int) -> Tensor:
    """Return images with sides that a number divides: the last row and column are repeated.

    What is repeated has the noise of its time and the grey of its neighbours, as every other
    pixel has. A normalisation over the image would see zeros as a frame without noise, wider for
    some sizes than for others.

    Args:
        x: images, shape (B, channels, height, width).
        multiple: divides the sides of the result.
    """
    bottom, right = (-side % multiple for side in x.shape[2:])
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x


def check_labels(label: Tensor, n: int, classes: int) -> None:
    """Raise unless label is a batch of n integers from 0 to classes − 1.

    Raises:
        TypeError: it does not hold integers.
        ValueError: another shape, or an unknown class.
    """
    if not isinstance(label, Tensor):
        raise TypeError(f"label is a {type(label).__name__}; pass a tensor of shape ({n},)")
    if label.layout is not torch.strided:
        raise TypeError(f"label has layout {label.layout}; pass label.to_dense()")
    if label.shape != (n,):
        raise ValueError(f"label has shape {tuple(label.shape)}; pass ({n},)")
    if label.dtype != torch.int64:
        raise TypeError(f"label has dtype {label.dtype}; convert it with label.long()")
    # a look at the values would break a compiled network in two, and "meta" has none
    unseen = torch.compiler.is_compiling() or label.is_meta
    if not unseen and bool(((label < 0) | (label >= classes)).any()):
        raise ValueError(
            f"labels run from {label.min()} to {label.max()}; the network knows 0 to {classes - 1}"
        )


class TimeLabelEmbedding(nn.Module):
    """A vector for each time and label: e(t) + e(label), (B,) and (B,) → (B, width).

    The time enters as sin(kt) and cos(kt) with frequencies k from 1 to 100 in geometric steps,
    followed by two linear layers; the label as a row of a table. The table has one row more than
    there are classes: label ``labels`` stands for "no label", for training with label dropout.

    Args:
        width: of the vector; at least 4.
        labels: number of classes; 0 for none.

    Source: Vaswani et al. 2017, Sec. 3.5, for the frequencies; Ho and Salimans 2021 for the
    empty label. Chapter 8.
    """

    def __init__(self, width: int, labels: int = 0) -> None:
        super().__init__()
        check_count(width, "width", least=4)
        check_count(labels, "labels", least=0)
        self.labels = labels
        frequencies = torch.logspace(0, 2, width // 4)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.time = nn.Sequential(
            nn.Linear(2 * (width // 4), width), nn.SiLU(), nn.Linear(width, width)
        )
        self.label = nn.Embedding(labels + 1, width) if labels else None

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        """Return the vectors for a batch x at times t; without labels all get the empty one.

        Raises:
            TypeError: x or t has another type than the weights, or label is not one of integers.
            ValueError: an unknown class, or a label where the network has none.
        """
        expand_time(t, x)
        check_types(self.time[0].weight, x, t)
        angle = t[:, None] * self.frequencies  # (B, width / 4)
        embedded = self.time(torch.cat([angle.sin(), angle.cos()], dim=1))  # (B, width)
        if self.label is None:
            if label is not None:
                raise ValueError(f"the network was built with labels=0: got label {label}")
            return embedded
        if label is None:
            label = torch.full_like(t, self.labels, dtype=torch.int64)
        check_labels(label, len(x), self.labels + 1)
        return embedded + self.label(label)


def zero(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """Set a layer's weights and bias to 0, so that a block starts as its skip."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
