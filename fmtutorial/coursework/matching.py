"""The exercises of chapter 3."""

import torch
from torch import Tensor

from fmtutorial.coursework.exercises import Draw, Exercise, Function
from fmtutorial.fields import VelocityField
from fmtutorial.losses import flow_matching_loss
from fmtutorial.paths import LINEAR, AffinePath


def logit_normal(z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return the times whose logits are mean + std · z."""
    return torch.sigmoid(mean + std * z)


def ema_update(average: Tensor, weights: Tensor, decay: Tensor) -> Tensor:
    """Move the average by the share 1 − decay of the way to the weights."""
    return torch.lerp(average, weights, 1 - decay)


def cfm_loss(v: VelocityField, x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
    """Return the loss of the linear path."""
    return flow_matching_loss(v, AffinePath(LINEAR), x0, x1, t)


def _squares(v: VelocityField, x: Tensor, t: Tensor, target: Tensor) -> Tensor:
    """Return the squared errors of all entries, shape (B, entries)."""
    return (v(x, t) - target).square().reshape(len(x), -1)


def _line(x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
    """Return the point of the line from x0 to x1."""
    return AffinePath(LINEAR).sample(x0, x1, t).x_t


def _wrong_loss(*, swap_path: bool = False, swap_target: bool = False) -> Function:
    def loss(v: VelocityField, x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
        x = _line(x1, x0, t) if swap_path else _line(x0, x1, t)
        return _squares(v, x, t, x0 - x1 if swap_target else x1 - x0).sum(dim=1).mean()

    return loss


def _mean_over_event(v: VelocityField, x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
    return _squares(v, _line(x0, x1, t), t, x1 - x0).mean()


def _sum_over_batch(v: VelocityField, x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
    return _squares(v, _line(x0, x1, t), t, x1 - x0).sum()


def _broadcast(v: VelocityField, x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
    return _squares(v, (1 - t) * x0 + t * x1, t, x1 - x0).sum(dim=1).mean()


def _logits(draw: Draw) -> tuple:
    mean = draw.uniform(0.5, 1.5)
    return draw.normal(draw.setting.batch), mean if draw.integer(0, 1) else -mean, _std(draw)


def _std(draw: Draw) -> Tensor:
    """Draw a standard deviation that is not near 1, where it would be its own square."""
    return draw.uniform(0.4, 0.7) if draw.integer(0, 1) else draw.uniform(1.5, 2.0)


def _average(draw: Draw) -> tuple:
    return draw.normal(), draw.normal(), draw.uniform(0.7, 0.99)


def _batch(draw: Draw) -> tuple:
    return draw.field(trainable=True), draw.normal(), draw.normal(), draw.times()


EXERCISES = (
    Exercise(
        "matching.logit_normal",
        logit_normal,
        _logits,
        {
            "Every time is 1 minus what it should be: the exponent has the wrong sign, and a "
            "positive mean moves the times towards noise. It should move them towards data.": (
                lambda z, mean, std: 1 / (1 + torch.exp(mean + std * z))
            ),
            "The mean and the standard deviation are applied after the sigmoid. They belong to "
            "the normal number that goes into it.": lambda z, mean, std: (
                mean + std * torch.sigmoid(z)
            ),
            "The normal number is multiplied by std². It is std that is the standard deviation, "
            "and std² the variance.": lambda z, mean, std: torch.sigmoid(mean + std**2 * z),
            "The mean is multiplied by std too. Stretch first, then shift.": (
                lambda z, mean, std: torch.sigmoid(std * (mean + z))
            ),
            "This is the normal number itself, which is no time yet: it is its logit.": (
                lambda z, mean, std: mean + std * z
            ),
            "The mean has the wrong sign. A positive mean moves the times towards data.": (
                lambda z, mean, std: torch.sigmoid(std * z - mean)
            ),
            "The mean and the standard deviation are not used: this is the standard case "
            "mean = 0, std = 1.": lambda z, mean, std: torch.sigmoid(z),
        },
    ),
    Exercise(
        "matching.ema_update",
        ema_update,
        _average,
        {
            "The two factors are exchanged. With a decay near 1 the average keeps most of "
            "itself and takes little of the new weights.": (
                lambda average, weights, decay: (1 - decay) * average + decay * weights
            ),
            "The new weights enter with the factor 1, so the average grows from update to "
            "update. The two factors add up to 1.": (
                lambda average, weights, decay: decay * average + weights
            ),
            "The old average enters with the factor 1, so the average grows from update to "
            "update. The two factors add up to 1.": (
                lambda average, weights, decay: average + (1 - decay) * weights
            ),
            "The average moves away from the weights: the difference has the wrong sign.": (
                lambda average, weights, decay: average + (1 - decay) * (average - weights)
            ),
            "This is the plain mean of the two. The decay says how much is kept.": (
                lambda average, weights, decay: (average + weights) / 2
            ),
        },
    ),
    Exercise(
        "matching.cfm_loss",
        cfm_loss,
        _batch,
        {
            "The target points from data to noise. It is the velocity of the path, and that "
            "goes from noise to data.": _wrong_loss(swap_target=True),
            "The path is at the data for t = 0. In this book t = 0 is noise and t = 1 is "
            "data.": _wrong_loss(swap_path=True),
            "Noise and data are exchanged, in the path and in the target. In this book time "
            "runs from noise, x0, to data, x1.": _wrong_loss(swap_path=True, swap_target=True),
            "The squares are averaged over the entries of an event. A squared norm is their "
            "sum; only the batch is averaged.": _mean_over_event,
            "The squared norms are added up over the batch. Take their mean.": _sum_over_batch,
            "t of shape (B,) was multiplied with states as it is. That fails, or gives entry i "
            "of every sample the time of sample i. Give t a dimension of size 1 for every "
            "dimension of an event.": _broadcast,
            "The target is x1. The velocity of the path goes from x0 to x1: its derivative.": (
                lambda v, x0, x1, t: _squares(v, _line(x0, x1, t), t, x1).sum(dim=1).mean()
            ),
            "The norms are not squared.": lambda v, x0, x1, t: (
                _squares(v, _line(x0, x1, t), t, x1 - x0).sum(dim=1).sqrt().mean()
            ),
        },
        points=2,
        trains=True,
    ),
)
