"""The exercises on rewards of the excursion "Steering", chapter 11.

Their answers have switches for mistakes.
"""

from functools import partial

import torch
from torch import Tensor

from fmtutorial.coursework.exercises import Draw, Exercise, Function, Setting
from fmtutorial.fields import VelocityField

VECTORS = (
    Setting(4, (2,), torch.float64),
    Setting(3, (3,), torch.float64),
    Setting(5, (2,), torch.float32),
    Setting(2, (16,), torch.float64),
    Setting(6, (2,), torch.float32),
)
"""A component of a mixture, or a state, for each of a batch."""


class Reward:
    """The gradient of a smooth reward."""

    def __init__(self, draw: Draw) -> None:
        self.linear = draw.normal(*draw.setting.event)

    def __call__(self, x: Tensor) -> Tensor:
        """Return ∇r(x), shaped like x."""
        return self.linear - x / 2 + torch.cos(x)


def _reward(m: Tensor, b: Tensor, k: Tensor) -> Tensor:
    """Reward at points (K, D)."""
    return m @ b - k * m.square().sum(dim=1) / 2


def _center(m: Tensor, v: Tensor, b: Tensor, k: Tensor) -> Tensor:
    return (m + v[:, None] * b) / (1 + k * v[:, None])


def _mass(m: Tensor, v: Tensor, b: Tensor, k: Tensor, volumes: float | None = None) -> Tensor:
    """Logarithm of the mean of e^r over each component."""
    top = 2 * m @ b + v * b.square().sum() - k * m.square().sum(dim=1)
    volumes = m.shape[1] if volumes is None else volumes
    return (top / (1 + k * v) - volumes * torch.log(1 + k * v)) / 2


def _weights(w: Tensor, mass: Tensor) -> Tensor:
    return torch.softmax(w.log() + mass, dim=0)


def tilted_mixture(
    weights: Tensor,
    means: Tensor,
    variances: Tensor,
    linear: Tensor,
    curvature: Tensor,
    mass: Function = _mass,
    center: Function = _center,
    variance: Function = lambda v, k: v / (1 + k * v),
    weigh: Function = _weights,
) -> Tensor:
    """Return weight, mean and variance of each component after the tilt, shape (K, D + 2)."""
    w = weigh(weights, mass(means, variances, linear, curvature))
    centers = center(means, variances, linear, curvature)
    return torch.cat([w[:, None], centers, variance(variances, curvature)[:, None]], dim=1)


def _backward(b: Tensor, x: Tensor, a: Tensor) -> Tensor:
    """Transposed Jacobian times a."""
    return torch.autograd.grad(b, x, a)[0]


def _forward(b: Tensor, x: Tensor, a: Tensor) -> Tensor:
    """Jacobian times a, as the derivative of the transposed one's product."""
    probe = torch.zeros_like(b, requires_grad=True)
    pulled = torch.autograd.grad(b, x, probe, create_graph=True)[0]
    return torch.autograd.grad(pulled, probe, a)[0]


def adjoint_target(
    velocity: VelocityField,
    gradient: Function,
    states: Tensor,
    times: Tensor,
    drift: Function = lambda v, x, t: 2 * v - x / t,
    end: int = -1,
    at: int = 0,
    carry: Function = lambda a, h, pull: a + h * pull,
    product: Function = _backward,
    factor: Function = lambda t: (1 - t) / t,
    behind: int = 0,
    order: int = -1,
) -> Tensor:
    """Return what adjoint matching makes the velocity be at all states but the last."""
    adjoints, targets = [gradient(states[end])], []
    for i in reversed(range(len(times) - 1)):
        x, t = states[i + at].clone().requires_grad_(), times[i + at]
        b = drift(velocity(x, t.expand(len(x))), x, t)
        pull = product(b, x, adjoints[-1])
        adjoints.append(carry(adjoints[-1], times[i + 1] - times[i], pull))
        v = velocity(states[i], times[i].expand(len(x)))
        targets.append(v + factor(times[i]) * adjoints[-1 - behind])
    return torch.stack(targets[::order]).detach()


def _mixture(draw: Draw) -> tuple:
    """Draw rewards so large that their exponentials are not, where they are linear."""
    (k, size), double = (draw.setting.batch, *draw.setting.event), draw.setting.dtype.itemsize == 8
    weights, means, linear = draw.uniform(0.5, 1.5, k), draw.normal(k, size), draw.normal(size)
    curvature = draw.uniform(0.3, 0.6) if k % 4 else -draw.uniform(0.15, 0.35)
    if k % 2:
        linear = 2 * linear / linear.norm()
        means, curvature = means + (200 if double else 30) * linear, 0 * curvature
    return weights / weights.sum(), means, draw.uniform(0.4, 1.2, k), linear, curvature


