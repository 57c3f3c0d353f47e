"""What the right answers of the quizzes should be, computed: {name of a question: number}."""

import itertools
import math

import numpy as np
import torch

from fmtutorial.bridges import Bridge, gaussian_ends
from fmtutorial.conventions import from_diffusers, from_v_prediction
from fmtutorial.couplings import exact_ot, sinkhorn_log
from fmtutorial.diffusion import ddim
from fmtutorial.discrete import (
    ExactRate,
    all_states,
    guided_posterior,
    masking_path,
    step_matrix,
    uniform_path,
)
from fmtutorial.distributions import Gaussian, GaussianMixture
from fmtutorial.exact import ExactField
from fmtutorial.flow_maps import gaussian_flow_map
from fmtutorial.guidance import guided
from fmtutorial.images.bits import bits_per_dimension
from fmtutorial.images.cost import training_cost
from fmtutorial.images.sampling import evaluations
from fmtutorial.images.settings import Settings
from fmtutorial.likelihood import divergence, log_likelihood, transport
from fmtutorial.losses import likelihood_times
from fmtutorial.manifolds import GeodesicField, Sphere, Torus, geodesic
from fmtutorial.paths import COSINE, LINEAR, AffinePath
from fmtutorial.solvers import euler, heun, rk4, solve
from fmtutorial.steering import QuadraticReward, tilted
from fmtutorial.tables import Units, estimate, nearest_ratio

PATH = AffinePath(LINEAR)
TRUTHS = {}


def truth(function):
    """Register a function under the name of its question: a_b_c answers "a-b-c"."""
    TRUTHS[function.__name__.replace("_", "-")] = function
    return function


def column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def times(*values):
    return torch.tensor(values, dtype=torch.float64)


def grid(steps):
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64)


def normal(mean, variance):
    return Gaussian(torch.tensor([mean], dtype=torch.float64), variance)


def quantiles(n):
    """Return n points of N(0, 1) on the line, in order and of equal weight."""
    return torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)[:, None]


# 1. Flows

MATRIX = torch.tensor([[1.0, 4.0], [0.0, 2.0]], dtype=torch.float64)


def linear_field(x, t):
    return x @ MATRIX.T


@truth
def order_on_the_line():
    return 10 * torch.special.ndtr(times(1.0))


@truth
def trace_of_a_matrix():
    start = torch.ones(1, 2, dtype=torch.float64)
    return transport(linear_field, start, times(-4.0), grid(10))[1]


@truth
def variance_of_a_probe():
    probes = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=2)), dtype=torch.float64)
    x = torch.ones(4, 2, dtype=torch.float64)
    estimates = divergence(linear_field, x, times(*[0.0] * 4), "hutchinson", probes)
    return estimates.var(correction=0)


@truth
def noise_without_drift():
    steps, strength = 1000, 1.0
    return 1 + sum(2 * strength / steps for _ in range(steps))


# 2. Probability paths


@truth
def velocity_between_two_points():
    return ExactField(PATH, column(-1.0, 1.0))(column(0.5), times(0.5))


@truth
def what_cosine_preserves():
    score = ExactField(AffinePath(COSINE), normal(0.0, 4.0)).score(column(1.0), times(0.5))
    return -1 / score


@truth
def clean_value_from_a_score():
    """By sums over the clean values: any law of them whose score there is −3 will do."""
    clean = torch.linspace(-10, 10, 20_001, dtype=torch.float64)
    weights = torch.exp(-(clean**2) / (2 * 5 / 12) - (2 - clean) ** 2 / (2 * 0.25))
    mean = (weights * clean).sum() / weights.sum()
    score = (weights * (clean - 2) / 0.25).sum() / weights.sum()
    assert abs(score + 3) < 1e-6
    return mean


@truth
def small_error_near_noise():
    x, t = column(0.3), times(0.02)
    right, wrong = (PATH.convert(column(v), x, t, "noise", "data") for v in (0.5, 0.51))
    return abs(wrong - right)


# 3. Flow matching


@truth
def loss_above_its_floor():
    middles = (grid(20_000)[1:] + grid(20_000)[:-1]) / 2
    field = ExactField(PATH, normal(0.0, 4.0))
    floor = field.target_variance(torch.zeros(20_000, 1, dtype=torch.float64), middles)
    return 3.20 - floor.mean()


@truth
def start_in_the_average():
    share = torch.tensor(1.0)
    for _ in range(100):
        share = torch.lerp(torch.tensor(0.0), share, 0.99)
    return share


@truth
def times_near_the_data():
    return 1 / (1 + torch.exp(times(2.0)))  # the median of z, in the student's code


# 4. Optimal transport


@truth
def cost_of_a_pairing():
    x0, x1 = column(0.0, 1.0), column(1.0, 3.0)
    return (exact_ot(x0, x1) - x1).square().mean()


