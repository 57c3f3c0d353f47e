"""Converters against other texts' conventions, each written out in its own notation.

``expectations`` knows only a mixture and x = a · data + b · noise; it has no time and no schedule.
"""

import functools
import math
import pickle

import pytest
import torch
import torchdiffeq

from fmtutorial.conventions import (
    at_levels,
    ddpm_schedule,
    from_ddpm,
    from_diffusers,
    from_v_prediction,
    reverse_time,
    time_first,
    to_diffusers,
)
from fmtutorial.diffusion import ddim
from fmtutorial.distributions import GaussianMixture
from fmtutorial.exact import ExactField
from fmtutorial.paths import COSINE, LINEAR, SQRT, VP, AffinePath, lipman
from fmtutorial.solvers import euler, heun, level_grid, midpoint, rk4, solve

DOUBLE = torch.float64
SPREAD, SIZES = 0.4, (0.2, 0.5, 0.3)


def double(values):
    return torch.tensor(values, dtype=DOUBLE)


def modes(event):
    generator = torch.Generator().manual_seed(7)
    return torch.randn(3, *event, generator=generator, dtype=DOUBLE) * 2


def exact(schedule, event=(2,)):
    target = GaussianMixture(modes(event), double([SPREAD**2] * 3), double(SIZES))
    return ExactField(AffinePath(schedule), target)


def start(event=(2,), batch=3):
    generator = torch.Generator().manual_seed(11)
    return torch.randn(batch, *event, generator=generator, dtype=DOUBLE)


def expectations(x, a, b):
    """E[data | x] and E[noise | x] for x = a · data + b · noise, sample by sample.

    Within a mode m data and x are jointly normal: E[data | x] = m + a s²/(a² s² + b²) (x − a m).
    """
    data = torch.empty_like(x)
    for i in range(len(x)):
        total = a[i] ** 2 * SPREAD**2 + b[i] ** 2
        logs, means = [], []
        for size, mode in zip(SIZES, modes(x.shape[1:]), strict=True):
            offset = x[i] - a[i] * mode
            logs.append(math.log(size) - 0.5 * (offset**2).sum().item() / total)
            means.append(mode + a[i] * SPREAD**2 / total * offset)
        weights = [math.exp(value - max(logs)) for value in logs]
        data[i] = sum(w * mean for w, mean in zip(weights, means, strict=True)) / sum(weights)
    factors = [x.new_tensor(f).reshape(-1, *[1] * (x.ndim - 1)) for f in (a, b)]
    return data, (x - factors[0] * data) / factors[1]


CLOSE = {"rtol": 1e-9, "atol": 1e-9}


# The order of arguments and the direction of time.


def test_time_first_swaps_both_ways():
    def model(t, x):
        """As torchcfm writes it."""
        return t[:, None] + 10 * x

    x, t = torch.ones(3, 2), torch.arange(3.0)
    assert torch.equal(time_first(model)(x, t), model(t, x))
    assert torch.equal(time_first(time_first(model))(t, x), model(t, x))


def test_time_first_fits_torchdiffeq():
    """odeint wants f(t, x); the same solution as with rk4 of v(x, t)."""
    field, x = exact(LINEAR), start()
    times = torch.linspace(0, 0.9, 31, dtype=DOUBLE)
    swapped = time_first(field)
    theirs = torchdiffeq.odeint(
        lambda t, x: swapped(t.expand(len(x)), x), x, times[[0, -1]], rtol=1e-7, atol=1e-7
    )
    # h⁴ = 8e-7
    torch.testing.assert_close(solve(field, x, times, rk4).last, theirs[-1], rtol=0, atol=2e-5)


def data_first(x, s):
    """The velocity in s of x = (1 − s) data + s noise: data at 0 and noise at 1."""
    data, noise = expectations(x, (1 - s).tolist(), s.tolist())
    return noise - data


