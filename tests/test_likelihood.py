"""Divergence against Jacobians and enumeration, likelihood against closed forms."""

import itertools
import math

import pytest
import scipy.linalg
import torch
from torch.distributions import MultivariateNormal

from fmtutorial.distributions import Gaussian, GaussianMixture
from fmtutorial.exact import ExactField
from fmtutorial.likelihood import divergence, log_likelihood, rademacher_like, transport
from fmtutorial.networks import MLP
from fmtutorial.paths import COSINE, LINEAR, AffinePath
from fmtutorial.solvers import euler, heun, midpoint, rk4

DOUBLE = torch.float64
BACK = torch.linspace(1, 0, 21, dtype=DOUBLE)


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=DOUBLE)


def curved_field(event):
    """sin(W x + t) of the flattened event: every entry depends on every other."""
    d = math.prod(event)
    matrix = normal(d, d, seed=1)

    def field(x, t):
        return torch.sin(x.reshape(len(x), d) @ matrix.T + t[:, None]).reshape(x.shape)

    return field, d


def test_exact_divergence_is_the_trace_of_the_jacobian(event):
    field, d = curved_field(event)
    x, t = normal(3, *event), torch.tensor([0.0, 0.4, 1.0], dtype=DOUBLE)
    result = divergence(field, x, t)
    assert result.shape == (3,)
    for b in range(3):
        jacobian = torch.autograd.functional.jacobian(
            lambda point, b=b: field(point[None], t[b : b + 1])[0], x[b]
        ).reshape(d, d)
        torch.testing.assert_close(result[b], jacobian.trace())


def test_divergence_of_a_linear_field_is_its_trace():
    matrix = normal(3, 3)
    result = divergence(lambda x, t: x @ matrix.T, normal(3, 3, seed=1), torch.zeros(3))
    torch.testing.assert_close(result, matrix.trace().expand(3))


def test_divergence_of_a_field_that_does_not_see_x_is_zero():
    weight = torch.ones(2, requires_grad=True)
    x, t = torch.zeros(3, 2), torch.zeros(3)
    for field in (lambda x, t: torch.ones(3, 2), lambda x, t: weight.expand(3, 2)):
        assert torch.equal(divergence(field, x, t), torch.zeros(3))
        assert torch.equal(
            divergence(field, x, t, "hutchinson", rademacher_like(x)), torch.zeros(3)
        )


def all_probes(d):
    return [torch.tensor(p, dtype=DOUBLE) for p in itertools.product([-1.0, 1.0], repeat=d)]


@pytest.mark.parametrize("event", [(), (2,), (3,), (1, 2, 2)], ids=str)
def test_hutchinson_over_every_probe(event):
    """The mean over all 2ᵈ sign vectors is the trace, the variance ½ Σ_{i≠j} (J_ij + J_ji)²."""
    field, d = curved_field(event)
    x, t = normal(3, *event), torch.tensor([0.0, 0.4, 1.0], dtype=DOUBLE)
    estimates = torch.stack(
        [
            divergence(field, x, t, "hutchinson", p.reshape(event).expand(x.shape))
            for p in all_probes(d)
        ]
    )
    torch.testing.assert_close(estimates.mean(dim=0), divergence(field, x, t))
    for b in range(3):
        jacobian = torch.autograd.functional.jacobian(
            lambda point, b=b: field(point[None], t[b : b + 1])[0], x[b]
        ).reshape(d, d)
        off = jacobian + jacobian.T
        off.fill_diagonal_(0)
        expected = 0.5 * (off**2).sum()
        torch.testing.assert_close(estimates[:, b].var(correction=0), expected)


def test_hutchinson_uses_each_sample_its_own_probe():
    """vᵀ J v for probes that are unit vectors picks the diagonal entry of J."""
    matrix = normal(3, 3)
    result = divergence(
        lambda x, t: x @ matrix.T,
        normal(3, 3, seed=1),
        torch.zeros(3),
        "hutchinson",
        torch.eye(3, dtype=DOUBLE),
    )
    torch.testing.assert_close(result, matrix.diagonal())


