"""The answers of the sheet "Steering" against other truths, and other ways of writing them."""

import pytest
import torch

from fmtutorial.coursework import editing, steering
from fmtutorial.coursework.catalogue import EXERCISES
from fmtutorial.coursework.checking import judge, outcomes
from fmtutorial.distributions import GaussianMixture
from fmtutorial.steering import QuadraticReward, tilted

SEEDS = range(10)
TILT = EXERCISES["steering.tilted_mixture"]
ADJOINT = EXERCISES["steering.adjoint_target"]
GIVEN = EXERCISES["editing.velocity_given_first"]


def parts(rows):
    return rows[:, 1:-1], rows[:, -1], rows[:, 0]


@pytest.mark.parametrize("case", [0, 1, 3])
def test_density_of_the_tilted_mixture_is_that_of_the_data_times_the_reward(case, generator):
    """At any two points their ratio is e^r, and the new weights sum to 1."""
    weights, means, variances, b, k = TILT.arguments(3)[case]
    new = GaussianMixture(*parts(steering.tilted_mixture(weights, means, variances, b, k)))
    old = GaussianMixture(means, variances, weights)
    x = new.sample(20, generator)
    reward = x @ b - k * x.square().sum(dim=1) / 2
    lacks = new.log_prob(x) - old.log_prob(x) - reward
    # the constant is the logarithm of the mean of e^r: differences alone are compared, of
    # numbers of some hundred
    torch.testing.assert_close(lacks, lacks[:1].expand(20), rtol=0, atol=1e-9)


def test_tilted_mixture_by_quadrature():
    w, m, v = (torch.tensor(a, dtype=torch.float64) for a in ([0.3, 0.7], [-1.0, 1.5], [0.2, 0.6]))
    b, k = torch.tensor([1.3], dtype=torch.float64), torch.tensor(-0.4, dtype=torch.float64)
    x = torch.linspace(-12, 18, 6001, dtype=torch.float64)
    log = GaussianMixture(m[:, None], v, w).log_prob(x[:, None]) + b * x - k * x**2 / 2
    density = log.exp() / log.exp().sum()
    new, spreads, shares = parts(steering.tilted_mixture(w, m[:, None], v, b, k))
    mean = (density * x).sum()
    # the trapezium rule of a function that is smooth and vanishes at both ends
    torch.testing.assert_close(shares @ new[:, 0], mean)
    square = shares @ (spreads + new[:, 0] ** 2)
    torch.testing.assert_close(square, (density * x**2).sum())


def through_the_chain(velocity, gradient, states, times):
    """Gradients of the end for every state, with the noise of each step held fixed."""
    drift = lambda x, t: 2 * velocity(x, t.expand(len(x))) - x / t  # noqa: E731
    steps, out = times.diff(), []
    for i, t in enumerate(times[:-1]):
        x = first = states[i].clone().requires_grad_()
        for j in range(i, len(steps)):
            noise = states[j + 1] - states[j] - steps[j] * drift(states[j], times[j])
            x = x + steps[j] * drift(x, times[j]) + noise
        adjoint = torch.autograd.grad(x, first, gradient(states[-1]))[0]
        out.append(velocity(states[i], t.expand(len(x))) + (1 / t - 1) * adjoint)
    return torch.stack(out).detach()


def test_adjoint_is_the_gradient_of_the_end_for_the_noise_that_was():
    for seed in SEEDS:
        verdict = judge(ADJOINT, outcomes(ADJOINT, through_the_chain, seed), seed)
        assert verdict.status == "right", verdict.text