@truth
def all_coordinates_divided():
    x, y = column(0.3, 1.0, 2.5), column(0.0, 1.7, 2.0)
    plan = sinkhorn_log(torch.cdist(x, y) ** 2, 0.4, 500)
    (same,) = (
        rho
        for rho in (0.016, 0.08, 0.4, 2, 10)
        if torch.allclose(sinkhorn_log(torch.cdist(x / 5, y / 5) ** 2, rho, 500), plan)
    )
    return same


@truth
def batch_of_four():
    return sum(len(set(drawn)) / 4 for drawn in itertools.product(range(4), repeat=4)) / 4**4


# 5. Solvers


@truth
def heun_with_more_budget():
    """The order as measured; 120 evaluations are as many steps as `solve` can take with them."""
    error = {}
    for n in (20, 60):
        solution = solve(lambda x, t: x, column(1.0), grid(n), heun)
        error[solution.evaluations] = abs(solution.last.item() - math.e)
    return 0.040 / 3 ** round(math.log(error[40] / error[120], 3))


@truth
def stiff_decay():
    def end(n):
        return solve(lambda x, t: -50 * x, column(1.0), grid(n), euler).last.abs().item()

    return min(n for n in range(1, 60) if end(n) <= 1 + 1e-9)


@truth
def next_step_size():
    return 0.9 * 32 ** (-1 / 5)


@truth
def euler_in_another_clock():
    y, clock = 0.0, [0.0, 0.5, 1.0]
    for here, there in itertools.pairwise(clock):
        t = here**0.5
        y += (there - here) * (3 * t**2 / (2 * t) if t else 0.0)
    return y


# 6. ReFlow


@truth
def cost_after_one_round():
    x0 = column(-1.0, 1.0)  # variance 1; the flow is linear
    end = solve(ExactField(PATH, normal(0.0, 9.0)), x0, grid(200), rk4).last
    return (end - x0).square().mean()


@truth
def chord_of_a_decay():
    return solve(lambda x, t: -x, column(1.0), grid(50), rk4).last - 1


@truth
def a_mode_that_is_rare():
    """The other modes are one here. A later round follows the lines of the last one's pairs."""
    flow = ExactField(PATH, GaussianMixture(column(-2.0, 2.0), times(0.1, 0.1), times(0.04, 0.96)))
    for n in (1000, 900):
        noise = quantiles(n)
        ends = solve(flow, noise, grid(100), rk4).last

        def flow(x, t, noise=noise, ends=ends):
            lines = (1 - t[0]) * noise + t[0] * ends
            velocity = np.interp(x[:, 0], lines[:, 0], (ends - noise)[:, 0])
            return torch.as_tensor(velocity)[:, None]

    return 100 * (solve(flow, quantiles(800), grid(100), rk4).last < 0).double().mean()


@truth
def a_hasty_teacher():
    return solve(ExactField(PATH, normal(0.0, 4.0)), column(1.0), grid(2), euler).last


# 7. Diffusion


@truth
def noise_error_as_velocity():
    x, t, path = column(0.3), times(0.1), AffinePath(COSINE)
    right, wrong = (path.convert(column(v), x, t, "noise", "velocity") for v in (0.5, 0.52))
    return abs(wrong - right)


@truth
def one_noise_two_schedules():
    """Back to the noise with one schedule and forward with the other, for some data."""
    data, half = GaussianMixture(column(-1.0, 2.0), times(0.25, 0.09)), grid(200) / 2
    noise = solve(ExactField(PATH, data), column(0.3), half.flip(0), rk4).last
    return solve(ExactField(AffinePath(COSINE), data), noise, half, rk4).last


@truth
def maruyama_variance():
    variance, strength, h = 1.0, 4.0, 0.1
    for _ in range(200):
        variance = (1 - strength * h) ** 2 * variance + 2 * strength * h
    return variance


@truth
def log_uniform_times():
    left = 1 - likelihood_times(100_000, 0.001, torch.Generator().manual_seed(0))
    return 100 * ((left > 0.01) & (left < 0.1)).double().mean()


# 8. MNIST


@truth
def nats_to_bits():
    return bits_per_dimension(times(3000.0), (1, 28, 28))


@truth
def exaggerated_velocity():
    def network(x, t, label):
        return torch.full_like(x, 1.0 if label is None else 3.0)

    return guided(network, torch.zeros(1, dtype=torch.long), 1.5)(column(0.0), times(0.5))


@truth
def heun_and_guidance():
    return max(n for n in range(1, 50) if 2 * evaluations("heun", n) <= 50)


# 10. Few steps


@truth
def floor_of_meanflow():
    """The stretch of the map, squared, times the variance of the line's velocity."""
    data, x = normal(0.0, 9.0), column(0.2).requires_grad_()
    end = gaussian_flow_map(PATH, data)(x, times(0.0), times(1.0))
    (stretch,) = torch.autograd.grad(end.sum(), x)
    return stretch**2 * ExactField(PATH, data).target_variance(x.detach(), times(0.0))


