"""The divergence of a field, and the log-likelihood of the flow it drives. Chapter 1."""

import torch
from torch import Generator, Tensor

from fmtutorial.distributions import Gaussian, GaussianMixture
from fmtutorial.fields import VelocityField, check_same_shape, check_state, expand_time
from fmtutorial.solvers import Step, check_grid, rk4, solve

METHODS = ("exact", "hutchinson")


def rademacher_like(x: Tensor, generator: Generator | None = None) -> Tensor:
    """Draw entries ±1 with equal probability, in the shape, type and device of x.

    Of all probes with independent entries of mean 0 and variance 1 these give Hutchinson's
    estimate the least variance. The generator lives on x's device.

    Source: Hutchinson 1990.
    """
    return torch.randint(0, 2, x.shape, generator=generator, device=x.device).to(x) * 2 - 1


def divergence(
    field: VelocityField,
    x: Tensor,
    t: Tensor,
    method: str = "exact",
    probe: Tensor | None = None,
) -> Tensor:
    """Return div v(x, t) = Σ_i ∂v_i/∂x_i for each sample, by automatic differentiation.

    "exact" takes one backward pass for each of the D entries of an event. "hutchinson" takes one
    in all and returns εᵀ (∂v/∂x) ε, which is unbiased for any probe ε with mean 0 and covariance
    I. Its variance for entries ±1 is ½ Σ_{i≠j} (J_ij + J_ji)².

    Differentiable with respect to x and the field's parameters where gradients are enabled.

    Args:
        field: v(x, t), each sample of the output depending on that sample of the input only.
        x: states, shape (B, *event).
        t: times, shape (B,), in the field's interval.
        method: "exact" or "hutchinson".
        probe: ε, shape of x, for "hutchinson" only; see ``rademacher_like``.

    Returns:
        Shape (B,), in units of 1/time.

    Raises:
        TypeError: x or t is not a floating-point tensor.
        ValueError: an unknown method, a missing or misplaced probe, or wrong shapes.

    Source: Grathwohl et al. 2019, Sec. 3.1. Chapter 1.
    """
    return _velocity_and_divergence(field, x, t, method, probe)[1]


def _velocity_and_divergence(
    field: VelocityField, x: Tensor, t: Tensor, method: str, probe: Tensor | None
) -> tuple[Tensor, Tensor]:
    if method not in METHODS:
        raise ValueError(f'unknown method "{method}"; choose from {", ".join(METHODS)}')
    if (method == "hutchinson") != (probe is not None):
        raise ValueError('pass a probe of the shape of x with method="hutchinson", and only then')
    check_state(x)
    expand_time(t, x)
    training = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if training and x.requires_grad else x.detach().requires_grad_()
        v = field(x, t)
        check_same_shape(v, x, "v, x")
        if not v.requires_grad:  # a field that does not depend on x
            return v, x.new_zeros(len(x))
        if probe is not None:
            check_same_shape(probe, x, "probe, x")
            result = (_pullback(v, x, probe, training) * probe).reshape(len(x), -1).sum(dim=1)
        else:
            flat, ones = v.reshape(len(x), -1), x.new_ones(len(x))
            result = sum(  # not unbind(), whose backward pass would build all columns each time
                _pullback(flat[:, i], x, ones, training).reshape(len(x), -1)[:, i]
                for i in range(flat.shape[1])
            )
    return (v, result) if training else (v.detach(), result.detach())


def _pullback(v: Tensor, x: Tensor, weights: Tensor, create_graph: bool) -> Tensor:
    """Gradient of Σ weights · v with respect to x, row by row of the batch."""
    gradient = torch.autograd.grad(
        v, x, weights, create_graph=create_graph, retain_graph=True, materialize_grads=True
    )
    return gradient[0]


def transport(
    field: VelocityField,
    x: Tensor,
    log_prob: Tensor,
    times: Tensor,
    step: Step = rk4,
    method: str = "exact",
    probe: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Carry states and their log-densities along the flow, in either direction.

    Integrates d/dt (x, log p) = (v, −div v) as one system with one solver.

    Args:
        field: v(x, t).
        x: states at times[0], shape (B, *event).
        log_prob: log-density of those states at times[0], shape (B,).
        times: shape (T,); a decreasing grid goes backwards.
        step: a step of ``fmtutorial.solvers``.
        method: see ``divergence``.
        probe: one ε for the whole way: a new one at each evaluation would make the right-hand
            side a different function at every stage of a step.

    Returns:
        The states at times[-1] and their log-densities there.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: wrong shapes, grid or method.
        FloatingPointError: a state is not finite; the message names the step.

    Source: Chen et al. 2018, Theorem 1. Chapter 1.
    """
    check_state(x)
    if log_prob.shape != x.shape[:1]:
        raise ValueError(f"log_prob has shape {tuple(log_prob.shape)}; pass ({len(x)},)")
    shape = x.shape

    def joint(state: Tensor, t: Tensor) -> Tensor:
        position = state[:, :-1].reshape(shape)
        v, rate = _velocity_and_divergence(field, position, t, method, probe)
        return torch.cat([v.reshape(len(state), -1), -rate[:, None]], dim=1)

    start = torch.cat([x.reshape(len(x), -1), log_prob[:, None]], dim=1)
    end = solve(joint, start, times, step).last
    return end[:, :-1].reshape(shape), end[:, -1]


def log_likelihood(
    field: VelocityField,
    x: Tensor,
    base: Gaussian | GaussianMixture,
    times: Tensor,
    step: Step = rk4,
    method: str = "exact",
    probe: Tensor | None = None,
) -> Tensor:
    """Return log p_1(x) of the flow that starts in ``base``, in nats.

    Runs x back to noise and adds up the divergence on the way:
    log p_1(x₁) = log p_0(x₀) − ∫ div v(x_t, t) dt.

    Args:
        field: v(x, t).
        x: data, shape (B, *event).
        base: distribution at the end of the grid.
        times: shape (T,), decreasing from the time of the data to that of the base, usually
            torch.linspace(1, 0, steps + 1).
        step: a step of ``fmtutorial.solvers``.
        method: see ``divergence``.
        probe: see ``transport``.

    Returns:
        Shape (B,). Biased only by the solver with "exact"; with "hutchinson" also random, with
        the right mean.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: the grid increases, or wrong shapes or method.

    Source: Grathwohl et al. 2019, Eq. 4. Chapter 1.
    """
    if bool(check_grid(times)[0] < times[-1]):
        raise ValueError("times must decrease, from the data to the base: torch.linspace(1, 0, n)")
    noise, gained = transport(field, x, x.new_zeros(len(x)), times, step, method, probe)
    return base.log_prob(noise) - gained