def test_reverse_time_of_a_text_with_data_at_zero(event):
    x, t = start(event), double([0.1, 0.5, 0.9])
    torch.testing.assert_close(reverse_time(data_first)(x, t), exact(LINEAR, event)(x, t), **CLOSE)
    s = double([0.05, 0.4, 1.0])
    torch.testing.assert_close(reverse_time(exact(LINEAR, event))(x, s), data_first(x, s), **CLOSE)


def test_reverse_time_is_its_own_inverse(event, generator):
    field, x = exact(COSINE, event), start(event)
    t = double([0.25, 0.5, 0.875])  # 1 − t is exact
    assert torch.equal(reverse_time(reverse_time(field))(x, t), field(x, t))


def test_reversed_time_leads_to_the_same_place():
    """Their clock from 1 down to 0 and ours from 0 up to 1, the same states in between."""
    x, times = start(), torch.linspace(0, 0.9, 13, dtype=DOUBLE)
    ours = solve(reverse_time(data_first), x, times, heun).states
    theirs = solve(data_first, x, 1 - times, heun).states
    torch.testing.assert_close(ours, theirs, **CLOSE)
    torch.testing.assert_close(ours, solve(exact(LINEAR), x, times, heun).states, **CLOSE)


# diffusers.


def flow_model(train_timesteps):
    """What a flow-matching model of diffusers predicts at sample, timestep: noise − data."""

    def model(sample, timestep):
        sigma = (timestep / train_timesteps).tolist()
        data, noise = expectations(sample, [1 - s for s in sigma], sigma)
        return noise - data

    return model


@pytest.mark.parametrize("train_timesteps", [1000, 50])
def test_from_diffusers_is_the_exact_field(train_timesteps, event):
    x, t = start(event), double([0.0, 0.3, 0.95])
    field = from_diffusers(flow_model(train_timesteps), train_timesteps)
    torch.testing.assert_close(field(x, t), exact(LINEAR, event)(x, t), **CLOSE)


def test_a_thousand_timesteps_are_the_default():
    x, t = start(), double([0.0, 0.3, 0.95])
    field = exact(LINEAR)
    torch.testing.assert_close(from_diffusers(flow_model(1000))(x, t), field(x, t), **CLOSE)
    k = double([1000.0, 700.0, 50.0])
    torch.testing.assert_close(to_diffusers(field)(x, k), flow_model(1000)(x, k), **CLOSE)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_from_diffusers_takes_the_steps_of_its_scheduler(shift):
    """FlowMatchEulerDiscreteScheduler.step: sample + (sigma_next − sigma) · model_output.

    Its sigmas fall from 1 to 0, moved by shift · s/(1 + (shift − 1) s); a timestep is 1000 sigma.
    """
    model, sample = flow_model(1000), start()
    plain = torch.linspace(1, 1 / 12, 12, dtype=DOUBLE)
    sigmas = torch.cat([shift * plain / (1 + (shift - 1) * plain), double([0.0])])
    for sigma, sigma_next in zip(sigmas[:-1], sigmas[1:], strict=True):
        output = model(sample, (1000 * sigma).expand(3))
        sample = sample + (sigma_next - sigma) * output
    ours = solve(from_diffusers(model), start(), 1 - sigmas, euler)
    torch.testing.assert_close(ours.last, sample, **CLOSE)


@pytest.mark.parametrize("train_timesteps", [1000, 50])
def test_to_diffusers_is_the_inverse(train_timesteps, event):
    x, t = start(event), double([0.1, 0.5, 0.9])
    model, field = flow_model(train_timesteps), exact(LINEAR, event)
    there = to_diffusers(field, train_timesteps)
    k = double([train_timesteps, 0.3 * train_timesteps, 0.01 * train_timesteps])
    torch.testing.assert_close(there(x, k), model(x, k), **CLOSE)
    back = from_diffusers(there, train_timesteps)
    torch.testing.assert_close(back(x, t), field(x, t), **CLOSE)
    again = to_diffusers(from_diffusers(model, train_timesteps), train_timesteps)
    torch.testing.assert_close(again(x, k), model(x, k), **CLOSE)