def test_velocity_given_first_is_a_conditional_mean_of_a_larger_gaussian():
    """E[x₁ − x₀ | x_t, first coordinate of x₁], from the covariances of all of them together."""
    x, t, mean, c, known = GIVEN.arguments(5)[1]
    one = torch.eye(len(mean), dtype=torch.float64)
    for i, s in enumerate(t):
        first = torch.cat([one, 0 * one], dim=1)[:1]
        seen = torch.cat([torch.cat([s * one, (1 - s) * one], dim=1), first])  # of (x₁, x₀)
        wanted = torch.cat([one, -one], dim=1)
        joint = torch.block_diag(c, one)
        off = torch.cat([x[i] - s * mean, known[i : i + 1] - mean[0]])
        gain = wanted @ joint @ seen.T @ torch.linalg.inv(seen @ joint @ seen.T)
        found = editing.velocity_given_first(x, t, mean, c, known)[i]
        torch.testing.assert_close(found, mean + gain @ off)


def test_the_package_has_the_same_tilt():
    for weights, means, variances, b, k in TILT.arguments(1)[:2]:
        package = tilted(GaussianMixture(means, variances, weights), QuadraticReward(b, k.item()))
        new, spreads, shares = parts(steering.tilted_mixture(weights, means, variances, b, k))
        torch.testing.assert_close(package.means, new)
        torch.testing.assert_close(package.covariances, spreads)
        torch.testing.assert_close(package.weights, shares)


# Other ways of writing the same, as students will.


def by_precisions(weights, means, variances, linear, curvature):
    precision = 1 / variances + curvature
    new = (means / variances[:, None] + linear) / precision[:, None]
    mass = (new**2).sum(1) * precision / 2 - (means**2).sum(1) / variances / 2
    size = means.shape[1]
    logs = weights.log() + mass - size / 2 * (precision * variances).log()
    logs = logs - logs.logsumexp(0)
    return torch.cat([logs.exp()[:, None], new, (1 / precision)[:, None]], 1)


def row_by_row(weights, means, variances, linear, curvature):
    rows, logs = [], []
    for w, m, v in zip(weights, means, variances, strict=True):
        s = 1 + curvature * v
        there = (m + v * linear) / s
        # the density of the tilt at its own mean, by r and the old density there
        reward = there @ linear - curvature * (there @ there) / 2
        old = -((there - m) ** 2).sum() / (2 * v)
        logs.append(w.log() + reward + old - len(m) / 2 * s.log())
        rows.append(torch.cat([there, (v / s).reshape(1)]))
    weight = torch.softmax(torch.stack(logs), 0)
    return torch.cat([weight[:, None], torch.stack(rows)], dim=1)


def with_leaves(velocity, gradient, states, times):
    out = torch.zeros_like(states[:-1])
    a = gradient(states[-1])
    for i in reversed(range(len(times) - 1)):
        h = times[i + 1] - times[i]
        x = states[i].detach().requires_grad_(True)
        t = torch.full((x.shape[0],), times[i].item(), dtype=x.dtype)
        v = velocity(x, t)
        pull = torch.autograd.grad((v * a).sum(), x)[0]
        a = a + h * (2 * pull - a / times[i])
        out[i] = v.detach() + (1 - times[i]) / times[i] * a
    return out


def with_vjp(velocity, gradient, states, times):
    a, targets = gradient(states[-1]), []
    for i in range(len(times) - 1)[::-1]:
        t = times[i]
        v, pull = torch.func.vjp(lambda x: velocity(x, t.repeat(len(x))), states[i])  # noqa: B023
        h = times[i + 1] - t
        a = a * (1 - h / t) + 2 * h * pull(a)[0]
        targets = [v + a / t - a, *targets]
    return torch.stack(targets)


def by_blocks(x, t, mean, covariance, known):
    """The first coordinate by itself, the others as a smaller Gaussian."""
    s = t[:, None]
    first = (known - x[:, 0]) / (1 - t)
    c = covariance[1:, 0] / covariance[0, 0]
    m = mean[1:] + torch.outer(known - mean[0], c)
    left = covariance[1:, 1:] - torch.outer(c, covariance[0, 1:])
    one, rest = torch.eye(len(c)).to(x), []
    for i, time in enumerate(t):
        inverse = torch.linalg.inv(time**2 * left + (1 - time) ** 2 * one)
        rest.append((time * left - (1 - time) * one) @ inverse @ (x[i, 1:] - time * m[i]))
    return torch.cat([first[:, None], m + torch.stack(rest)], dim=1) + 0 * s