def _chain(draw: Draw) -> tuple:
    states = draw.normal(5, draw.setting.batch, *draw.setting.event)
    return draw.field(), Reward(draw), states, draw.grid(0.3, 1.0, steps=4)


_tilt = partial(partial, tilted_mixture)
_adjoint = partial(partial, adjoint_target)

EXERCISES = (
    Exercise(
        "steering.tilted_mixture",
        tilted_mixture,
        _mixture,
        {
            "The weights have stayed. A component on which the reward is high gets more of the "
            "mass.": _tilt(weigh=lambda w, mass: w),
            "The reward is taken at the means. A component gains the mean of e^r over it, and its "
            "spread raises that.": _tilt(mass=lambda m, v, b, k: _reward(m, b, k)),
            "The reward is taken at the new means. A component gains the mean of e^r over it.": (
                _tilt(mass=lambda m, v, b, k: _reward(_center(m, v, b, k), b, k))
            ),
            "The factor (1 + k v)^(−D/2) is missing in the weights. A narrower Gaussian has less "
            "mass at the same height.": _tilt(mass=partial(_mass, volumes=0)),
            "The weights count one dimension. The factor (1 + k v)^(−1/2) comes once for each "
            "of D.": _tilt(mass=partial(_mass, volumes=1)),
            "The exponentials run over. Add the logarithms, and take a softmax.": _tilt(
                weigh=lambda w, mass: w * mass.exp() / (w * mass.exp()).sum()
            ),
            "The weights do not add up to 1. Divide by their sum.": _tilt(
                weigh=lambda w, mass: w * mass.exp()
            ),
            "The means move by b. It is by v b: a wide component moves farther.": _tilt(
                center=lambda m, v, b, k: _center(m + (1 - v[:, None]) * b, v, b, k)
            ),
            "The curvature does not pull the means. Divide m + v b by 1 + k v.": _tilt(
                center=lambda m, v, b, k: m + v[:, None] * b
            ),
            "The variances have stayed. The curvature k is added to the precision 1/v.": _tilt(
                variance=lambda v, k: v
            ),
            "The curvature is added to the variance. Add it to the precision 1/v.": _tilt(
                variance=lambda v, k: v + k
            ),
            "The half before the curvature is forgotten. −k|x|²/2 adds k to the precision, not "
            "2k.": lambda w, m, v, b, k: tilted_mixture(w, m, v, b, 2 * k),
            "The curvature has the wrong sign. A positive k makes the reward fall far out, and "
            "the components narrower.": lambda w, m, v, b, k: tilted_mixture(w, m, v, b, -k),
            "The linear part has the wrong sign. The mass moves to where the reward is higher.": (
                lambda w, m, v, b, k: tilted_mixture(w, m, v, -b, k)
            ),
        },
        settings=VECTORS,
    ),
    Exercise(
        "steering.adjoint_target",
        adjoint_target,
        _chain,
        {
            "The reward's gradient is asked at the first state. The adjoint starts at the last.": (
                _adjoint(end=0)
            ),
            "The reward's gradient is not carried back. Each step adds h Jᵀa.": _adjoint(
                carry=lambda a, h, pull: a
            ),
            "The step h is missing. A step back adds h Jᵀa.": _adjoint(
                carry=lambda a, h, pull: a + pull
            ),
            "The adjoint is carried back with the wrong sign. It grows by h Jᵀa on the way "
            "back.": _adjoint(carry=lambda a, h, pull: a - h * pull),
            "The Jacobian is not transposed. torch.autograd.grad(b, x, a) has it transposed.": (
                _adjoint(product=_forward)
            ),
            "This differentiates the velocity. The noisy states follow the drift 2v − x/t.": (
                _adjoint(drift=lambda v, x, t: v)
            ),
            "The term −x/t of the drift is forgotten.": _adjoint(drift=lambda v, x, t: 2 * v),
            "The Jacobian is that at the end of each step. Take it where the step starts.": (
                _adjoint(at=1)
            ),
            "The target has the wrong sign. The reward's gradient pulls up: add it.": _adjoint(
                factor=lambda t: -(1 - t) / t
            ),
            "The target adds σ² a. The drift is 2v − x/t, so the velocity takes half of that.": (
                _adjoint(factor=lambda t: 2 * (1 - t) / t)
            ),
            "The factor (1 − t)/t is missing in the target.": _adjoint(factor=torch.ones_like),
            "The factor is upside down. The noise is large near t = 0: (1 − t)/t.": _adjoint(
                factor=lambda t: t / (1 - t)
            ),
            "The adjoint in a target is that of the next state.": _adjoint(behind=1),
            "The targets stand from the last to the first. The first state comes first.": (
                _adjoint(order=1)
            ),
        },
        points=2,
    ),
)
