"""The answers of the sheet "Bridges" against other truths, and other ways of writing them."""

import pytest
import torch

from fmtutorial.couplings import squared_distances
from fmtutorial.coursework import bridges
from fmtutorial.coursework.catalogue import EXERCISES
from fmtutorial.coursework.checking import judge, outcomes

SHAPES = [(), (2,), (3,), (1, 4, 4)]
SIGMA = torch.tensor(0.8, dtype=torch.float64)


def like(t, x):
    return t.reshape(len(x), *[1] * (x.ndim - 1))


def log_density(x, mean, variance):
    """Of a normal law with one variance, by torch, summed over the event."""
    values = torch.distributions.Normal(mean, variance**0.5).log_prob(x)
    return values.reshape(len(values), -1).sum(dim=1)


@pytest.fixture
def ends(request, generator):
    event = request.param
    x0, x1, noise = torch.randn(3, 3, *event, generator=generator, dtype=torch.float64)
    return x0, x1, noise, torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)


@pytest.mark.parametrize("ends", SHAPES, indirect=True)
def test_targets_are_derivatives_of_the_bridge(ends):
    x0, x1, noise, t = ends
    position = lambda t: bridges.bridge_targets(x0, x1, noise, t, SIGMA)[0]  # noqa: E731
    x, moved = torch.func.jvp(position, (t,), (torch.ones_like(t),))
    _, velocity, score = bridges.bridge_targets(x0, x1, noise, t, SIGMA)
    torch.testing.assert_close(velocity, moved)
    time, place = like(t, x), x.clone().requires_grad_()
    mean = time * x1 + (1 - time) * x0
    density = log_density(place, mean, SIGMA**2 * time * (1 - time))
    torch.testing.assert_close(score, torch.autograd.grad(density.sum(), place)[0])


@pytest.mark.parametrize("ends", SHAPES, indirect=True)
def test_targets_hold_the_drifts_of_a_pinned_brownian_motion(ends):
    """Forwards σ²∇ log of the density of Brownian motion to x1, backwards the same to x0."""
    x0, x1, noise, t = ends
    x, velocity, score = bridges.bridge_targets(x0, x1, noise, t, SIGMA)
    for end, left, sign in ((x1, 1 - t, 1), (x0, t, -1)):
        place = x.clone().requires_grad_()
        to_come = log_density(end, place, SIGMA**2 * like(left, x))
        drift = SIGMA**2 * torch.autograd.grad(to_come.sum(), place)[0]
        torch.testing.assert_close(sign * velocity + SIGMA**2 / 2 * score, drift)


@pytest.mark.parametrize("sigma", [0.5, 0.8, 1.5])
def test_gaussian_bridge_is_that_of_sinkhorn_with_twice_the_variance(sigma):
    """Two Gaussians on grids that are fine and wide enough for quadrature to be exact."""
    m0, a, m1, b = torch.tensor([-0.5, 0.6, 1.0, 0.9], dtype=torch.float64)
    place = torch.linspace(-6, 6, 121, dtype=torch.float64)
    x0, x1 = m0 + a * place, m1 + b * place
    log_kernel = -squared_distances(x0, x1) / (2 * sigma**2)
    weight = torch.exp(-(place**2) / 2)
    log_weight = (weight / weight.sum()).log()
    g = log_weight
    for _ in range(300):
        f = log_weight - torch.logsumexp(g + log_kernel, dim=1)
        g = log_weight - torch.logsumexp(f[:, None] + log_kernel, dim=0)
    plan = torch.exp(f[:, None] + g + log_kernel)
    t = torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64)
    number = torch.tensor(sigma, dtype=torch.float64)
    found = bridges.gaussian_bridge(m0, a, m1, b, number, t)
    for time, mean, variance in zip(t, *found, strict=True):
        between = (1 - time) * x0[:, None] + time * x1
        expected = (plan * between).sum()
        spread = (plan * (between - expected) ** 2).sum() + sigma**2 * time * (1 - time)
        # the grid ends at six standard deviations
        torch.testing.assert_close(torch.stack([mean, variance]), torch.stack([expected, spread]),
                                   rtol=0, atol=1e-7)  # fmt: skip


@pytest.mark.parametrize("event", SHAPES)
def test_gaussian_bridge_begins_and_ends_as_it_should(event, generator):
    m0, m1 = torch.randn(2, *event, generator=generator, dtype=torch.float64)
    a, b = 0.3 + torch.rand(2, *event, generator=generator, dtype=torch.float64)
    t = torch.tensor([1e-9, 1 - 1e-9], dtype=torch.float64)
    found = bridges.gaussian_bridge(m0, a, m1, b, SIGMA, t)
    expected = torch.stack([torch.stack([m0, m1]), torch.stack([a**2, b**2])])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