def test_rademacher_probes_are_fair_signs(generator):
    probe = rademacher_like(torch.zeros(100, 100, dtype=DOUBLE), generator)
    assert probe.dtype == DOUBLE and probe.shape == (100, 100)
    assert set(probe.unique().tolist()) == {-1.0, 1.0}
    assert abs(probe.mean().item()) < 4 / 100  # four standard errors of 10⁴ signs
    again = rademacher_like(probe, torch.Generator().manual_seed(0))
    assert torch.equal(probe, again)


def test_divergence_has_gradients_where_they_are_enabled():
    """d/dx of div sin(W x + t) by central differences: error h² = 1e-10, rounding 1e-16/h."""
    field, _ = curved_field((2,))
    x, t, h = normal(3, 2).requires_grad_(), torch.zeros(3, dtype=DOUBLE), 1e-5
    for options in ({}, {"method": "hutchinson", "probe": torch.ones(3, 2, dtype=DOUBLE)}):
        (gradient,) = torch.autograd.grad(divergence(field, x, t, **options).sum(), x)
        for i in range(2):
            step = h * torch.eye(2, dtype=DOUBLE)[i]
            up = divergence(field, x.detach() + step, t, **options)
            down = divergence(field, x.detach() - step, t, **options)
            torch.testing.assert_close(
                gradient[:, i], ((up - down) / (2 * h)).detach(), rtol=1e-6, atol=1e-6
            )


def test_divergence_without_gradients():
    field, _ = curved_field((2,))
    x, t = normal(3, 2).requires_grad_(), torch.zeros(3, dtype=DOUBLE)
    expected = divergence(field, x, t).detach()
    with torch.no_grad():
        result = divergence(field, x, t)
    assert not result.requires_grad
    torch.testing.assert_close(result, expected)
    assert x.grad is None


def gaussian(event):
    """A Gaussian with correlated entries, and the same by torch.distributions."""
    d = math.prod(event)
    factor = normal(d, d, seed=2)
    covariance = factor @ factor.T / d + 0.5 * torch.eye(d, dtype=DOUBLE)
    mean = normal(*event, seed=3) if event else normal(1, seed=3)[0]
    return Gaussian(mean, covariance), MultivariateNormal(mean.reshape(d), covariance)


@torch.no_grad()
@pytest.mark.parametrize("path", [AffinePath(LINEAR), AffinePath(COSINE)], ids=str)
def test_likelihood_of_a_gaussian_flow(event, path):
    """The exact field carries N(0, I) to the target: log p₁ is the target's.

    20 steps of order 4: h⁴ = 6e-6 times a constant below 1 for these mild targets.
    """
    target, peer = gaussian(event)
    x = target.sample(3, torch.Generator().manual_seed(0))
    base = Gaussian(torch.zeros(event, dtype=DOUBLE))
    result = log_likelihood(ExactField(path, target), x, base, BACK)
    assert result.shape == (3,)
    expected = peer.log_prob(x.reshape(3, -1))
    torch.testing.assert_close(result, expected, rtol=0, atol=6e-6)


@torch.no_grad()
def test_transport_forwards_carries_the_density(event):
    """From N(0, I) to the target, the other direction than log_likelihood's; same tolerance."""
    target, peer = gaussian(event)
    base = Gaussian(torch.zeros(event, dtype=DOUBLE))
    x0 = base.sample(3, torch.Generator().manual_seed(0))
    field = ExactField(AffinePath(LINEAR), target)
    x1, log_prob = transport(field, x0, base.log_prob(x0), BACK.flip(0))
    assert x1.shape == x0.shape and log_prob.shape == (3,)
    torch.testing.assert_close(log_prob, peer.log_prob(x1.reshape(3, -1)), rtol=0, atol=6e-6)
    back, undone = transport(field, x1, log_prob, BACK)
    torch.testing.assert_close(back, x0, rtol=0, atol=6e-6)
    torch.testing.assert_close(undone, base.log_prob(x0), rtol=0, atol=6e-6)


