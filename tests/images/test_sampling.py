"""Samplers by name against flows in closed form, and digits of a network that is one."""

import math

import pytest
import torch

from fmtutorial.distributions import Gaussian, GaussianMixture
from fmtutorial.exact import ExactField
from fmtutorial.images.data import to_pixels
from fmtutorial.images.sampling import (
    SAMPLERS,
    check_guidance,
    evaluations,
    generate,
    image_field,
    images_of,
    noise_generators,
    sample,
    sample_digits,
)
from fmtutorial.paths import LINEAR, AffinePath
from fmtutorial.solvers import heun, solve, solve_adaptive

DOUBLE = torch.float64
PATH = AffinePath(LINEAR)
EVENT = (1, 4, 4)


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=DOUBLE)


MEAN, SD = normal(*EVENT, seed=1), 0.3
GAUSSIAN = ExactField(PATH, Gaussian(MEAN, SD**2))
MIXTURE = ExactField(
    PATH, GaussianMixture(normal(3, *EVENT, seed=2), torch.tensor([0.2, 0.5, 0.3], dtype=DOUBLE))
)


def gaussian_map(x0):
    """The flow to N(m, s²) keeps each point's distance from the mean, in standard deviations."""
    return MEAN + SD * x0


def mixture_map(x0):
    return solve_adaptive(MIXTURE, x0, 0.0, 1.0, 1e-9, 1e-9).last


# Order, and steps where it shows: before rounding of the grid, which is in float32, and after what
# DPM-Solver's first and last steps of lower order add.
ORDERS = {"euler": (1, 40), "midpoint": (2, 40), "heun": (2, 40), "rk4": (4, 20), "dpm": (2, 160)}


@pytest.mark.parametrize("method", ORDERS)
def test_samplers_converge_to_the_flow_with_their_order(method):
    """Twice the steps, 2^order times less error, in the sixth digit of a finer solution."""
    x0, (order, n) = normal(5, *EVENT), ORDERS[method]
    exact = mixture_map(x0)
    coarse, fine = (
        (sample(MIXTURE, x0, method, steps).last - exact).abs().max().item() for steps in (n, 2 * n)
    )
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("method", ORDERS)
def test_samplers_reach_the_flow_to_a_gaussian(method):
    """The first order leaves s/160 times a number near 1, as its slope says; others much less."""
    x0 = normal(5, *EVENT)
    off = (sample(GAUSSIAN, x0, method, 160).last - gaussian_map(x0)).abs().max()
    assert 1e-12 < off < (0.02 if method == "euler" else 2e-3)


@pytest.mark.parametrize("field, truth", [(GAUSSIAN, gaussian_map), (MIXTURE, mixture_map)])
def test_adaptive_keeps_its_tolerance(field, truth):
    """1e-4 a step; thirty times that if each of some six steps was off by as much and it grew."""
    x0 = normal(5, *EVENT)
    solution = sample(field, x0, "adaptive", steps=1)
    assert 1e-7 < (solution.last - truth(x0)).abs().max() < 3e-3
    assert (solution.times[0], solution.times[-1]) == (0, 1)
    assert 2 < len(solution.times) < 20


@pytest.mark.parametrize("method, level", [("ddpm", 1.0), ("sde", 1.0), ("sde", 0.3)])
def test_stochastic_samplers_have_the_targets_moments(method, level):
    """Mean and standard deviation within four errors and a bias of a few times 1/steps."""
    x0 = normal(1500, *EVENT)
    last = sample(GAUSSIAN, x0, method, 300, level, torch.Generator().manual_seed(1)).last
    n = last.numel()
    standard = (last - MEAN) / SD
    assert abs(standard.mean()) < 4 / math.sqrt(n)
    assert standard.std().item() == pytest.approx(1, abs=4 / math.sqrt(2 * n) + 7 / 300)