@pytest.fixture
def points(request, generator):
    event = request.param
    like = {"generator": generator, "dtype": torch.float64}
    x, x0, x1 = (torch.randn(n, *event, **like) for n in (3, 4, 5))
    plan = torch.rand(4, 5, **like)
    return x, torch.tensor([0.2, 0.5, 0.9]).double(), x0, x1, plan / plan.sum()


@pytest.mark.parametrize("points", SHAPES, indirect=True)
def test_drift_pulls_to_where_the_future_is_likelier(points):
    """Each start makes a process that Doob's transform gives; the starts are mixed at x."""
    x, t, x0, x1, plan = points
    drifts, likely = [], []
    for i, begin in enumerate(x0):
        place = x.clone().requires_grad_()
        future = [
            plan[i, j].log()
            + log_density(end, place, SIGMA**2 * like(1 - t, x))
            - log_density(end[None], begin[None], SIGMA**2)
            for j, end in enumerate(x1)
        ]
        future = torch.stack(future).logsumexp(dim=0)
        drifts.append(SIGMA**2 * torch.autograd.grad(future.sum(), place)[0])
        likely.append(future.detach() + log_density(x, begin, SIGMA**2 * like(t, x)))
    weights = torch.stack(likely).softmax(dim=0)
    expected = torch.stack([like(w, x) * d for w, d in zip(weights, drifts, strict=True)]).sum(0)
    forward, backward = bridges.plan_drifts(x, t, x0, x1, plan, SIGMA)
    torch.testing.assert_close(forward, expected)
    # the film backwards is the mixture with its ends exchanged
    mirrored = bridges.plan_drifts(x, 1 - t, x1, x0, plan.T, SIGMA)
    torch.testing.assert_close(-backward, mirrored[0])


@pytest.mark.parametrize("points", SHAPES, indirect=True)
def test_drifts_of_one_pair_are_those_of_its_bridge(points):
    x, t, x0, x1, _ = points
    found = bridges.plan_drifts(x, t, x0[:1], x1[:1], torch.ones(1, 1).double(), SIGMA)
    torch.testing.assert_close(found[0], (x1[:1] - x) / (1 - like(t, x)))
    torch.testing.assert_close(found[1], (x - x0[:1]) / like(t, x))


# Other ways of writing the same, as students will.


def from_the_state(x0, x1, noise, t, sigma):
    time = like(t, x0)
    mean, variance = x0 + time * (x1 - x0), sigma**2 * time * (1 - time)
    x = mean + variance.sqrt() * noise
    velocity = (1 - 2 * time) / (2 * time * (1 - time)) * (x - mean) + x1 - x0
    return torch.stack([x, velocity, -(x - mean) / variance])


def from_the_drifts(x0, x1, noise, t, sigma):
    time = like(t, x0)
    x = (1 - time) * x0 + time * x1 + sigma * (time - time**2) ** 0.5 * noise
    forward, backward = (x1 - x) / (1 - time), (x - x0) / time
    return torch.stack([x, (forward + backward) / 2, (forward - backward) / sigma**2])


def by_autograd(x0, x1, noise, t, sigma):
    def position(t):
        time = like(t, x0)
        return x0 * (1 - time) + x1 * time + sigma * torch.sqrt(time * (1 - time)) * noise

    x, velocity = torch.func.jvp(position, (t,), (torch.ones_like(t),))
    return torch.cat(
        [x[None], velocity[None], -(noise / sigma / like(t * (1 - t), x0) ** 0.5)[None]]
    )


def by_the_middle(mean0, std0, mean1, std1, sigma, t):
    """Variance as a parabola through its ends and the middle."""
    ends = 2 * (std0 * std1) ** 2 / (sigma**2 + torch.sqrt(sigma**4 + 4 * (std0 * std1) ** 2))
    middle = (std0**2 + std1**2 + 2 * ends + sigma**2) / 4
    rows = []
    for s in t:
        parabola = (1 - s) * (1 - 2 * s) * std0**2 + s * (2 * s - 1) * std1**2
        rows.append(torch.stack([mean0.lerp(mean1, s), parabola + 4 * s * (1 - s) * middle]))
    return torch.stack(rows, dim=1)


def one_by_one(mean0, std0, mean1, std1, sigma, t):
    c = ((4 * std0**2 * std1**2 + sigma**4) ** 0.5 - sigma**2) / 2
    means = [(1 - s) * mean0 + s * mean1 for s in t]
    variances = [
        (1 - s) ** 2 * std0**2 + s**2 * std1**2 + 2 * s * (1 - s) * c + sigma**2 * s * (1 - s)
        for s in t
    ]
    return torch.stack([torch.stack(means), torch.stack(variances)])