@pytest.mark.parametrize("step, order", [(euler, 1), (midpoint, 2), (heun, 2), (rk4, 4)])
def test_likelihood_of_a_linear_flow(step, order):
    """dx/dt = A x carries N(m, S) to N(eᴬ m, eᴬ S eᴬᵀ), and d log p/dt = −tr A.

    On a linear field a step back multiplies by the Taylor polynomial P of e^(−hA), so what the
    chosen solver must answer is known to rounding, and to within some |A|ᵖ⁺¹ hᵖ it is the truth.
    """
    matrix, mean, n = 0.5 * normal(3, 3), normal(3, seed=1), 100
    covariance = torch.tensor([1.0, 0.5, 2.0], dtype=DOUBLE).diag()
    base = Gaussian(mean, covariance)
    x, times = normal(3, 3, seed=2), torch.linspace(1, 0, n + 1, dtype=DOUBLE)
    result = log_likelihood(lambda x, t: x @ matrix.T, x, base, times, step=step)

    exponential = torch.from_numpy(scipy.linalg.expm(matrix.numpy()))
    truth = MultivariateNormal(exponential @ mean, exponential @ covariance @ exponential.T)
    torch.testing.assert_close(result, truth.log_prob(x), rtol=0, atol=20 * float(n) ** -order)

    powers = [torch.linalg.matrix_power(-matrix / n, k) for k in range(order + 1)]
    polynomial = sum(power / math.factorial(k) for k, power in enumerate(powers))
    noise = x @ torch.linalg.matrix_power(polynomial, n).T
    expected = MultivariateNormal(mean, covariance).log_prob(noise) - matrix.trace()
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-11)


def test_likelihood_under_a_mixture_as_base():
    """The zero field leaves the base as it is."""
    base = GaussianMixture(normal(2, 2), torch.ones(2, dtype=DOUBLE))
    x = normal(3, 2, seed=1)
    torch.testing.assert_close(log_likelihood(lambda x, t: 0 * x, x, base, BACK), base.log_prob(x))


def test_hutchinson_likelihood_is_right_on_average():
    """For a linear field log p₁ is linear in εᵀAε, so the mean over all probes is exact."""
    matrix = normal(2, 2)
    x, base = normal(3, 2, seed=1), Gaussian(torch.zeros(2, dtype=DOUBLE))

    def field(x, t):
        return x @ matrix.T

    estimates = [
        log_likelihood(field, x, base, BACK, method="hutchinson", probe=p.expand(3, 2))
        for p in all_probes(2)
    ]
    exact = log_likelihood(field, x, base, BACK)
    torch.testing.assert_close(sum(estimates) / 4, exact)
    # and one probe is off by the constant εᵀAε − tr A
    probe = all_probes(2)[0]
    off = probe @ matrix @ probe - matrix.trace()
    torch.testing.assert_close(estimates[0] - exact, -off.expand(3))


@pytest.mark.parametrize("method", ["exact", "hutchinson"])
def test_gradient_of_the_likelihood_in_the_parameters(method):
    """Maximum likelihood differentiates through solver and divergence: central differences."""
    torch.manual_seed(0)
    network = MLP(event_shape=(2,), width=8, depth=1).double()
    x, base = normal(3, 2), Gaussian(torch.zeros(2, dtype=DOUBLE))
    probe = torch.ones(3, 2, dtype=DOUBLE) if method == "hutchinson" else None

    def value():
        times = torch.linspace(1, 0, 5, dtype=DOUBLE)
        return log_likelihood(network, x, base, times, heun, method, probe).sum()

    parameters = list(network.parameters())
    gradients = torch.autograd.grad(value(), parameters)
    h = 1e-5
    for parameter, gradient in zip(parameters, gradients, strict=True):
        with torch.no_grad():
            flat = parameter.view(-1)
            flat[0] += h
            up = value()
            flat[0] -= 2 * h
            down = value()
            flat[0] += h
        expected = ((up - down) / (2 * h)).item()
        # h² = 1e-10 and rounding 1e-15/h
        assert gradient.view(-1)[0].item() == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_gradient_of_the_likelihood_in_x_is_the_score():
    target, peer = gaussian((2,))
    x = normal(3, 2).requires_grad_()
    base = Gaussian(torch.zeros(2, dtype=DOUBLE))
    value = log_likelihood(ExactField(AffinePath(LINEAR), target), x, base, BACK[::2])
    (gradient,) = torch.autograd.grad(value.sum(), x)
    (expected,) = torch.autograd.grad(peer.log_prob(x).sum(), x)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-3)  # h⁴ = 1e-4, and a slope