def test_ddpm_undoes_the_forward_process():
    """x_s given x_t, s < t, is N((α_s/α_t) x_t, …), so corr(x_s, x_t) = (α_s σ_t)/(α_t σ_s).

    Seen on a single data point, whose states have the deviation σ at every time; DDIM, without
    noise, would have correlation 1.
    """
    point = ExactField(PATH, MEAN[None])
    states = sample(
        point, normal(2000, *EVENT), "ddpm", 5, generator=torch.Generator().manual_seed(1)
    ).states
    error = 4 / math.sqrt(states[0].numel())
    scaled = [((x - 0.2 * k * MEAN) / (1 - 0.2 * k)).flatten() for k, x in enumerate(states[:5])]
    for x in scaled:
        assert x.std().item() == pytest.approx(1, abs=error)
    for (s, a), (t, b) in ((p, q) for p in enumerate(scaled) for q in enumerate(scaled) if p < q):
        expected = s * (5 - t) / (t * (5 - s))
        correlation = torch.corrcoef(torch.stack([a, b]))[0, 1].item()
        assert correlation == pytest.approx(expected, abs=error)
    torch.testing.assert_close(states[-1], MEAN.expand_as(states[-1]))


@pytest.mark.parametrize("level", [0.5, 2.0])
def test_noise_level_is_the_quadratic_variation(level):
    """Σ (Δx)² over a path tends to ∫ w² (1 − t)² dt = w²/3 per entry; the drift adds O(1/steps)."""
    states = sample(
        GAUSSIAN, normal(20, *EVENT), "sde", 1000, level, torch.Generator().manual_seed(1)
    ).states
    variation = states.diff(dim=0).square().sum(dim=0).mean().item()
    assert variation == pytest.approx(level**2 / 3, rel=0.05)


def test_sde_without_noise_is_eulers_method():
    x0 = normal(3, *EVENT)
    generator = torch.Generator()
    ours = sample(MIXTURE, x0, "sde", 10, 0.0, generator).states
    assert torch.equal(ours, sample(MIXTURE, x0, "euler", 10).states)


def counting(field):
    calls = []

    def counted(x, t):
        calls.append(t)
        return field(x, t)

    return counted, calls


@pytest.mark.parametrize("method", SAMPLERS)
def test_evaluations_are_those_the_solver_and_the_field_count(method):
    field, calls = counting(GAUSSIAN)
    solution = sample(field, normal(3, *EVENT), method, 6)
    assert solution.evaluations == len(calls)
    if method != "adaptive":
        assert solution.evaluations == evaluations(method, 6)
        assert solution.states.shape == (7, 3, *EVENT)
        wanted = torch.linspace(0, 1, 7, dtype=DOUBLE)
        if method == "renoise":
            wanted = torch.tensor([0, 0.75, 0.8, 0.85, 0.9, 0.95, 1], dtype=DOUBLE)
        torch.testing.assert_close(solution.times, wanted, rtol=0, atol=1e-7)  # of a float32 grid


def test_an_adaptive_sampler_has_no_number_of_evaluations():
    for method in ("adaptive", "ode45", None):
        with pytest.raises(ValueError, match=f'no grid for the sampler "{method}"; choose from'):
            evaluations(method, 6)


TIMES = {
    "midpoint": [0, 0.25, 0.5, 0.75],
    "heun": [0, 0.5, 0.5],
    "rk4": [0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1],
    **{name: [0, 0.5] for name in ("euler", "dpm", "ddpm", "sde")},
    "renoise": [0, 0.75],
}


@pytest.mark.parametrize("method", TIMES)
def test_two_steps_evaluate_where_the_method_says(method):
    field, calls = counting(GAUSSIAN)
    sample(field, normal(3, *EVENT), method, 2)
    assert [t.tolist() for t in calls] == [[t] * 3 for t in TIMES[method]]


def test_defaults_are_heun_with_25_steps():
    x0 = normal(3, *EVENT)
    assert torch.equal(sample(MIXTURE, x0).states, sample(MIXTURE, x0, "heun", 25).states)
    assert torch.equal(
        sample(MIXTURE, x0, "sde", 5, generator=torch.Generator().manual_seed(1)).states,
        sample(MIXTURE, x0, "sde", 5, 1.0, torch.Generator().manual_seed(1)).states,
    )