# v-prediction.


@pytest.mark.parametrize(
    "schedule, angle",
    [
        (COSINE, lambda t: math.pi / 2 * (1 - t)),
        # cos φ = √ᾱ of the linear-β diffusion
        (VP, lambda t: math.acos(math.exp(-(19.9 * (1 - t) ** 2 / 4 + 0.05 * (1 - t))))),
    ],
    ids=["cosine", "VP"],
)
def test_v_prediction_of_salimans_and_ho(schedule, angle, event):
    """z = cos φ · data + sin φ · noise and v = dz/dφ = cos φ · noise − sin φ · data."""
    x = start(event)
    times = [0.02, 0.5, 0.97]
    cos, sin = ([f(angle(t)) for t in times] for f in (math.cos, math.sin))

    def model(x, t):
        assert t.tolist() == times
        data, noise = expectations(x, cos, sin)
        along, across = (double(f).reshape(-1, *[1] * (x.ndim - 1)) for f in (cos, sin))
        return along * noise - across * data

    field = from_v_prediction(model, AffinePath(schedule))
    torch.testing.assert_close(
        field(x, double(times)), exact(schedule, event)(x, double(times)), **CLOSE
    )


def test_v_prediction_is_minus_the_velocity_per_angle():
    """For the cosine schedule φ = π/2 (1 − t): v = (π/2) · (−prediction), whatever it is."""
    x, t = start(), double([0.0, 0.4, 1.0])
    field = from_v_prediction(lambda x, t: torch.sin(x) + t[:, None], AffinePath(COSINE))
    torch.testing.assert_close(
        field(x, t), -math.pi / 2 * (torch.sin(x) + t[:, None]), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("schedule", [LINEAR, SQRT, lipman(0.1)], ids=repr)
def test_v_prediction_refuses_other_schedules(schedule):
    field = from_v_prediction(lambda x, t: x, AffinePath(schedule))
    with pytest.raises(ValueError, match=r"v-prediction needs α² \+ σ² = 1; Schedule\(.*\) is"):
        field(start(), double([0.1, 0.5, 0.9]))


def test_v_prediction_refuses_the_time_without_velocity():
    field = from_v_prediction(lambda x, t: x, AffinePath(VP))
    with pytest.raises(ValueError, match=r"t = 1\.0 is outside \[0, 1\)"):
        field(start(), double([0.1, 0.5, 1.0]))
    assert field(start().float(), torch.tensor([0.1, 0.5, 0.9])).dtype == torch.float32


# DDPM.


def linear_betas(count):
    """Ho et al. 2020 for 1000 steps; scaled so that their sum is the same for others."""
    return torch.linspace(1e-4, 0.02, count, dtype=DOUBLE) * (1000 / count)


BETAS = double([0.01, 0.05, 0.02, 0.2, 0.3, 0.5, 0.45, 0.9])
T = len(BETAS)


@functools.cache
def alpha_bars():
    """ᾱ_0 … ᾱ_T as products, one by one."""
    bars = [1.0]
    for beta in BETAS.tolist():
        bars.append(bars[-1] * (1 - beta))
    return bars


def test_ddpm_schedule_passes_through_the_levels():
    """α = √ᾱ_k and σ = √(1 − ᾱ_k) at t = 1 − k/T; k = 0 is clean."""
    schedule = ddpm_schedule(BETAS)
    t = double([1 - k / T for k in range(T + 1)])
    bars = double(alpha_bars())
    torch.testing.assert_close(schedule.alpha(t), bars.sqrt(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(schedule.sigma(t), (1 - bars).sqrt(), rtol=1e-12, atol=1e-14)
    assert schedule.alpha(t)[0] == 1 and schedule.sigma(t)[0] == 0
    assert not schedule.finite_at_one and schedule.name == "DDPM"


def cosine_betas(count):
    """Of the schedule COSINE at t = 1 − k/T, clipped as Nichol and Dhariwal 2021 do."""
    k = torch.arange(count + 1, dtype=DOUBLE)
    bars = torch.sin(0.5 * math.pi * (1 - k / count)).square()
    return (1 - bars[1:] / bars[:-1]).clamp(max=0.999)


SMOOTH = pytest.mark.parametrize(
    "betas", [BETAS, linear_betas(1000), cosine_betas(1000)], ids=["8", "linear", "cosine"]
)


@SMOOTH
def test_ddpm_schedule_is_monotone_and_its_slope_continuous(betas):
    schedule, count = ddpm_schedule(betas), len(betas)
    t = torch.linspace(0, 1, 20 * count + 1, dtype=DOUBLE)
    assert (schedule.alpha(t).diff() > 0).all() and (schedule.sigma(t).diff() < 0).all()
    knots, h = torch.arange(1, count, dtype=DOUBLE) / count, 1e-10
    left, right = (schedule.alpha_dot(knots + side * h) for side in (-1, 1))
    # the slope changes by 2h times its own slope, at most some T; where α is interpolated by
    # straight lines it jumps by 1e-3 and more
    torch.testing.assert_close(left, right, rtol=0, atol=1e-6)


def test_ddpm_schedule_between_the_levels_is_near_the_schedule_of_its_levels():
    """Of 1000 levels of COSINE, less the clipped one, at t < 0.001, and its surroundings."""
    schedule, t = ddpm_schedule(cosine_betas(1000)), torch.linspace(0.02, 0.999, 997, dtype=DOUBLE)
    # a spline's slopes are right to h³ = 1e-9 times a fourth derivative of 6, its values to h⁴;
    # near the clipped level its swing has fallen by 0.27 a level
    torch.testing.assert_close(schedule.alpha_dot(t), COSINE.alpha_dot(t), rtol=0, atol=1e-7)
    torch.testing.assert_close(schedule.alpha(t), COSINE.alpha(t), rtol=0, atol=1e-10)


def test_the_midpoint_method_keeps_its_order_through_from_ddpm():
    """Its error falls fourfold with every halving; through straight lines it stalled."""
    target = GaussianMixture(double([[3.0, 0.0], [-3.0, 1.0]]), double([1.0, 0.5]))
    betas = cosine_betas(200)
    path = AffinePath(ddpm_schedule(betas))
    exact = ExactField(path, target)

    def model(x, index):
        t = 1 - (index + 1) / 200
        return path.convert(exact(x, t), x, t, "velocity", "noise")

    field, _ = from_ddpm(model, betas)
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)

    def at(steps, step):
        grid = torch.linspace(0, 0.9, steps + 1, dtype=DOUBLE)
        return solve(field, x, grid, step, last_only=True).last

    truth = at(180, rk4)  # its steps are the levels, so that no step meets a knot inside
    errors = [(at(n, midpoint) - truth).norm().item() for n in (20, 40, 80)]
    # a rate of 4, less what is left of the first steps and of the knots
    assert errors[0] > 3.2 * errors[1] > 3.2**2 * errors[2], errors


# Models of whole levels.


def table_model(calls):
    """A network that looks its index up in a table, as int64 of 0 … 99, and notes it."""
    table = torch.linspace(0.2, 1.0, 100, dtype=DOUBLE)

    def model(x, index):
        assert index.dtype == torch.int64
        calls.extend(index.tolist())
        return table.to(x)[index][:, None] * x

    return model


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize(
    "step, halves, last",
    [(euler, False, 0), (heun, False, 1), (midpoint, True, 0), (rk4, True, 2)],
    ids=["euler", "heun", "midpoint", "rk4"],
)
def test_grids_of_levels_keep_a_method_on_them(step, halves, last, dtype):
    calls = []
    field, _ = from_ddpm(table_model(calls), linear_betas(100), whole_levels=True)
    times = level_grid(100, 7, last, halves, dtype)
    assert times.dtype == dtype and times[0] == 0
    assert times[-1].item() == pytest.approx(1 - last / 100, abs=1e-7)
    assert solve(field, torch.ones(2, 3, dtype=dtype), times, step).last.isfinite().all()
    starts = {round(100 - 100 * t) - 1 for t in times[:-1].tolist()}
    assert starts <= set(calls) <= set(range(100))


@pytest.mark.parametrize("step, grid", [(midpoint, [0, 0.01, 0.02]), (euler, [0, 0.015, 0.02])])
def test_between_levels_a_model_of_whole_levels_is_not_called(step, grid):
    field, _ = from_ddpm(table_model([]), linear_betas(100), whole_levels=True)
    with pytest.raises(ValueError, match="is no level of the model.*level_grid"):
        solve(field, torch.ones(2, 3, dtype=DOUBLE), double(grid), step)


@pytest.mark.parametrize(
    "arguments", [(10, 11), (10, 6, 0, True), (11, 5, 0, True), (10, 10, 1)], ids=str
)
def test_grids_that_do_not_fit_on_the_levels_are_refused(arguments):
    with pytest.raises(ValueError, match="do not fit between"):
        level_grid(*arguments)


@pytest.mark.parametrize("levels, steps", [(1000, 7), (1000, 1000), (13, 5)])
def test_grids_of_levels_are_as_even_as_they_can_be(levels, steps):
    spans = (levels * level_grid(levels, steps, dtype=DOUBLE)).diff()
    assert (spans.round() - spans).abs().max() < 1e-9
    assert spans.max() - spans.min() < 1.5 and spans.sum().round() == levels


# What a user sends to a worker process.


def plain(x, t):
    return -x


@pytest.mark.parametrize(
    "make",
    [
        lambda: time_first(plain),
        lambda: reverse_time(plain),
        lambda: from_diffusers(plain),
        lambda: to_diffusers(plain),
        lambda: from_v_prediction(plain, AffinePath(COSINE)),
        lambda: from_ddpm(plain, BETAS)[0],
    ],
)
def test_fields_of_other_conventions_can_be_pickled(make):
    x, t = torch.ones(3, 3), torch.full((3,), 0.3)
    made = make()
    assert torch.equal(made(x, t), pickle.loads(pickle.dumps(made))(x, t))


@pytest.mark.parametrize("betas", [BETAS, linear_betas(1000)], ids=["8", "1000"])
def test_ddpm_schedule_preserves_variance_and_has_its_derivatives(betas, generator):
    """Central differences inside the pieces, autograd beside them."""
    schedule, count = ddpm_schedule(betas), len(betas)
    part = 0.1 + 0.8 * torch.rand(count, generator=generator, dtype=DOUBLE)
    t = 1 - (torch.arange(count, dtype=DOUBLE) + part) / count
    one = schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2
    torch.testing.assert_close(one, torch.ones_like(t), rtol=1e-14, atol=0)
    h = 1e-3 / count
    for value, derivative in [
        (schedule.alpha, schedule.alpha_dot),
        (schedule.sigma, schedule.sigma_dot),
    ]:
        slope = (value(t + h) - value(t - h)) / (2 * h)
        torch.testing.assert_close(derivative(t), slope, rtol=1e-4, atol=1e-6)
        moved = t.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(value(moved).sum(), moved)
        torch.testing.assert_close(derivative(t), gradient, rtol=1e-9, atol=1e-12)


def test_ddpm_schedule_rises_keeps_shape_and_type():
    schedule = ddpm_schedule(BETAS.float())
    t = torch.rand(2, 3, 1)
    for name in ("alpha", "sigma", "alpha_dot", "sigma_dot"):
        value = getattr(schedule, name)(t)
        assert value.shape == (2, 3, 1) and value.dtype == torch.float32
        # float32 times are off by 6e-8, and the pieces are steep
        torch.testing.assert_close(
            value.double(), getattr(ddpm_schedule(BETAS), name)(t.double()), rtol=1e-5, atol=1e-5
        )
    line = torch.linspace(0, 1, 1001, dtype=DOUBLE)
    assert bool((schedule.alpha(line).diff() > 0).all())
    assert bool((schedule.sigma(line).diff() < 0).all())
    with pytest.raises(ValueError, match=r"velocity of the DDPM schedule"):
        schedule.check_velocity_times(torch.ones(1))


def test_ddpm_schedule_tends_to_vp():
    """β from 0.1 to 20 in T steps: |α − α_VP| below 0.002 at T = 1000, a quarter of that at 4000.

    log(1 − β/T) = −β/T − β²/2T² + …: the difference falls like 1/T.
    """
    t = torch.linspace(0, 1, 2001, dtype=DOUBLE)[:-1]
    off = []
    for count in (1000, 4000):
        schedule = ddpm_schedule(linear_betas(count))
        off.append(
            [
                (getattr(schedule, name)(t) - getattr(VP, name)(t)).abs().max().item()
                for name in ("alpha", "sigma")
            ]
        )
    for coarse, fine in zip(*off, strict=True):
        assert coarse < 0.002
        assert coarse / fine == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize(
    "betas",
    [
        double([0.1, 0.0]),
        double([0.1, 1.0]),
        double([0.1, -0.1]),
        double([0.1, math.nan]),
        double([]),
        double(0.1),
        double([[0.1, 0.2]]),
    ],
    ids=["zero", "one", "negative", "nan", "empty", "scalar", "matrix"],
)
def test_wrong_betas_are_refused(betas):
    with pytest.raises(
        ValueError, match=r"betas has shape \(.*\); pass \(T,\) numbers in \(0, 1\)"
    ):
        ddpm_schedule(betas)
    with pytest.raises(ValueError, match="betas has shape"):
        from_ddpm(lambda x, index: x, betas)


def ddpm_model(seen=None):
    """ε_θ(x, index) of the papers' code: index 0 … T − 1 stands for k = 1 … T; exact here."""

    def model(x, index):
        k = [round(value) + 1 for value in index.tolist()]
        assert torch.allclose(index, index.round(), rtol=0, atol=1e-9), "not a level of training"
        if seen is not None:
            seen.extend(k)
        bars = [alpha_bars()[i] for i in k]
        _, noise = expectations(x, [math.sqrt(b) for b in bars], [math.sqrt(1 - b) for b in bars])
        return noise

    return model


def test_from_ddpm_is_the_exact_field_of_its_path(event):
    """At the levels of training, the noisiest and the cleanest among them."""
    x = start(event)
    field, path = from_ddpm(ddpm_model(), BETAS)
    for levels in ([T, 5, 1], [2, 3, 4]):
        t = double([1 - k / T for k in levels])
        torch.testing.assert_close(field(x, t), exact(path.schedule, event)(x, t), **CLOSE)


def test_from_ddpm_below_the_first_level_asks_for_index_zero():
    """Between the levels the index is a fraction; beyond the last it stays 0."""
    seen = []

    def model(x, index):
        seen.append(index)
        return x

    field, _ = from_ddpm(model, BETAS)
    t = double([0.0, 0.25, 1 - 1.5 / T, 1 - 1 / T, 1 - 0.5 / T, 1 - 1e-6])
    field(start(batch=6), t)
    torch.testing.assert_close(seen[0], double([T - 1, 5, 0.5, 0, 0, 0]), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"t = 1\.0 is outside \[0, 1\).*DDPM"):
        field(start(), torch.ones(3, dtype=DOUBLE))


def test_within_the_rounding_of_a_time_the_index_is_whole():
    """In single precision 1 − t has an error of 6e-8, a thousand levels one of 6e-5."""
    k = torch.arange(1, 1001)
    index = at_levels(lambda x, index: index, 1000)(torch.zeros(1000), 1 - k / 1000)
    assert torch.equal(index, k - 1.0)


def test_from_ddpm_samples_as_deterministic_ddim_does(event):
    """In the notation of Song, Meng and Ermon 2021: every level, and every second one.

    x_{k'} = √ᾱ_{k'} (x_k − √(1 − ᾱ_k) ε)/√ᾱ_k + √(1 − ᾱ_{k'}) ε.
    """
    seen, bars = [], alpha_bars()
    field, path = from_ddpm(ddpm_model(seen), BETAS)
    for stride in (1, 2):
        levels = list(range(T, -1, -stride))
        seen.clear()
        times = double([1 - k / T for k in levels])
        ours = solve(field, start(event), times, ddim(path)).states
        assert seen == [k for k in levels[:-1] for _ in range(3)]
        x, epsilon = start(event), ddpm_model()
        for i, (k, new) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
            noise = epsilon(x, torch.full((3,), k - 1.0, dtype=DOUBLE))
            data = (x - math.sqrt(1 - bars[k]) * noise) / math.sqrt(bars[k])
            x = math.sqrt(bars[new]) * data + math.sqrt(1 - bars[new]) * noise
            torch.testing.assert_close(ours[i + 1], x, **CLOSE)


def test_from_ddpm_samples_as_the_ancestral_sampler_does(event):
    """Ho et al. 2020, Algorithm 2 with the variance β̃_k, from the same fresh noise.

    x_{k−1} = (x_k − β_k/√(1 − ᾱ_k) ε)/√(1 − β_k) + √β̃_k ξ, β̃_k = β_k (1 − ᾱ_{k−1})/(1 − ᾱ_k).
    """
    bars, epsilon = alpha_bars(), ddpm_model()
    field, path = from_ddpm(ddpm_model(), BETAS)
    times = double([1 - k / T for k in range(T, -1, -1)])
    seeds = [torch.Generator().manual_seed(2) for _ in range(2)]
    ours = solve(field, start(event), times, ddim(path, 1.0, seeds[0])).states
    x = start(event)
    for i, k in enumerate(range(T, 0, -1)):
        beta = BETAS[k - 1].item()
        fresh = torch.randn(x.shape, generator=seeds[1], dtype=DOUBLE)
        noise = epsilon(x, torch.full((3,), k - 1.0, dtype=DOUBLE))
        mean = (x - beta / math.sqrt(1 - bars[k]) * noise) / math.sqrt(1 - beta)
        x = mean + math.sqrt(beta * (1 - bars[k - 1]) / (1 - bars[k])) * fresh
        torch.testing.assert_close(ours[i + 1], x, **CLOSE)


def test_from_ddpm_follows_the_flow_of_its_exact_field():
    """Euler steps of the velocity between levels tend to the solution; a wrong sign would not."""
    betas = linear_betas(1000)
    target = exact(ddpm_schedule(betas))

    def model(x, index):
        """The exact noise where index may be a fraction."""
        t = 1 - (index + 1) / 1000
        return -target.path.schedule.sigma(t)[:, None] * target.score(x, t)

    field, path = from_ddpm(model, betas)
    times = torch.linspace(0, 0.98, 50, dtype=DOUBLE)
    last = solve(field, start(), times, heun).last
    # the same mixture under VP: T = 1000 and 49 steps of Heun leave 0.0014
    truth = solve(exact(VP), start(), torch.linspace(0, 0.98, 101, dtype=DOUBLE), rk4).last
    torch.testing.assert_close(last, truth, rtol=0, atol=0.005)
    assert path.schedule.name == "DDPM"