@truth
def three_of_four_modes():
    return sum(q * math.log(q / 0.25) for q in (1 / 3, 1 / 3, 1 / 3))


@truth
def two_learned_jumps():
    def second(x):
        return 4 * x

    middle = 1.0
    return second(middle + 0.05) + 0.10 - second(middle)


# 11. Steering


@truth
def width_under_guidance():
    free, own = (ExactField(PATH, normal(0.0, variance)) for variance in (1.0, 0.25))

    def network(x, t, label):
        return (free if label is None else own)(x, t)

    field = guided(network, torch.zeros(1, dtype=torch.long), 3.0)
    return solve(field, column(1.0), grid(200), rk4).last


@truth
def tilt_of_a_gaussian():
    return tilted(normal(1.0, 4.0), QuadraticReward(torch.tensor([0.5]).double())).means


@truth
def guidance_that_stops_early():
    modes, variances = column(-3.0, 0.0, 2.0), times(0.25, 0.25, 0.25)
    free = ExactField(PATH, GaussianMixture(modes, variances, times(0.25, 0.25, 0.5)))
    own = ExactField(PATH, GaussianMixture(modes[:2], variances[:2]))
    noise = quantiles(4000)

    def kept(scale, first, last):
        label = torch.zeros(len(noise), dtype=torch.long)
        field = guided(
            lambda x, t, label: (free if label is None else own)(x, t), label, scale, (first, last)
        )
        return 100 * (solve(field, noise, grid(50), rk4).last > -1.5).double().mean()

    # what the question and its reasons say: always, after the half, scale 3
    found = [kept(2.0, 0.0, 1.0), kept(2.0, 0.5, 1.0), kept(3.0, 0.0, 1.0)]
    assert [round(share.item()) for share in found] == [21, 50, 4]
    return kept(2.0, 0.0, 0.5)


@truth
def noise_that_remembers():
    """By the recursion of many small steps for the correlation of start and present."""
    n, rho = 20_000, 1.0
    for i in range(n):
        t = (i + 0.5) / n
        rho *= 1 - 0.2 / (t**2 + (1 - t) ** 2) / n
    return 1 - rho**2


# 12. Discrete


@truth
def unmasked_by_then():
    posterior = torch.tensor([0.3, 0.7, 0.0], dtype=torch.float64).expand(1, 1, 3)
    masked = torch.full((1, 1), 2)
    law = masking_path(2).step(lambda x, t: posterior, masked, times(0.8), times(0.9))
    return 1 - law[0, 0, 2]


@truth
def two_equal_letters():
    """The law of four steps, as a row times four matrices of all nine states."""
    path, states = masking_path(2), all_states(3, 2)

    def posterior(x, t):
        letter = torch.where(x == path.mask, x.flip(1), x)  # its own, else the other one's
        sure = torch.nn.functional.one_hot(letter, 3).double()
        return torch.where((letter == path.mask)[..., None], times(0.5, 0.5, 0.0), sure)

    row = (states == path.mask).all(1).double()
    for t, end in itertools.pairwise(grid(4)):
        row = row @ step_matrix(path.step(posterior, states, t.expand(9), end.expand(9)))
    return row[states[:, 0] != states[:, 1]].sum()


@truth
def guided_token():
    free, own = (times(p, 1 - p).expand(1, 1, 2) for p in (0.25, 0.5))
    law = guided_posterior(lambda x, t: free, lambda x, t: own, 3.0)
    return law(torch.zeros(1, 1, dtype=torch.long), times(0.5))[0, 0, 0]


@truth
def trust_in_a_letter():
    exact = ExactRate(uniform_path(4), times(0.25, 0.25, 0.25, 0.25))
    return exact.posterior(torch.zeros(1, 1, dtype=torch.long), times(0.6))[0, 0, 0]


# 13. Bridges


@truth
def noise_of_a_bridge():
    """The square of what noise 1 adds."""
    zero, t = column(0.0), times(0.25)
    return Bridge(2.0).sample(zero, zero, t, column(1.0)).x_t ** 2


@truth
def pull_towards_the_goal():
    bridge, given = Bridge(0.7), (column(1.0), column(0.0), column(3.0), times(0.5))
    return bridge.conditional_velocity(*given) + 0.7**2 / 2 * bridge.conditional_score(*given)


@truth
def covariance_of_the_plan():
    ends = gaussian_ends(normal(0.0, 1.0), normal(0.0, 1.0), 1.5**0.5)
    return ends.covariance[0, 1]