@pytest.mark.parametrize("method", SAMPLERS)
def test_the_last_state_alone_is_the_last_of_all(method):
    x0 = normal(3, *EVENT)
    every, last = (
        sample(MIXTURE, x0, method, 6, 1.0, torch.Generator().manual_seed(1), only)
        for only in (False, True)
    )
    assert len(last.states) == 1 < len(every.states)
    assert torch.equal(last.last, every.last)
    assert last.evaluations == every.evaluations


@pytest.mark.parametrize("method", ["ddpm", "renoise", "sde"])
def test_fresh_noise_comes_from_the_generator(method):
    x0, state = normal(3, *EVENT), torch.get_rng_state()
    a, b, c = (
        sample(GAUSSIAN, x0, method, 5, generator=torch.Generator().manual_seed(s)).states
        for s in (1, 1, 2)
    )
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("steps", [1, 3, 7, 49, 1000])
def test_heun_takes_its_last_step_by_euler(steps):
    """On every grid, also where 1/steps is not a binary fraction; before that it is Heun's."""
    x0, times = normal(2, *EVENT), torch.linspace(0, 1, steps + 1)
    states = sample(MIXTURE, x0, "heun", steps).states
    if steps > 1:
        assert torch.equal(states[:-1], solve(MIXTURE, x0, times[:-1], heun).states)
    assert torch.equal(states[-1], solve(MIXTURE, states[-2], times[-2:]).last)
    single = sample(MIXTURE, x0.float(), "heun", steps)
    assert single.evaluations == 2 * steps - 1 == evaluations("heun", steps)


def test_an_unknown_sampler_is_refused():
    with pytest.raises(ValueError, match=f'unknown sampler "ode45"; choose from {SAMPLERS[0]}, '):
        sample(GAUSSIAN, normal(3, *EVENT), "ode45")


