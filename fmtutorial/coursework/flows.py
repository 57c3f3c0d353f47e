"""The exercises of chapter 1."""

import math

import torch
from torch import Tensor

from fmtutorial.coursework.exercises import Draw, Exercise
from fmtutorial.distributions import Gaussian, GaussianMixture
from fmtutorial.fields import VelocityField
from fmtutorial.likelihood import divergence


def affine_log_prob(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Log-density of x = exp(a) x₀ + b: a Gaussian with mean b and variance exp(2a)."""
    return GaussianMixture(b[None], (2 * a).exp()[None]).log_prob(x)


def exact_divergence(v: VelocityField, x: Tensor, t: Tensor) -> Tensor:
    """Trace of the Jacobian of each sample."""
    return divergence(v, x, t)


def hutchinson(v: VelocityField, x: Tensor, t: Tensor, probe: Tensor) -> Tensor:
    """Estimate the trace with one probe for each sample."""
    return divergence(v, x, t, "hutchinson", probe)


def _normal(noise: Tensor) -> Tensor:
    """Log-density of a standard normal vector."""
    return Gaussian(torch.zeros_like(noise[0])).log_prob(noise)


def _unmoved(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return _normal((x - b) * (-a).exp())


def _one_constant(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return affine_log_prob(x, a, b) + 0.5 * math.log(2 * math.pi) * (x[0].numel() - 1)


def _jacobian(v: VelocityField, x: Tensor, t: Tensor) -> Tensor:
    """Return the matrices ∂v_i/∂x_j, shape (B, D, D)."""
    x = x.detach().requires_grad_()
    flat = v(x, t).reshape(len(x), -1)
    rows = [torch.autograd.grad(one.sum(), x, retain_graph=True)[0] for one in flat.unbind(1)]
    return torch.stack([row.reshape(len(x), -1) for row in rows], dim=1)


def _last(v: VelocityField, x: Tensor, t: Tensor) -> Tensor:
    return _jacobian(v, x, t)[:, -1, -1]


def _left_only(v: VelocityField, x: Tensor, t: Tensor, probe: Tensor) -> Tensor:
    return torch.einsum("bi,bij->b", probe.reshape(len(x), -1), _jacobian(v, x, t))


def _right_only(v: VelocityField, x: Tensor, t: Tensor, probe: Tensor) -> Tensor:
    return torch.einsum("bij,bj->b", _jacobian(v, x, t), probe.reshape(len(x), -1))


def _quotient(v: VelocityField, x: Tensor, t: Tensor, probe: Tensor) -> Tensor:
    return hutchinson(v, x, t, probe) / probe.reshape(len(x), -1).square().sum(dim=1)


def _long_step(v: VelocityField, x: Tensor, t: Tensor, probe: Tensor) -> Tensor:
    change = v(x + probe, t) - v(x, t)
    return (probe * change).reshape(len(x), -1).sum(dim=1)


def _affine(draw: Draw) -> tuple:
    a = draw.uniform(0.3, 0.8)
    return draw.normal(), a if draw.integer(0, 1) else -a, 2 * draw.normal()[0]


EXERCISES = (
    Exercise(
        "flows.affine_log_prob",
        affine_log_prob,
        _affine,
        {
            "This is the log-density of the noise at x₀. The change of volume is missing.": (
                _unmoved
            ),
            "The change of volume has the wrong sign. Where the map stretches, the density "
            "falls.": lambda x, a, b: _unmoved(x, a, b) + a * x[0].numel(),
            "The change of volume is counted once. All D entries of an event are stretched.": (
                lambda x, a, b: _unmoved(x, a, b) - a
            ),
            "The constant of the normal density is counted once. Every one of the D entries of "
            "an event has its own.": _one_constant,
            "The constant of the normal density is missing: ½ log 2π for each of the D entries.": (
                lambda x, a, b: (
                    affine_log_prob(x, a, b) + 0.5 * math.log(2 * math.pi) * x[0].numel()
                )
            ),
            "The square is not halved. The exponent of the normal density is −½‖x₀‖².": (
                lambda x, a, b: (
                    2 * _unmoved(x, a, b)
                    + 0.5 * math.log(2 * math.pi) * x[0].numel()
                    - a * x[0].numel()
                )
            ),
            "The map is applied to x. x is its result: the noise x₀ comes from the inverse.": (
                lambda x, a, b: _normal(x * a.exp() + b) - a * x[0].numel()
            ),
            "The inverse has its two steps in the wrong order. First undo what was done last, "
            "the shift by b.": lambda x, a, b: _normal(x * (-a).exp() - b) - a * x[0].numel(),
        },
    ),
    Exercise(
        "flows.exact_divergence",
        exact_divergence,
        lambda draw: (draw.field(), draw.normal(), draw.times()),
        {
            "All entries of the Jacobian are added up. The divergence adds its diagonal: the "
            "derivative of v_i with respect to x_i, for each i on its own.": (
                lambda v, x, t: _jacobian(v, x, t).sum(dim=(1, 2))
            ),
            "Only the last entry of the diagonal is left. Add up all D of them.": _last,
            "The entries of the diagonal are averaged. Add them up.": (
                lambda v, x, t: exact_divergence(v, x, t) / x[0].numel()
            ),
            "This is the rate of change of the log-density. It is minus the divergence.": (
                lambda v, x, t: -exact_divergence(v, x, t)
            ),
            "The samples are added up as well. Each sample has its own divergence.": (
                lambda v, x, t: exact_divergence(v, x, t).sum()
            ),
        },
    ),
    Exercise(
        "flows.hutchinson",
        hutchinson,
        lambda draw: (draw.field(), draw.normal(), draw.times(), draw.normal()),
        {
            "The probe stands on the left of the Jacobian only. Multiply what the backward pass "
            "returns by the probe before you add up.": _left_only,
            "The probe stands on the right of the Jacobian only. The backward pass needs it too, "
            "as the weights of the entries of v.": _right_only,
            "The products are averaged over the entries of an event. Add them up.": (
                lambda v, x, t, probe: hutchinson(v, x, t, probe) / x[0].numel()
            ),
            "The result is divided by the squared length of the probe. The estimate is unbiased "
            "without that.": _quotient,
            "This is the difference of two velocities a whole probe apart. The Jacobian at x is "
            "wanted, by autograd.": _long_step,
            "This is the exact divergence. The estimate takes one backward pass, and its value "
            "depends on the probe.": lambda v, x, t, probe: exact_divergence(v, x, t),
        },
        points=2,
    ),
)