@truth
def exact_pairs_with_noise():
    """Over pairs of many points, and for each of them over a push up and one down."""
    points = quantiles(500)
    points = points / points.std(correction=0)
    noise = exact_ot(points.roll(200, 0), points)
    half, push = torch.full((500,), 0.5, dtype=torch.float64), torch.ones_like(points)
    bridge = Bridge(1.5**0.5)
    middles = [bridge.sample(noise, points, half, sign * push).x_t for sign in (1, -1)]
    return torch.cat(middles).var(correction=0)


# 14. Curved spaces


@truth
def middle_of_a_chord():
    return torch.eye(3)[:2].mean(dim=0).norm()


@truth
def share_that_is_reached():
    """Equal slices of the height have equal areas (Archimedes)."""
    n, pole = 10_000, torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    z = 2 * (torch.arange(n, dtype=torch.float64) + 0.5) / n - 1
    points = torch.stack([(1 - z**2).sqrt(), 0 * z, z], dim=1)
    density = GeodesicField(Sphere(2), pole).log_prob(points, torch.full_like(z, 0.75))
    return density.isfinite().double().mean()


@truth
def nats_on_a_larger_globe():
    return -Sphere(2).log_volume - math.log(2**2)


@truth
def a_clock_at_night():
    hour = math.pi / 12
    given = Torus((1.0,)), column(-1 * hour), column(1 * hour), times(0.75)
    return geodesic(*given).x_t / hour


# 15. Your own


@truth
def two_scales():
    """By a law in the file's units, seen through each pair of scales: what its values add up to."""
    law = Gaussian(torch.zeros(2, dtype=torch.float64))
    row, found = torch.tensor([[0.3, -0.7]], dtype=torch.float64), []
    for scale, seen in ((times(0.2, 50.0), -2.0), (times(2.0, 250.0), 2.5)):
        units = Units(torch.zeros(2, dtype=torch.float64), scale)
        in_file = Gaussian(torch.zeros(2, dtype=torch.float64), torch.diag(scale**2))
        lost = law.log_prob(row) - in_file.log_prob(units.restore(row))
        found.append(seen - lost)
    return found[1] - found[0]


@truth
def rows_in_common():
    n, errors = 400, (0.10, 0.10)
    shared, own = torch.linalg.qr(
        torch.stack([torch.ones(n), torch.arange(n) % 2.0, torch.arange(n) // 2 % 2.0], 1).double()
    )[0].T[1:]  # no mean, and nothing in common
    second = 0.98 * shared + (1 - 0.98**2) ** 0.5 * own
    first, second = (
        mean + error * ((n - 1) * n) ** 0.5 * values
        for mean, error, values in zip((-4.00, -4.15), errors, (shared, second), strict=True)
    )
    assert abs(estimate(first).error - 0.10) < 1e-9 and abs(estimate(second).error - 0.10) < 1e-9
    value, error = estimate(first - second)
    return value / error


@truth
def every_row_twice():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4000, 2, dtype=torch.float64, generator=generator)
    lines = rows.repeat(2, 1)[torch.randperm(8000, generator=generator)]
    fresh = torch.randn(2000, 2, dtype=torch.float64, generator=generator)
    return nearest_ratio(fresh, lines[1600:], lines[:1600]).value


@truth
def one_pixel_more():
    small, large = (
        training_cost(Settings(width=32, levels=3, batch=1, image_shape=(3, side, side)))
        for side in (32, 33)
    )
    return large.flops_per_image / small.flops_per_image


# 16. Other people's models


@truth
def start_at_index_900():
    index = 900
    return COSINE.alpha(times(1 - (index + 1) / 1000))


@truth
def v_on_the_cosine():
    field = from_v_prediction(lambda x, t: torch.full_like(x, 2.0), AffinePath(COSINE))
    found = field(column(0.3, -1.0), times(0.2, 0.7))
    assert abs(found[0] - found[1]) < 1e-9  # wherever it is
    return found[0]


@truth
def clipped_step():
    """Where a step of DDIM would end from the state that the clipped data and the noise make up."""
    data, noise = (1.4 - 0.8 * 0.25) / 0.6, column(0.25)
    clean = column(max(-1.0, min(1.0, data)))
    start, end = (2 / math.pi * times(math.asin(alpha)) for alpha in (0.6, 0.8))
    path = AffinePath(COSINE)
    x = path.sample(noise, clean, start).x_t

    def field(x, t):
        return path.convert(noise, x, t, "noise", "velocity")

    return solve(field, x, torch.cat([start, end]), ddim(path)).last


@truth
def likelihood_along_sigma():
    def answer(x, k):
        return 2 * x

    end = column((2 * (3 - 0.5 * math.log(2 * math.pi))) ** 0.5)
    base = normal(0.0, 1.0)
    assert abs(base.log_prob(end) + 3) < 1e-9
    image = end * math.exp(-2)
    return log_likelihood(from_diffusers(answer), image, base, grid(100).flip(0))