def by_eigenvalues(x, t, mean, covariance, known):
    unit = torch.zeros_like(mean)
    unit[0] = 1
    there = covariance @ unit
    m = mean + (known - mean[0])[:, None] * there / there[0]
    values, vectors = torch.linalg.eigh(covariance - there[:, None] * there / there[0])
    s = t.unsqueeze(1)
    gain = (s * values - (1 - s)) / (s**2 * values + (1 - s) ** 2)
    return m + (gain * ((x - s * m) @ vectors)) @ vectors.T


def by_denoising(x, t, mean, covariance, known):
    """The mean of x₁ first, then (x̂₁ − x) / (1 − t)."""
    s = t[:, None]
    m = mean + (known - mean[0])[:, None] * covariance[0] / covariance[0, 0]
    left = covariance - covariance[:, :1] @ covariance[:1] / covariance[0, 0]
    one = torch.eye(len(mean)).to(x)
    total = (s**2)[:, None] * left + ((1 - s) ** 2)[:, None] * one
    share = torch.linalg.solve(total, (x - s * m)[..., None])[..., 0]
    return (m + s * (share @ left) - x) / (1 - s)


@pytest.mark.parametrize(
    ("exercise", "function"),
    [
        (TILT, by_precisions),
        (TILT, row_by_row),
        (ADJOINT, with_leaves),
        (ADJOINT, with_vjp),
        (GIVEN, by_blocks),
        (GIVEN, by_eigenvalues),
        (GIVEN, by_denoising),
    ],
)
def test_other_ways_of_writing_it_are_right(exercise, function):
    for seed in SEEDS:
        verdict = judge(exercise, outcomes(exercise, function, seed), seed)
        assert verdict.status == "right", verdict.text


# Mistakes in other words than those of the catalogue.


def in_a_wide_exponential(weights, means, variances, linear, curvature):
    rows = by_precisions(weights, means, variances, linear, curvature)
    v, s = variances, 1 + curvature * variances
    top = ((means + v[:, None] * linear) ** 2).sum(1) / (v * s) - (means**2).sum(1) / v
    mass = weights * torch.exp(top / 2) / s ** (means.shape[1] / 2)
    return torch.cat([(mass / mass.sum())[:, None], rows[:, 1:]], dim=1)


def jacobian_times(velocity, gradient, states, times):
    a, out = gradient(states[-1]), []
    for i in reversed(range(len(times) - 1)):
        t = times[i].expand(states.shape[1])
        one = torch.func.jvp(lambda x: velocity(x, t), (states[i],), (a,))[1]  # noqa: B023
        a = a + (times[i + 1] - times[i]) * (2 * one - a / times[i])
        out = [velocity(states[i], t) + (1 / times[i] - 1) * a, *out]
    return torch.stack(out)


def by_the_whole_law(x, t, mean, covariance, known):
    """Velocity of the whole Gaussian, its first coordinate overwritten."""
    s, one = t[:, None, None], torch.eye(len(mean)).to(x)
    share = torch.linalg.solve(
        s**2 * covariance + (1 - s) ** 2 * one, (x - t[:, None] * mean)[..., None]
    )
    v = mean + ((s * covariance - (1 - s) * one) @ share)[..., 0]
    v[:, 0] = (known - x[:, 0]) / (1 - t)
    return v


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch's own, when jvp is first called
@pytest.mark.parametrize(
    ("exercise", "function", "hint"),
    [
        (TILT, in_a_wide_exponential, "The exponentials run over"),
        (ADJOINT, jacobian_times, "not transposed"),
        (GIVEN, by_the_whole_law, "has not been told"),
    ],
)
def test_mistakes_in_other_words_are_named(exercise, function, hint):
    verdict = judge(exercise, outcomes(exercise, function, 0), 0)
    assert hint in verdict.text, verdict.text
