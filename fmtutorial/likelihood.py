"""The divergence of a field, and the log-likelihood of the flow it drives. Chapter 1."""

import torch
from torch import Generator, Tensor

from fmtutorial.distributions import Gaussian, GaussianMixture
from fmtutorial.fields import (
    VelocityField,
    check_callable,
    check_kind,
    check_same_shape,
    check_state,
    expand_time,
    flatten,
    generator_device,
    gradients,
    outside_inference,
)
from fmtutorial.solvers import Step, check_grid, rk4, solve

METHODS = ("exact", "hutchinson")


def rademacher_like(x: Tensor, generator: Generator | None = None) -> Tensor:
    """Draw entries ±1 with equal probability, in the shape, type and device of x.

    Of all probes with independent entries of mean 0 and variance 1 these give Hutchinson's
    estimate the least variance. The generator lives on x's device.

    Source: Hutchinson 1990.
    """
    check_state(x)
    generator_device(generator)  # refuses a seed
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

    Differentiable with respect to x and the field's parameters where gradients are enabled. Where
    the caller has switched them off, by ``torch.no_grad()`` or ``torch.inference_mode()``, the
    values are the same.

    Args:
        field: v(x, t), each sample of the output depending on that sample of the input only.
        x: states, shape (B, *event).
        t: times, shape (B,), in the field's interval.
        method: "exact" or "hutchinson".
        probe: ε, shape of x, for "hutchinson" only; see ``rademacher_like``.

    Returns:
        Shape (B,), in units of 1/time.

    Raises:
        ValueError: an unknown method, a missing or misplaced probe, or a field that switches its
            own gradients off, so that its divergence would be 0.

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
    check_callable(field, "field")
    training = torch.is_grad_enabled()
    with gradients():
        x, t, probe = (outside_inference(value) for value in (x, t, probe))
        x = x if training and x.requires_grad else x.detach().requires_grad_()
        v = _velocity(field, x, t)
        if not v.requires_grad:
            result = x.new_zeros(len(x))
        elif method == "hutchinson":
            result = _hutchinson(v, x, probe, training)
        else:
            flat, ones = flatten(v), x.new_ones(len(x))
            result = sum(  # not unbind(), whose backward pass would build all columns each time
                flatten(_pullback(flat[:, i], x, ones, training))[:, i]
                for i in range(flat.shape[1])
            )
    if len(x) and not bool(result.any()):
        _check_gradients(field, x, t)
    return (v, result) if training else (v.detach(), result.detach())


def _velocity(field: VelocityField, x: Tensor, t: Tensor) -> Tensor:
    try:
        v = field(x, t)
    except RuntimeError as error:
        if "nference tensor" not in str(error):
            raise
        raise ValueError(
            "the field holds tensors made under torch.inference_mode(), and no gradient passes "
            "them: make the field outside it"
        ) from error
    check_same_shape(v, x, "v, x")
    return v


def _hutchinson(v: Tensor, x: Tensor, probe: Tensor, create_graph: bool) -> Tensor:
    check_same_shape(probe, x, "probe, x")
    return flatten(_pullback(v, x, probe, create_graph) * probe).sum(dim=1)


def _check_gradients(field: VelocityField, x: Tensor, t: Tensor) -> None:
    """Raise if the field changes with most states of x otherwise than its gradients say.

    For a vector ε of signs, εᵀ (∂v/∂x) ε by gradients is held against central differences of two
    lengths. Where these disagree with each other, because the field is steep or has a kink, they
    say nothing.
    """
    signs = torch.randint(2, x.shape, generator=torch.Generator().manual_seed(0), device="cpu")
    with gradients():
        x, t = outside_inference(x).detach().requires_grad_(), outside_inference(t)
        probe = signs.to(x) * 2 - 1
        v = _velocity(field, x, t)
        said = _hutchinson(v, x, probe, False) if v.requires_grad else x.new_zeros(len(x))
    with torch.no_grad():
        # where rounding, eps / h, and truncation, h², cost about the same
        short = torch.finfo(x.dtype).eps ** (1 / 3) * (1 + x.abs().max().item())
        long_change, change = (
            flatten((field(x + h * probe, t) - field(x - h * probe, t)) * probe).sum(dim=1)
            / (2 * h)
            for h in (2 * short, short)
        )
        off, doubt = (change - said).abs(), (long_change - change).abs()
        wrong = (off > 0.1 * change.abs()) & (off > 10 * doubt)
    if bool(2 * wrong.sum() > len(x)):
        raise ValueError(
            "the field changes with x otherwise than its gradients say: a part of it runs under "
            "torch.no_grad(), torch.inference_mode() or detach(). Take that away; the caller may "
            "still switch gradients off around the whole call"
        )


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

    Integrates d/dt (x, log p) = (v, −div v) as one system with one solver. To train by the
    result, leave gradients on; to look at it, call it under ``torch.no_grad()``, which takes half
    the time and a memory that does not grow with the number of steps.

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
        ValueError: a grid that is not monotone, an unknown method, or a field that
            switches its own gradients off. If only a part does, it is found under ``no_grad``,
            where the gradients at the start are held against differences.

    Source: Chen et al. 2018, Theorem 1. Chapter 1.
    """
    check_state(x)
    if not isinstance(log_prob, Tensor) or log_prob.shape != x.shape[:1]:
        shape = tuple(log_prob.shape) if isinstance(log_prob, Tensor) else type(log_prob).__name__
        raise ValueError(f"log_prob has shape {shape}; pass ({len(x)},), a density for each state")
    check_state(log_prob, "log_prob")
    check_grid(times)
    if len(x) and not torch.is_grad_enabled():  # training by it would pay for this at every step
        _check_gradients(field, x, times[:1].to(x).expand(len(x)))
    shape = x.shape

    def joint(state: Tensor, t: Tensor) -> Tensor:
        position = state[:, :-1].reshape(shape)
        v, rate = _velocity_and_divergence(field, position, t, method, probe)
        return torch.cat([flatten(v), -rate[:, None]], dim=1)

    start = torch.cat([flatten(x), log_prob[:, None]], dim=1)
    end = solve(joint, start, times, step, last_only=True).last
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
        ValueError: the grid increases, or what ``transport`` refuses.

    Source: Grathwohl et al. 2019, Eq. 4. Chapter 1.
    """
    check_state(x)
    check_kind(base, Gaussian | GaussianMixture, "base")
    if bool(check_grid(times)[0] < times[-1]):
        raise ValueError("times must decrease, from the data to the base: torch.linspace(1, 0, n)")
    noise, gained = transport(field, x, x.new_zeros(len(x)), times, step, method, probe)
    return base.log_prob(noise) - gained