X, T, PROBE = torch.zeros(3, 3), torch.zeros(3), torch.ones(3, 3)
TIMES, BASE = torch.linspace(1, 0, 3), Gaussian(torch.zeros(3))


@pytest.mark.parametrize(
    "call",
    [
        lambda **o: divergence(lambda x, t: x, X, T, **o),
        lambda **o: transport(lambda x, t: x, X, T, TIMES, **o),
        lambda **o: log_likelihood(lambda x, t: x, X, BASE, TIMES, **o),
    ],
    ids=["divergence", "transport", "log_likelihood"],
)
@pytest.mark.parametrize(
    "options, match",
    [
        ({"method": "Exact"}, 'unknown method "Exact"; choose from exact, hutchinson'),
        ({"method": "hutchinson"}, "pass a probe of the shape of x"),
        ({"probe": PROBE}, "pass a probe .* and only then"),
        ({"method": "hutchinson", "probe": torch.ones(3)}, r"probe has shape \(3,\)"),
        ({"method": "hutchinson", "probe": torch.ones(1, 3)}, r"probe has shape \(1, 3\)"),
    ],
    ids=["unknown", "no probe", "stray probe", "flat probe", "short probe"],
)
def test_wrong_methods_and_probes_are_refused(call, options, match):
    with pytest.raises(ValueError, match=match):
        call(**options)


@pytest.mark.parametrize("method, probe", [("exact", None), ("hutchinson", PROBE)])
def test_a_field_of_another_shape_is_refused(method, probe):
    """(B,) and (B, D) with B = D."""
    with pytest.raises(ValueError, match=r"v has shape \(3,\)"):
        divergence(lambda x, t: x.sum(dim=1), X, T, method, probe)


@pytest.mark.parametrize("shape", [(), (1,), (3, 1), (4,)], ids=str)
def test_log_densities_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"log_prob has shape .*pass \(3,\)"):
        transport(lambda x, t: x, X, torch.zeros(shape), TIMES)


@pytest.mark.parametrize(
    "times",
    [torch.linspace(0, 1, 3), torch.ones(1), torch.ones(0), torch.tensor(1.0)],
    ids=["increasing", "one time", "none", "scalar"],
)
def test_likelihood_refuses_a_grid_that_does_not_decrease(times):
    with pytest.raises(ValueError, match="times"):
        log_likelihood(lambda x, t: x, X, BASE, times)


# Gradients switched off, by the caller or by the field.


OFF = [torch.no_grad, torch.inference_mode]
LINEAR_FIELD = torch.tensor([[-1.0, 2.0], [0.5, 0.3]])


def linear_field(x, t):
    return x @ LINEAR_FIELD.T


def values(field, x, times=TIMES):
    """Everything that differentiates a field, at states x of shape (3, 2)."""
    t, ones = x.new_full((3,), 0.5), torch.ones_like(x)
    base = Gaussian(torch.zeros(2))
    return [
        divergence(field, x, t),
        divergence(field, x, t, "hutchinson", ones),
        transport(field, x, x.new_zeros(3), times)[1],
        log_likelihood(field, x, base, times),
        log_likelihood(field, x, base, times, method="hutchinson", probe=ones),
    ]


