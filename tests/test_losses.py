"""The loss by hand and by finite differences, the times against SciPy's distributions."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch

from fmtutorial.losses import (
    flow_matching_loss,
    likelihood_times,
    logit_normal_times,
    mean_squared_norm,
    uniform_times,
)
from fmtutorial.paths import LINEAR, AffinePath

DOUBLE = torch.float64
PATH = AffinePath(LINEAR)


def test_mean_squared_norm_by_hand():
    """1 + 4 and 9 + 0: the mean of 5 and 9. A batch of B = D is no other case."""
    d = torch.tensor([[1.0, -2.0], [3.0, 0.0]])
    assert mean_squared_norm(d).item() == 7.0 and mean_squared_norm(d).shape == ()
    assert mean_squared_norm(d.reshape(2, 1, 2, 1)).item() == 7.0
    assert mean_squared_norm(torch.tensor([1.0, -2.0, 3.0])).item() == pytest.approx(14 / 3)


@pytest.mark.parametrize("shape", [(0,), (0, 2)])
def test_an_empty_batch_has_no_mean(shape):
    empty = torch.zeros(shape)
    with pytest.raises(ValueError, match="an empty batch has no mean"):
        mean_squared_norm(empty)
    with pytest.raises(ValueError, match="an empty batch has no mean"):
        flow_matching_loss(lambda x, t: x, PATH, empty, empty, torch.zeros(0))


def test_loss_worked_out_by_hand():
    """x_t = (1, 0) and (1, 1.5); u = (2, 0) and (0, 2); v = x + t.

    The squared distances are 0.25 + 0.25 and 1.5625 + 0.0625, their mean 1.0625.
    """
    x0, x1 = torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([[2.0, 0.0], [1.0, 3.0]])
    loss = flow_matching_loss(lambda x, t: x + t[:, None], PATH, x0, x1, torch.tensor([0.5, 0.25]))
    assert loss.item() == 1.0625 and loss.shape == ()


def test_loss_sums_over_an_event_and_averages_over_the_batch(event):
    """‖0 − (x₁ − x₀)‖² with entries 1, 2 and 3: (1 + 4 + 9)/3 for each of D entries."""
    x1 = torch.stack([torch.full(event, float(b)) for b in (1, 2, 3)])
    zeros = torch.zeros_like(x1)
    loss = flow_matching_loss(lambda x, t: 0 * x, PATH, zeros, x1, torch.rand(3))
    assert loss.item() == pytest.approx(math.prod(event) * 14 / 3, rel=1e-6)


def test_loss_vanishes_on_the_conditional_velocity(schedule, event, generator):
    """The field is given x_t and t of the same sample."""
    x0, x1 = (torch.randn(3, *event, generator=generator, dtype=DOUBLE) for _ in range(2))
    t, path = torch.tensor([0.1, 0.5, 0.9], dtype=DOUBLE), AffinePath(schedule)
    loss = flow_matching_loss(lambda x, t: path.conditional_velocity(x, x1, t), path, x0, x1, t)
    assert loss.item() < 1e-20  # squares of roundings


def test_gradient_of_the_loss_by_finite_differences(event, generator):
    """The loss is a quadratic of w, for which central differences are exact up to rounding."""
    x0, x1 = (torch.randn(3, *event, generator=generator, dtype=DOUBLE) for _ in range(2))
    t = torch.tensor([0.1, 0.5, 0.9], dtype=DOUBLE)

    def loss(w):
        return flow_matching_loss(lambda x, t: w * x, PATH, x0, x1, t)

    w = torch.tensor(0.3, dtype=DOUBLE, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(w), w)
    expected = (loss(w + 0.5) - loss(w - 0.5)).item()
    assert gradient.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "field", [lambda x, t: t, lambda x, t: x[:, :1], lambda x, t: x.flatten()], ids=range(3)
)
def test_a_field_of_another_shape_is_refused(field):
    """(B,) against (B, D) with B = D, which would broadcast."""
    x = torch.zeros(3, 3)
    with pytest.raises(ValueError, match="v has shape .* and target has shape"):
        flow_matching_loss(field, PATH, x, x, torch.full((3,), 0.5))


def test_unequal_noise_and_data_are_refused():
    with pytest.raises(ValueError, match=r"x0 has shape \(1, 2\) and x1 has shape \(3, 2\)"):
        flow_matching_loss(
            lambda x, t: x, PATH, torch.zeros(1, 2), torch.zeros(3, 2), torch.zeros(1)
        )


def test_uniform_times(generator):
    t = uniform_times(5000, generator)
    assert t.shape == (5000,) and bool(((0 <= t) & (t < 1)).all())
    assert scipy.stats.kstest(t, "uniform").pvalue > 0.001


@pytest.mark.parametrize("mean, std", [(0.0, 1.0), (1.0, 0.5), (-0.5, 1.75)])
def test_logit_normal_times(mean, std, generator):
    """log(t / (1 − t)) is N(mean, std²), and its quantiles carry over."""
    t = logit_normal_times(5000, mean, std, generator)
    assert t.shape == (5000,) and bool(((0 < t) & (t < 1)).all())
    u = scipy.stats.logistic.ppf(t.double().numpy())
    assert scipy.stats.kstest(u, scipy.stats.norm(mean, std).cdf).pvalue > 0.001
    for q in (0.1, 0.5, 0.9):
        law = scipy.stats.norm(mean, std)
        expected = scipy.stats.logistic.cdf(law.ppf(q))
        # four standard errors of a quantile, √(q(1 − q)/n)/p(t_q), p by differences
        width = scipy.stats.logistic.cdf(law.ppf(q + 0.01)) - scipy.stats.logistic.cdf(
            law.ppf(q - 0.01)
        )
        error = 4 * math.sqrt(q * (1 - q) / 5000) * width / 0.02
        assert np.quantile(t, q) == pytest.approx(expected, abs=error)


def test_logit_normal_is_standard_by_default():
    again = [torch.Generator().manual_seed(0) for _ in range(2)]
    assert torch.equal(
        logit_normal_times(9, generator=again[0]), logit_normal_times(9, 0.0, 1.0, again[1])
    )


@pytest.mark.parametrize(
    "draw",
    [
        uniform_times,
        lambda n, g: logit_normal_times(n, generator=g),
        lambda n, g: likelihood_times(n, generator=g),
    ],
)
def test_times_follow_the_generator(draw):
    state = torch.get_rng_state()
    first, again, other = (draw(20, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan")])
def test_logit_normal_refuses_a_standard_deviation_that_is_not_positive(std):
    with pytest.raises(ValueError, match=r"std is .*in \(0, ∞\)"):
        logit_normal_times(3, std=std)


@pytest.mark.parametrize("mean", [-200.0, -20.0, 20.0, 200.0])
def test_logit_normal_times_never_reach_an_end(mean):
    """Where the sigmoid itself rounds to 0 or 1, at which some fields are not defined."""
    t = logit_normal_times(100, mean)
    assert bool(((0 < t) & (t < 1)).all())


@pytest.mark.parametrize("closest", [0.002, 0.05, 0.9])
def test_likelihood_times_are_log_uniform_from_the_data(closest, generator):
    """The distance to the data, 1 − t, against SciPy's law, and no time closer than allowed."""
    t = likelihood_times(5000, closest, generator)
    assert t.shape == (5000,) and bool(((0 <= t) & (1 - t > closest * (1 - 1e-4))).all())
    law = scipy.stats.loguniform(closest, 1)
    assert scipy.stats.kstest((1 - t).double(), law.cdf).pvalue > 0.001