@pytest.mark.parametrize(
    "options, error",
    [
        ({"steps": 0}, ValueError),
        ({"steps": -1}, ValueError),
        ({"steps": 2.0}, TypeError),
        ({"noise_level": -1.0}, ValueError),
        ({"noise_level": math.nan}, ValueError),
        ({"generator": 3}, TypeError),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["heun", "sde", "adaptive"])
def test_numbers_without_a_meaning_are_refused(options, error, method):
    with pytest.raises(error, match=next(iter(options))):
        sample(GAUSSIAN, normal(3, *EVENT), method, **options)


# Digits. The network is the field of N(m, s²) in every pixel, m by the label; s leaves all of
# [−1, 1) within five standard deviations of m.

SPREAD = 0.15


def level_of(label):
    return (label - 4.5) / 20


def pixel_network(x, t, label):
    """v = m + ((t s² − (1 − t))/(t² s² + (1 − t)²)) (x − t m); "no label" has m = −0.1."""
    mean = torch.full_like(t, -0.1) if label is None else level_of(label)
    rate = (t * SPREAD**2 - (1 - t)) / (t**2 * SPREAD**2 + (1 - t) ** 2)
    mean, rate, t = (value[:, None, None, None] for value in (mean, rate, t))
    return mean + rate * (x - t * mean)


def grey(mean, x0):
    """The pixels at the end of the exact flow from x0."""
    return ((mean[:, None, None] + SPREAD * x0 + 1) * 128).floor().clamp(0, 255)


def noise_of(seed, n):
    return torch.randn(n, 1, 28, 28, generator=torch.Generator().manual_seed(seed)).squeeze(1)


LABELS = torch.arange(30) % 10


def draw(method="rk4", steps=40, labels=LABELS, **options):
    return torch.cat(list(sample_digits(pixel_network, labels, method, steps, **options)))


def test_digits_are_where_the_flow_takes_the_noise_of_their_seed():
    """Within a grey level, where the value is near the next one; and their label decides."""
    images = draw(seed=3)
    assert images.dtype == torch.uint8 and images.shape == (30, 28, 28)
    expected = grey(level_of(LABELS), noise_of(3, 30))
    assert (images.float() - expected).abs().max() <= 1
    assert (images.float() != expected).float().mean() < 0.01


def test_generated_states_begin_with_the_noise_of_start():
    """And end as the digits of ``sample_digits``, whatever the sampler draws later."""
    for method in ("heun", "sde"):
        start, later = noise_generators(3, torch.device("cpu"))
        options = (LABELS, method, 5, 1.5, 0.7, start, later, torch.float32)
        made = generate(pixel_network, *options)
        assert torch.equal(made.states[0].squeeze(1), noise_of(3, 30))
        digits = draw(method, 5, scale=1.5, noise_level=0.7, seed=3)
        assert torch.equal(to_pixels(made.last), digits)
        again = generate(pixel_network, *options)
        assert not torch.equal(again.states[0], made.states[0])


def test_guidance_moves_the_mean():
    """v is linear in m, so that guidance gives the field of m₀ + s (m − m₀), m₀ = −0.1."""
    for scale in (0.0, 0.5, 2.0):
        mean = -0.1 + scale * (level_of(LABELS) + 0.1)
        off = draw(seed=3, scale=scale).float() - grey(mean, noise_of(3, 30))
        assert off.abs().max() <= 1


def test_same_seed_same_digits():
    for method in ("heun", "ddpm", "sde"):
        a, b, c = (draw(method, 5, seed=s) for s in (1, 1, 2))
        assert torch.equal(a, b)
        assert (a != c).float().mean() > 0.5


@pytest.mark.parametrize("seed", [-1, 2**31, 2**32])
def test_a_seed_that_means_another_is_refused(seed):
    """The CPU's generator reads 32 bits, and later noise takes the upper half of them."""
    with pytest.raises(ValueError, match=f"seed is {seed}"):
        next(sample_digits(pixel_network, LABELS, seed=seed))
    assert torch.equal(draw("heun", 1, seed=2**31 - 1), draw("heun", 1, seed=2**31 - 1))


@pytest.mark.parametrize("labels", [LABELS + 2, LABELS - 1, LABELS[:, None], LABELS.float()])
def test_labels_that_no_network_has_are_refused(labels):
    with pytest.raises((TypeError, ValueError), match="labels "):
        next(sample_digits(pixel_network, labels))


def test_no_labels_give_no_digits():
    assert sum(map(len, sample_digits(pixel_network, LABELS[:0], steps=2))) == 0


def test_generators_of_others_are_left_alone():
    state = torch.get_rng_state()
    draw("sde", 3)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("method", ["euler", "heun", "dpm", "adaptive"])
def test_batches_do_not_change_digits(method):
    """Up to a grey level where a last bit decides; the adaptive steps are those of a batch."""
    whole = draw(method, 10)
    sizes = [len(part) for part in sample_digits(pixel_network, LABELS, method, 10, batch=7)]
    assert sizes == [7, 7, 7, 7, 2]
    for batch in (7, 29, 30):
        off = (draw(method, 10, batch=batch).float() - whole.float()).abs()
        assert off.max() <= 1 and off.mean() < 0.01


@pytest.mark.parametrize("method", ["ddpm", "renoise", "sde"])
def test_every_draw_of_a_stochastic_sampler_is_fresh(method):
    """Starts and noise of two batches: no pair is correlated, within five standard errors.

    The field is x (sde) or −x (the others), which makes the drift known at t = 0, where α = 0,
    σ = 1: the score is −x₀, and the data prediction x₀ + v is 0.
    """
    found = []

    def known(x, t, label):
        found.append((t[0].item(), x.clone()))
        return x if method == "sde" else -x

    labels = torch.zeros(80, dtype=torch.int64)
    list(sample_digits(known, labels, method, 4, noise_level=2.0, seed=1, batch=40))
    draws = []
    for (t, x), (_, after) in zip(found, found[1:], strict=False):
        if t == 0:
            h = 0.25
            # w √h ξ, or σ' ξ
            fresh = after - (x + h * x - h * 2**2 / 2 * x) if method == "sde" else after
            size = {"sde": 2 * math.sqrt(h), "ddpm": 1 - h, "renoise": 0.25}[method]
            draws += [x.flatten(), fresh.flatten() / size]
    assert len(draws) == 4
    correlations = torch.corrcoef(torch.stack(draws)) - torch.eye(4)
    assert correlations.abs().max() < 5 / math.sqrt(len(draws[0]))
    deviations = torch.stack(draws).std(dim=1)
    torch.testing.assert_close(deviations, torch.ones(4), rtol=0, atol=5 / math.sqrt(2 * 31360))


class Other:
    """The network of pixels, of other images."""

    def __init__(self, shape, labels):
        self.image_shape, self.labels, self.seen = shape, labels, []

    def __call__(self, x, t, label):
        self.seen.append(label)
        return pixel_network(x, t, label)


@pytest.mark.parametrize("shape", [(3, 4, 6), (1, 5, 7), (2, 6, 4)], ids=str)
@pytest.mark.parametrize("classes", [0, 3])
def test_images_are_those_of_the_network(shape, classes):
    network = Other(shape, classes)
    assert images_of(network) == (shape, classes)
    labels = torch.arange(8) % max(1, classes)
    images = torch.cat(list(sample_digits(network, labels, "rk4", 40, seed=3, batch=5)))
    assert images.shape == (8, *(shape if shape[0] > 1 else shape[1:]))
    noise = torch.Generator().manual_seed(3)
    x0 = torch.cat([torch.randn(n, *shape, generator=noise) for n in (5, 3)])
    mean = level_of(labels) if classes else torch.full((8,), -0.1)
    expected = ((mean[:, None, None, None] + SPREAD * x0 + 1) * 128).floor().clamp(0, 255)
    assert (images.reshape(expected.shape).float() - expected).abs().max() <= 1
    assert all((label is None) == (classes == 0) for label in network.seen)
    with pytest.raises(ValueError, match=f"they are 0 to {classes}"):
        next(sample_digits(network, labels + classes + 1))


def test_guidance_needs_classes():
    check_guidance(Other((1, 4, 4), 0), 1.0)
    check_guidance(Other((1, 4, 4), 2), 3.0)
    with pytest.raises(ValueError, match=r"guidance of scale 3.0 needs classes"):
        check_guidance(Other((1, 4, 4), 0), 3.0)


def test_no_gradients_are_kept():
    weight = torch.ones((), requires_grad=True)

    def network(x, t, label):
        out = weight * pixel_network(x, t, label)
        assert not out.requires_grad
        return out

    next(sample_digits(network, LABELS, steps=2))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_states_stay_in_float32(precision):
    """A network of one matrix product, which autocast runs in bfloat16: 8 bits, but not fewer."""
    matrix, seen = torch.randn(784, 784, generator=torch.Generator().manual_seed(0)) / 28, []

    def network(x, t, label):
        seen.append((x.dtype, torch.is_autocast_enabled("cpu")))
        out = x.flatten(1) @ matrix
        assert out.dtype == precision
        return out.reshape(x.shape)

    field = image_field(network, LABELS, 1.0, precision)
    x0 = noise_of(0, 30)[:, None]
    solution = sample(field, x0, "heun", 3)
    assert solution.states.dtype == torch.float32
    assert seen == [(torch.float32, precision != torch.float32)] * 5
    exact = (x0.flatten(1).double() @ matrix.double()).reshape(x0.shape)
    velocity = field(x0, torch.zeros(30))
    assert velocity.dtype == torch.float32  # a solver's sums of two would lose digits
    off = (velocity - exact).abs().max().item()
    assert off < 1e-4 if precision == torch.float32 else 1e-4 < off < 0.05
    images = next(sample_digits(network, LABELS, steps=3, precision=precision))
    assert images.dtype == torch.uint8 and seen[-1] == (torch.float32, precision != torch.float32)