def pair_by_pair(x, t, x0, x1, plan, sigma):
    time = like(t, x)
    logs, drifts = [], []
    for i in range(len(x0)):
        for j in range(len(x1)):
            miss = x - (1 - time) * x0[i] - time * x1[j]
            square = (miss**2).reshape(len(x), -1).sum(1)
            logs.append(torch.log(plan[i, j]) - square / (2 * sigma**2 * t * (1 - t)))
            drifts.append(torch.stack([(x1[j] - x) / (1 - time), (x - x0[i]) / time]))
    logs = torch.stack(logs)
    weights = torch.exp(logs - logs.max(dim=0).values)
    weights = weights / weights.sum(dim=0)
    return sum(like(w, x) * d for w, d in zip(weights, drifts, strict=True))


def by_density(x, t, x0, x1, plan, sigma):
    flat, begin, end = x.reshape(len(x), -1), x0.reshape(len(x0), -1), x1.reshape(len(x1), -1)
    rows = []
    for place, s in zip(flat, t, strict=True):
        means = ((1 - s) * begin[:, None] + s * end[None]).reshape(-1, flat.shape[1])
        law = torch.distributions.Normal(means, sigma * (s * (1 - s)).sqrt())
        log = plan.reshape(-1).log() + law.log_prob(place).sum(dim=1)
        weights = torch.softmax(log, dim=0)
        aim, origin = end.repeat(len(begin), 1), begin.repeat_interleave(len(end), dim=0)
        rows.append(
            torch.stack([(weights @ aim - place) / (1 - s), (place - weights @ origin) / s])
        )
    return torch.stack(rows, dim=1).reshape(2, *x.shape)


def by_the_expanded_square(x, t, x0, x1, plan, sigma):
    """The square expanded, as chapter 4 does it."""
    a, b, c = (y.reshape(len(y), -1) for y in (x, x0, x1))
    s = t[:, None, None]
    means = (1 - s[..., None]) * b[None, :, None] + s[..., None] * c[None, None]
    square = (a**2).sum(1)[:, None, None] - 2 * torch.einsum("bd,bnmd->bnm", a, means)
    square = square + (means**2).sum(-1)
    log = plan.log()[None] - square / (2 * sigma**2 * s * (1 - s))
    weights = torch.exp(log - torch.logsumexp(log, dim=(1, 2), keepdim=True))
    forward = torch.einsum("bnm,bnmd->bd", weights, (c - a[:, None, None]) / (1 - s[..., None]))
    variance = sigma**2 * s * (1 - s)
    score = torch.einsum("bnm,bnmd->bd", weights / variance, means - a[:, None, None])
    backward = forward - sigma**2 * score
    return torch.stack([forward, backward]).reshape(2, *x.shape)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("bridge_targets", from_the_state),
        ("bridge_targets", from_the_drifts),
        ("bridge_targets", by_autograd),
        ("gaussian_bridge", by_the_middle),
        ("gaussian_bridge", one_by_one),
        ("plan_drifts", pair_by_pair),
        ("plan_drifts", by_density),
        ("plan_drifts", by_the_expanded_square),
    ],
)
def test_other_ways_of_writing_it_are_right(name, function):
    exercise = EXERCISES[f"bridges.{name}"]
    for seed in range(20):
        verdict = judge(exercise, outcomes(exercise, function, seed), seed)
        assert verdict.status == "right", verdict.text


def test_mistakes_are_named_in_other_words_too():
    def forward(x0, x1, noise, t, sigma):
        x, _, score = from_the_state(x0, x1, noise, t, sigma)
        return torch.stack([x, (x1 - x) / (1 - like(t, x)), score])

    def without_logarithms(x, t, x0, x1, plan, sigma):
        time, first, last, mass = like(t, x), 0, 0, 0
        for i in range(len(x0)):
            for j in range(len(x1)):
                miss = (x - (1 - time) * x0[i] - time * x1[j]).reshape(len(x), -1)
                weight = plan[i, j] * torch.exp(-(miss**2).sum(1) / (2 * sigma**2 * t * (1 - t)))
                weight = like(weight, x)
                first, last, mass = first + weight * x0[i], last + weight * x1[j], mass + weight
        return torch.stack([(last / mass - x) / (1 - time), (x - first / mass) / time])

    for name, function, hint in (
        ("bridge_targets", forward, "This is the forward drift"),
        ("plan_drifts", without_logarithms, "Take the softmax of their logarithms"),
    ):
        exercise = EXERCISES[f"bridges.{name}"]
        assert hint in judge(exercise, outcomes(exercise, function, 0), 0).text