@pytest.mark.parametrize("off", OFF)
@pytest.mark.parametrize("kind", ["linear", "network"])
def test_a_caller_without_gradients_gets_the_same_values(off, kind):
    torch.manual_seed(0)
    field = linear_field if kind == "linear" else MLP(width=8, depth=1)
    x = torch.randn(3, 2)
    expected = [value.detach() for value in values(field, x)]
    with off():
        found = values(field, x)
        made_there = values(field, x.clone(), TIMES.clone())  # tensors of inference mode
    for one, other, right in zip(found, made_there, expected, strict=True):
        assert not one.requires_grad
        assert torch.equal(one, right) and torch.equal(other, right)
    # made in inference mode, used outside
    assert all(map(torch.equal, values(field, x), expected))


@pytest.mark.parametrize("off", OFF)
@pytest.mark.parametrize("number", range(5))
def test_a_field_without_gradients_is_refused(off, number):
    frozen = off()(linear_field)
    with pytest.raises(ValueError, match="otherwise than its gradients say"):
        values_of(frozen, number)


def values_of(field, number):
    x, t, ones = torch.ones(3, 2), torch.full((3,), 0.5), torch.ones(3, 2)
    base = Gaussian(torch.zeros(2))
    return (
        lambda: divergence(field, x, t),
        lambda: divergence(field, x, t, "hutchinson", ones),
        lambda: transport(field, x, torch.zeros(3), TIMES),
        lambda: log_likelihood(field, x, base, TIMES),
        lambda: log_likelihood(field, x, base, TIMES, method="hutchinson", probe=ones),
    )[number]()


@pytest.mark.parametrize("hide", [torch.no_grad(), torch.inference_mode(), torch.Tensor.detach])
def test_a_field_of_which_a_part_has_no_gradients_is_refused(hide):
    """A likelihood looks once, at its start, where it is not trained by."""
    if hide is torch.Tensor.detach:
        field = lambda x, t: -x + linear_field(x.detach(), t)  # noqa: E731
    else:
        frozen = hide(linear_field)
        field = lambda x, t: -x + frozen(x, t)  # noqa: E731
    for number in (2, 3, 4):
        with torch.no_grad(), pytest.raises(ValueError, match="otherwise than its gradients say"):
            values_of(field, number)


def test_a_detached_network_is_refused():
    """Its parameters have gradients, and the state has none."""
    network = MLP(width=8, depth=1)
    with pytest.raises(ValueError, match="otherwise than its gradients say"):
        divergence(lambda x, t: network(x.detach(), t), torch.ones(3, 2), torch.zeros(3))


def test_a_network_made_in_inference_mode_is_refused():
    with torch.inference_mode():
        network = MLP(width=8, depth=1)
    with pytest.raises(ValueError, match="made under torch.inference_mode"):
        divergence(network, torch.ones(3, 2), torch.zeros(3))


@pytest.mark.parametrize("end", [0.9, 0.999])
def test_steep_and_kinked_fields_are_not_taken_for_frozen_ones(end):
    """Points of data near t = 1, and a network of straight pieces, in both precisions."""
    points = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    torch.manual_seed(0)
    pieces = torch.nn.Sequential(torch.nn.Linear(2, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2))
    for dtype in (torch.float32, DOUBLE):
        x = torch.cat([torch.zeros(1, 2), points[:1] + 1e-3, points[2:]]).to(dtype)
        exact = ExactField(AffinePath(LINEAR), points.to(dtype))
        many = torch.linspace(end, 0, 3, dtype=dtype)
        network = pieces.to(dtype)
        for field in (exact, lambda x, t, network=network: network(x)):
            with torch.no_grad():
                assert transport(field, x, x.new_zeros(3), many)[1].isfinite().all()


def test_a_field_without_divergence_is_not_taken_for_a_frozen_one():
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    with torch.no_grad():
        for value in values(lambda x, t: x @ turn, torch.randn(3, 2))[:3]:
            assert torch.equal(value, torch.zeros(3))