def test_likelihood_times_reach_the_default_distance(generator):
    """The least of 100 000 is above 0.002 by an Exp(1) of 1e5/log(500): below 1.002 · 0.002."""
    t = likelihood_times(100_000, generator=generator).double()
    assert 0.002 * (1 - 1e-4) < (1 - t).min().item() < 0.002 * 1.002


def quadratic_loss(w, t):
    """E (w x_t − x₁ + x₀)² for x₁ ~ N(0.5, 0.25) and x₀ ~ N(0, 1), by hand."""
    return ((w * t - 1) * 0.5) ** 2 + 0.25 * (w * t - 1) ** 2 + (w * (1 - t) + 1) ** 2


@pytest.mark.parametrize("of", ["loss", "gradient"])
def test_loss_on_likelihood_times_is_the_bound_and_the_uniform_loss(of, generator):
    """log(1/closest) times it = ∫ (t/(1 − t) + 1) E‖v − u‖² dt, within four standard errors."""
    n, closest, slope = 200_000, 0.01, 0.3
    x0 = torch.randn(n, generator=generator, dtype=DOUBLE)
    x1 = 0.5 + 0.5 * torch.randn(n, generator=generator, dtype=DOUBLE)
    t = likelihood_times(n, closest, generator).double()
    w = torch.tensor(slope, dtype=DOUBLE, requires_grad=True)
    each = torch.full((n,), slope, dtype=DOUBLE, requires_grad=True)  # a copy of w for each row
    loss = flow_matching_loss(lambda x, t: w * x, PATH, x0, x1, t)
    rows = flow_matching_loss(lambda x, t: each * x, PATH, x0, x1, t)
    if of == "loss":
        found = loss.item()
        spread = (slope * (t * x1 + (1 - t) * x0) - (x1 - x0)).square().std().item()
        wanted = quadratic_loss
    else:
        found = torch.autograd.grad(loss, w)[0].item()
        spread = n * torch.autograd.grad(rows, each)[0].std().item()
        wanted = lambda w, t: quadratic_loss(w + 0.5, t) - quadratic_loss(w - 0.5, t)  # noqa: E731
    expected, _ = scipy.integrate.quad(
        lambda t: (t / (1 - t) + 1) * wanted(slope, t), 0, 1 - closest
    )
    total = math.log(1 / closest)
    assert total * found == pytest.approx(expected, abs=4 * total * spread / math.sqrt(n))


@pytest.mark.parametrize("closest", [0.0, 1.0, -0.1, float("nan")])
def test_likelihood_times_refuse_a_distance_outside_the_interval(closest):
    with pytest.raises(ValueError, match=r"closest is .*in \(0, 1\)"):
        likelihood_times(3, closest)
