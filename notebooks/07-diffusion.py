# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lab: Diffusion
#
# You add noise to a flow without changing its densities, find the samplers of diffusion models among the results, and train a network on noise that you then use as a flow.
#
# After this lab you can
#
# - convert between velocity, score, noise and data, and say at which end of time each conversion loses digits,
# - simulate the family of noisy flows and test their marginals,
# - recognise DDIM and DDPM as members of that family,
# - train by predicting noise, and sample the same weights as a flow or as a diffusion,
# - compare samplers at equal numbers of evaluations,
# - say which errors cost likelihood, and draw the times for it.

# %%
# On Colab this cell installs the book's package; elsewhere it does nothing.
import sys

if "google.colab" in sys.modules:
    print("Installing the book's package")
    # this lab's own version where it is released, else the newest there is
    home, v = "https://github.com/fmtutorial/fmtutorial", "0.1.0"
    wheel = f"{home}/releases/download/v{v}/fmtutorial-{v}-py3-none-any.whl"
    # %pip install -q {wheel} 2> /dev/null || pip install -q git+{home}

# %%
import math

import torch

from fmtutorial import distributions, plotting
from fmtutorial.conventions import ddpm_schedule, reverse_time
from fmtutorial.diffusion import (
    as_velocity,
    change_schedule,
    ddim,
    noise_prediction_loss,
    reversal_noise_level,
    solve_sde,
)

# %%
from fmtutorial.exact import ExactField
from fmtutorial.labs import record, stored_results, use_default_device
from fmtutorial.losses import (
    flow_matching_loss,
    likelihood_times,
    logit_normal_times,
    uniform_times,
)

# %%
from fmtutorial.metrics import (
    energy_distance,
    fresh_ratio,
    mode_shares,
    two_sample_test,
)
from fmtutorial.networks import MLP
from fmtutorial.paths import COSINE, LINEAR, QUANTITIES, VP, AffinePath

# %%
from fmtutorial.solvers import (
    euler,
    half_log_snr,
    heun,
    log_snr_grid,
    rk4,
    solve,
    time_of,
)
from fmtutorial.training import EMA, train

# %%
device = use_default_device()
generator = torch.Generator(device).manual_seed(0)
torch.manual_seed(0)  # the networks' first weights

ring = distributions.ring_of_gaussians()
paths = {
    "linear": AffinePath(LINEAR),
    "cosine": AffinePath(COSINE),
    "VP": AffinePath(VP),
}
linear, cosine, vp = paths.values()

# %% [markdown]
# The ring is symmetric, and symmetry hides errors. For tests of samplers there is a second target: three modes of unequal weight and shape, with nothing symmetric about them.

# %%
target = distributions.GaussianMixture(
    torch.tensor([[-2.0, 0.0], [1.5, 1.5], [1.0, -2.0]]),
    torch.tensor(
        [[[0.4, 0.1], [0.1, 0.3]], [[0.3, 0.0], [0.0, 0.6]], [[0.3, -0.1], [-0.1, 0.2]]]
    ),
    torch.tensor([0.5, 0.3, 0.2]),
)


def draw(path, t, n, data=target):
    """Draw n points of p_t: data and noise, mixed."""
    x1 = data.sample(n, generator).to(t.dtype)
    x0 = torch.randn(x1.shape, generator=generator, dtype=t.dtype)
    return path.sample(x0, x1, t.expand(n)).x_t


# %% [markdown]
# ## One thing, four names
#
# Velocity, score, noise prediction and data prediction are linear functions of each other at a given $x$ and $t$. On the linear schedule, from a noise prediction to velocity and score:


# %% tags=["quote-conversion"]
def from_noise(noise, x, t):
    """Velocity and score, linear schedule."""
    t = t[:, None]
    # x = t x̂₁ + (1 − t) x̂₀, solved for x̂₁
    data = (x - (1 - t) * noise) / t
    velocity = data - noise  # α̇ = 1, σ̇ = −1
    score = -noise / (1 - t)  # −x̂₀ / σ
    return velocity, score


# %%
own = torch.Generator(device).manual_seed(1)
x, field = 5 * torch.randn(1000, 2, generator=own).double(), ExactField(linear, ring)
t = torch.linspace(0.02, 0.98, 1000).double()
guess = linear.convert(field(x, t), x, t, "velocity", "noise")
velocity, score = from_noise(guess, x, t)
for found, name in ((velocity, "velocity"), (score, "score")):
    theirs = linear.convert(guess, x, t, "noise", name)
    assert ((found - theirs) / (1 + theirs.abs())).abs().max() < 1e-12
assert ((score - field.score(x, t)) / (1 + score.abs())).abs().max() < 1e-6
print("velocity and score from the noise: as the package has them")

# %% [markdown]
# **Check 7.1** (twelve conversions). In double precision, on 1000 points of the ring at each of seven times inside the interval and for three schedules. Each of the twelve conversions must give what the exact field knows on its own, and each must be undone by its inverse, to $10^{-6}$. Converting with another schedule must fail.


# %%
def truth(path, x, t):
    """Return the four exact quantities at (x, t)."""
    field = ExactField(path, ring)
    data, s = field.posterior_mean(x, t), path.schedule
    noise = (x - s.alpha(t)[:, None] * data) / s.sigma(t)[:, None]
    return {
        "velocity": field(x, t),
        "score": field.score(x, t),
        "noise": noise,
        "data": data,
    }


# %%
def scaled_error(value, exact):
    return ((value - exact).abs().max() / exact.abs().max()).item()


PAIRS = [(g, w) for g in QUANTITIES for w in QUANTITIES if g != w]


# %%
worst, wrong = 0.0, math.inf
for path, other in ((linear, cosine), (cosine, vp), (vp, linear)):
    for time in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98):
        t = torch.full((1000,), time, dtype=torch.float64)
        x = draw(path, t, 1000, ring)
        exact = truth(path, x, t)
        for given, want in PAIRS:
            there = path.convert(exact[given], x, t, given, want)
            back = path.convert(there, x, t, want, given)
            errors = scaled_error(there, exact[want]), scaled_error(back, exact[given])
            worst = max(worst, *errors)
    t = torch.full((1000,), 0.5, dtype=torch.float64)
    x = draw(path, t, 1000, ring)
    mistaken = other.convert(truth(path, x, t)["velocity"], x, t, "velocity", "data")
    wrong = min(wrong, scaled_error(mistaken, truth(path, x, t)["data"]))

# %%
print("12 conversions and back, within 1e-6:", worst < 1e-6)
print("with another schedule:", wrong < 1e-6)
assert worst < 1e-6 < 0.01 < wrong

# %% [markdown]
# At the ends some conversions divide by zero. They raise an error, and say why. The list below is the whole of it for the linear schedule.

# %%
x = torch.ones(1, 2)
for time in (0.0, 1.0):
    refused = []
    for given, want in PAIRS:
        try:
            linear.convert(x, x, torch.tensor([time]), given, want)
        except ValueError:
            refused.append(f"{given} → {want}")
    print(f"t = {time:g}:", ", ".join(refused))
    record(f"refused_{time:g}", len(refused))
    assert len(refused) == {0.0: 4, 1.0: 5}[time]

# %% [markdown]
# **Check 7.2** (errors grow on the way). Near an end nothing is raised, but a small error of the one quantity becomes a large error of the other. Each conversion is affine, so the factor is its slope: $\sigma/\Delta$ from velocity to data, $\alpha/(\sigma\Delta)$ from velocity to score, and so on. You add an error of size 0.01 and compare the result with the formulas of the chapter.


# %%
def slopes(schedule, t):
    """Return |d want / d given| of the twelve conversions, by the chapter's table."""
    a, s = schedule.alpha(t), schedule.sigma(t)
    delta = schedule.alpha_dot(t) * s - a * schedule.sigma_dot(t)
    one = {"velocity": delta / a, "score": 1 / s, "noise": 1 + 0 * t, "data": s / a}
    return {(g, w): one[w] / one[g] for g, w in PAIRS}


# %%
worst = 0.0
for path in paths.values():
    for time in (0.01, 0.3, 0.7, 0.99):
        t = torch.full((100,), time, dtype=torch.float64)
        x = draw(path, t, 100, ring)
        exact = truth(path, x, t)
        for (given, want), slope in slopes(path.schedule, t).items():
            moved = path.convert(exact[given] + 0.01, x, t, given, want)
            ratio = (moved - path.convert(exact[given], x, t, given, want)).abs() / 0.01
            worst = max(
                worst, ((ratio - slope[:, None]).abs() / slope[:, None]).max().item()
            )
print("measured factor of errors = slope, to 1e-6:", worst < 1e-6)
assert worst < 1e-6

# %% [markdown]
# Rounding is an error too. The network's float32 numbers carry seven digits. Here are the velocity of the ring in float32 and the score that comes out of it, near the two ends.

# %%
for time in (0.001, 0.5, 0.999):
    t = torch.full((2000,), time, dtype=torch.float64)
    x = draw(linear, t, 2000, ring).float()
    exact = truth(linear, x.double(), t)
    single = {name: value.float() for name, value in exact.items()}
    found = linear.convert(single["velocity"], x, t.float(), "velocity", "score")
    lost = (found - exact["score"]).abs().mean().item()
    back = linear.convert(single["noise"], x, t.float(), "noise", "velocity")
    lost_noise = (back - exact["velocity"]).abs().mean().item()
    a, b = round(math.log10(lost)), round(math.log10(lost_noise))
    print(f"t = {time:5.3f}: velocity → score 1e{a}, noise → velocity 1e{b}")
    raised = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    a, b = (str(power).translate(raised) for power in (a, b))
    record(f"rounding_{time}", f"10{a} and 10{b}")

# %% tags=["hide-input"]
t = torch.linspace(0.005, 0.995, 199)
figure, axes = plotting.panels(["error of the velocity", "error of the score"])
for ax, want in zip(axes, ("velocity", "score"), strict=True):
    styles = {
        "velocity": plotting.TRUTH,
        "noise": plotting.MODEL,
        "data": plotting.DATA,
    }
    for given, color in styles.items():
        if given != want:
            factor = slopes(LINEAR, t)[given, want]
            ax.plot(t.cpu(), factor.cpu(), color=color, label=f"from {given}")
    ax.set(xlabel="t", yscale="log", ylim=(1e-2, 1e3))
    ax.legend()
plotting.show(
    figure,
    "amplification",
    "Left: the factor from an error of the noise prediction to one of the velocity "
    "falls from 200 at t = 0 to 1, that from the data prediction rises from 1 to 200 "
    "at t = 1. Right: the factors to an error of the score all rise towards t = 1, "
    "that from data the fastest.",
)

# %% [markdown]
# *Figure 7.1.* By what factor an error of a prediction enters velocity and score, linear schedule. Predicting noise is fragile at the noise end; predicting data at the data end.
#
# **Check 7.3** (the probability flow). For VP the velocity must be $\tfrac12\beta\,(x+s)$, the probability-flow equation of Yang Song and others ("Score-based generative modeling through stochastic differential equations", 2021) with time reversed. Without the factor one half it must not be.

# %%
t = (0.05 + 0.9 * torch.rand(2000, generator=generator)).double()
x = draw(vp, t, 2000)
field = ExactField(vp, target)
beta = (0.1 + 19.9 * (1 - t))[:, None]
flow = 0.5 * beta * (x + field.score(x, t))
print("velocity = β (x + s) / 2:", scaled_error(flow, field(x, t)) < 1e-6)
assert (
    scaled_error(flow, field(x, t)) < 1e-6 < 0.5 < scaled_error(2 * flow, field(x, t))
)

# %% [markdown]
# ## The same densities with noise
#
# For any $\lambda_t\ge0$ the process $dx=[v_t+\lambda_ts_t]\,dt+\sqrt{2\lambda_t}\,dW$ has the densities $p_t$ of the flow. In code the noise level is $w=\sqrt{2\lambda}$, so that $\lambda=w^2/2$.
#
# Over a step of length $h$ the drift acts $h$ times, and the noise $\sqrt h$ times.


# %% tags=["quote-noisy-step"]
def noisy_step(v, s, x, h, w, xi):
    """Velocity v, score s, fresh noise xi."""
    drift = v + w**2 / 2 * s
    return x + h * drift + w * h**0.5 * xi


# %%
field, x, t = ExactField(linear, target), target.sample(500, own), torch.tensor(0.3)
v = field(x, t.expand(500))
s = linear.convert(v, x, t.expand(500), "velocity", "score")
xi = torch.randn(x.shape, generator=own.manual_seed(5))
ours = noisy_step(v, s, x, 0.1, 1.5, xi)
pair, level = torch.stack([t, t + 0.1]), lambda t: 1.5 + 0 * t
theirs = solve_sde(field, x, pair, linear, level, own.manual_seed(5)).last  # same xi
assert (ours - theirs).abs().max() < 1e-5  # single precision
print("a step by hand is a step of solve_sde")

# %% [markdown]
# Here are 30 paths of the ring from the same noise, for four noise levels.

# %%
exact_ring = ExactField(linear, ring)
times = torch.linspace(0, 0.999, 201)
noise = torch.randn(2000, 2, generator=generator)
journeys = {
    w: solve_sde(
        exact_ring, noise, times, linear, lambda t, w=w: w + 0 * t, generator
    ).states
    for w in (0.0, 1.0, 2.0, 4.0)
}

# %% tags=["hide-input"]
titles = [f"w = {w:g}" for w in journeys] + ["" for _ in journeys]
figure, axes = plotting.panels(titles, 14, rows=2)
for i, states in enumerate(journeys.values()):
    plotting.draw_trajectories(axes[i], states[:, :30])
    plotting.draw_samples(axes[4 + i], states[-1], size=1.5)
plotting.show(
    figure,
    "journeys",
    "Four columns with more and more noise. Above, paths from the middle to the ring: "
    "smooth curves without noise, jagged with it. Below, the ends: the same ring of "
    "eleven round modes in all four columns.",
)

# %% [markdown]
# *Figure 7.2.* Above: paths with noise level $w$, from the same starts. Below: where 2000 such paths end. The paths differ, the densities do not.
#
# **Check 7.4** (marginals). 3000 particles start at $p_0=\mathcal N(0,I)$ and take 160 steps towards the target of three modes. At four times you compare with the exact $p_t$ in two ways. First the moments: $\alpha_t m$ and $\alpha_t^2\operatorname{Cov}(x_1)+\sigma_t^2I$ are known in closed form, and all entries must agree to five standard errors.

# %%
mean = (target.weights[:, None] * target.means).sum(dim=0)
second = target.covariances + target.means[:, :, None] * target.means[:, None, :]
covariance = (target.weights[:, None, None] * second).sum(dim=0) - torch.outer(
    mean, mean
)


def moment_score(x, path, t):
    """Return the largest of the moments' deviations, in standard errors."""
    a, s = path.schedule.alpha(t), path.schedule.sigma(t)
    centred = x - a * mean
    products = centred[:, :, None] * centred[:, None, :]
    gaps = products - (a**2 * covariance + s**2 * torch.eye(2))
    every = torch.cat([centred, gaps.reshape(len(x), 4)], dim=1)
    return (every.mean(dim=0) / every.std(dim=0) * math.sqrt(len(x))).abs().max().item()


# %% [markdown]
# Second a two-sample test that sees the whole shape: the energy distance of 800 particles to 800 fresh draws of $p_t$. What may chance do to it? `two_sample_test` puts both sets into one bag and splits the bag at random, 400 times. The p-value is the share of splits, the true one counted too, whose halves are as far apart as the two sets. If the distributions are equal it is a uniform number: below $\alpha$ with probability $\alpha$. The least value that 400 splits can give is $\tfrac1{401}$, and that is where the test says no. First see what it can do: two sets of the target, and one of them moved by $\tfrac12$ in each coordinate.

# %%
x, y = target.sample(800, generator), target.sample(800, generator)
for name, moved in {"two fresh sets": x, "one set moved": x + 0.5}.items():
    found = two_sample_test(moved, y, 400, generator)
    print(f"{name}: distance {found.distance:.2f}; random splits:", end=" ")
    print(
        f"{found.floor:.2f} in the mean, 95 % of them below {found.limit:.2f};", end=" "
    )
    print(f"p = {found.p_value:.3f}")
    assert (found.p_value <= 1 / 401) == (name == "one set moved")

# %%
exact = ExactField(linear, target)
start = torch.randn(3000, 2, generator=generator)
grid = torch.linspace(0, 0.98, 161)
marks = {int(160 * t / 0.98 + 0.5): t for t in (0.245, 0.49, 0.735, 0.98)}
levels = {
    "w = 0": lambda t: 0 * t,
    "w = 0.5": lambda t: 0.5 + 0 * t,
    "w = 1": lambda t: 1 + 0 * t,
    "w = 2": lambda t: 2 + 0 * t,
    "w = 3 sin²(πt)": lambda t: 3 * torch.sin(math.pi * t) ** 2,
    "w = 2 for 0.3 < t < 0.6": lambda t: 2.0 * ((t > 0.3) & (t < 0.6)),
}


# %%
def marginals_hold(states, path, marks):
    """Return the worst moment score, and the least p-value."""
    scores, chances = [], []
    for index, time in marks.items():
        t, x = torch.tensor(time), states[index]
        scores.append(moment_score(x, path, t))
        found = two_sample_test(x[:800], draw(path, t, 800), 400, generator)
        chances.append(found.p_value)
    return max(scores), min(chances)


# %%
for name, level in levels.items():
    walk = solve_sde(exact, start, grid, linear, level, generator)
    score, chance = marginals_hold(walk.states, linear, marks)
    fine = score < 5, chance > 1 / 401
    print(f"{name:24s} moments agree: {fine[0]}   two-sample test passed: {fine[1]}")
    assert score < 5 and chance > 1 / 401, (score, chance)

# %% [markdown]
# The last two rows are a noise level that changes with time, and a hybrid: noise in the middle of the way, a plain ODE before and after.
#
# Backwards: on a decreasing grid the drift is $v-\lambda s$ and the same densities are run through from the end. Noise of the data end is put in, $p_{0.98}$, and the marginals on the way back must hold.

# %%
data_end = draw(linear, torch.tensor(0.98), 3000)
back = solve_sde(exact, data_end, grid.flip(0), linear, levels["w = 1"], generator)
turned = {160 - i: t for i, t in marks.items() if t < 0.9} | {160: 0.0}
score, chance = marginals_hold(back.states, linear, turned)
fine = score < 5, chance > 1 / 401
print(f"backwards: moments agree: {fine[0]}   two-sample test passed: {fine[1]}")
assert score < 5 and chance > 1 / 401, (score, chance)

# %% [markdown]
# **Check 7.5** (the test can fail). Six updates that are wrong, one of them with the right marginals. With $\xi$ a fresh standard normal vector and the noise level $w=1$, $\lambda=\tfrac12$:
#
# - *no drift*: $h\,v+w\sqrt h\,\xi$, noise without the score that gathers it again,
# - *$\lambda=w$*: $h\,(v+ws)+w\sqrt h\,\xi$. Some texts leave out that $\lambda=w^2/2$. At $w=2$ nobody would notice the difference,
# - *minus the score*: the drift of the way back, used on the way there,
# - *without the root*: noise $h\,w\,\xi$ for $\sqrt h\,w\,\xi$,
# - *factor dropped*: $h\,(s+v/\lambda)+w\sqrt h\,\xi$. The update that was meant is $h\,(v+\lambda s)$. At $\lambda=1$ nobody would notice,
# - *noise twice*: a function returns $w\sqrt h\,\xi$ and its caller multiplies by noise again, $w\sqrt h\,\xi\xi'$.


# %%
def wander(update, w=1.0):
    """Take the steps x + update(v, s, h, w, z) along the grid; z() is fresh noise."""
    states = [start]
    for t, end in zip(grid[:-1], grid[1:], strict=True):
        x, time = states[-1], t.expand(len(start))
        v = exact(x, time)
        s = linear.convert(v, x, time, "velocity", "score")
        states.append(x + update(v, s, end - t, w, fresh_noise))
    return torch.stack(states)


def fresh_noise():
    return torch.randn(start.shape, generator=generator)


# %%
updates = {
    "right": lambda v, s, h, w, z: h * (v + w**2 / 2 * s) + w * h**0.5 * z(),
    "no drift": lambda v, s, h, w, z: h * v + w * h**0.5 * z(),
    "λ = w": lambda v, s, h, w, z: h * (v + w * s) + w * h**0.5 * z(),
    "minus the score": lambda v, s, h, w, z: h * (v - w**2 / 2 * s) + w * h**0.5 * z(),
    "without the root": lambda v, s, h, w, z: h * (v + w**2 / 2 * s) + w * h * z(),
    "factor dropped": lambda v, s, h, w, z: h * (s + v / (w**2 / 2)) + w * h**0.5 * z(),
    "noise twice": lambda v, s, h, w, z: (
        h * (v + w**2 / 2 * s) + w * h**0.5 * z() * z()
    ),
}
walks = {name: wander(update) for name, update in updates.items()}

# %%
width = covariance.trace().sqrt().item()
for name, states in walks.items():
    score, chance = marginals_hold(states, linear, marks)
    passed = score < 5 and chance > 1 / 401
    wide = states[-1].var(dim=0).sum().sqrt().item() / width
    print(f"{name:16s} marginals right: {passed!s:5}   width: {wide:.1f} times")
    record("width_" + name.replace(" ", "_").replace("λ_=_w", "lambda"), f"{wide:.1f}")
    assert passed == (name in ("right", "noise twice")), (name, score, chance)

# %% [markdown]
# "Noise twice" passes: the variance is right, and over many steps the central limit theorem repairs the shape. The single steps give it away.
#
# **Check 7.6** (increments). What a step adds beyond its drift must be $w\sqrt h$ times a standard normal vector. Its kurtosis, the fourth moment over the square of the second, is 3. A product of two standard normals has variance 1 and kurtosis 9. Of $n$ normal numbers the standard error of the kurtosis is $\sqrt{24/n}$; the product has heavier tails, so its estimate gets a wide tolerance.


# %%
def kurtosis(states, step, w=1.0):  # of the increments, less their drift
    x, t, h = states[step], grid[step].expand(len(start)), grid[step + 1] - grid[step]
    drift = exact(x, t) + w**2 / 2 * exact.score(x, t)
    fresh = (states[step + 1] - x - h * drift) / (w * h.sqrt())
    return (fresh**4).mean().item() / (fresh**2).mean().item() ** 2


# %%
package = solve_sde(exact, start, grid, linear, levels["w = 1"], generator).states
both = {"solve_sde": package, "noise twice": walks["noise twice"]}
values = {
    name: sum(kurtosis(states, i) for i in range(50, 60)) / 10
    for name, states in both.items()
}
print(", ".join(f"{name}: kurtosis {value:.0f}" for name, value in values.items()))
assert abs(values["solve_sde"] - 3) < 5 * math.sqrt(24 / 60_000)
assert 8 < values["noise twice"] < 10

# %% [markdown]
# ## The reversed diffusion
#
# Run the diffusion $dy=f\,y\,dr+g\,dW$ from data to noise, with $f=-\dot\alpha/\alpha$ and $g^2=2\sigma\Delta/\alpha$ at $t=1-r$. It has the densities $p_t$ backwards. Which member of the family is this process run in reverse?
#
# **Check 7.7** (its noise level). `reversal_noise_level` must be $\sqrt{\beta}$ for VP, and for the other schedules what the chapter computes: $\sqrt{2(1-t)/t}$ and $\sqrt{\pi\cot(\pi t/2)}$.

# %%
t = torch.linspace(0.05, 0.95, 19).double()
closed_forms = {
    "VP": (0.1 + 19.9 * (1 - t)).sqrt(),
    "linear": (2 * (1 - t) / t).sqrt(),
    "cosine": (math.pi / torch.tan(math.pi * t / 2)).sqrt(),
}
for name, closed in closed_forms.items():
    level = reversal_noise_level(paths[name].schedule)(t)
    assert (level - closed).abs().max() < 1e-9 * closed.max(), name
print("noise level of the reversal = closed form, for", ", ".join(closed_forms))

# %% [markdown]
# **Check 7.8** (only one member is the reversal). All members have the same density at each time, so you must look at two times at once. In the diffusion, $x_{0.4}$ comes from $x_{0.8}$ by shrinking and adding independent noise. So the covariance of the two states is $\frac{\alpha_{0.4}}{\alpha_{0.8}}\operatorname{Cov}(x_{0.8})$. Start at $p_{0.4}$ of the cosine schedule, run forward with $c$ times the noise level, and measure the ratio of the traces. The ratio has a standard error of about 0.01.

# %%
cosine_field = ExactField(cosine, target)
reversal = reversal_noise_level(COSINE)
first, last = torch.tensor(0.4), torch.tensor(0.8)
predicted = (COSINE.alpha(first) / COSINE.alpha(last)).item()
early = draw(cosine, first, 5000)
print(f"the diffusion: {predicted:.2f}")

# %%
for c in (0.0, 0.5, 1.0, 2.0):
    way = torch.linspace(0.4, 0.8, 61)
    level = lambda t, c=c: c * reversal(t)  # noqa: E731
    late = solve_sde(cosine_field, early, way, cosine, level, generator).last
    a, b = early - early.mean(dim=0), late - late.mean(dim=0)
    ratio = ((a * b).sum() / (b**2).sum()).item()
    same = abs(ratio - predicted) < 0.05
    print(f"c = {c:3.1f}: {ratio:.1f}, the same as the diffusion: {same}")
    assert same == (c == 1.0), (c, ratio)

# %% [markdown]
# ## What noise costs and what it buys
#
# **Check 7.9** (what it costs). Take the cosine schedule with data $\mathcal N(0,1)$: then $p_t=\mathcal N(0,1)$ for all $t$ and the flow stands still. An ODE solver makes no error at all. With constant $\lambda$ a step of Euler and Maruyama is $x'=(1-\lambda h)x+\sqrt{2\lambda h}\,\xi$. Its variance settles at $1/(1-\lambda h/2)$ if $\lambda h<2$. If $\lambda h>2$ it grows without bound.

# %%
still = ExactField(cosine, distributions.Gaussian(torch.zeros(1)))
flat = torch.randn(50_000, 1, generator=generator)
way = torch.linspace(0, 0.9, 41)
for strength in (0.0, 0.2, 1.0, 2.2):  # of the noise: λh
    level = lambda t, x=strength: (2 * x * 40 / 0.9) ** 0.5 + 0 * t  # noqa: E731
    variance = solve_sde(still, flat, way, cosine, level, generator).last.var().item()
    if strength < 2:
        settled = 1 / (1 - strength / 2)
        print(f"λh = {strength}: variance {variance:.1f}, closed form {settled:.1f}")
        assert abs(variance - settled) < 0.035 * settled  # five standard errors
    else:
        print(f"λh = {strength}: variance above 1000: {variance > 1000}")
        assert variance > 1000

# %% [markdown]
# **Check 7.10** (what it buys, and when). Give the sampler a wrong field: the exact one of three modes plus an error of known shape, on $0.02\le t\le0.98$, with $c$ times the noise level of the reversal. There are two cases. *One network*: the score is computed from the wrong velocity, as in every sampler of this chapter. *Exact score*: it comes from somewhere else. The table holds energy distances of 3000 samples to fresh data; it is stored, four seeds. A part of it is measured again here: for a constant error, noise must halve the squared distance if the score is exact, and must make it larger by half if it is not.

# %%
stored = stored_results("diffusion")
amounts = ("0", "0.5", "1", "2")
print(f"{'error, score':16s}", *(f"{f'c = {c}':>11s}" for c in amounts))
for kind in [f"{e}, {s}" for e in ("constant", "wavy") for s in ("one", "exact")]:
    rows = [stored["errors"][f"{kind}, {c}"] for c in amounts]
    cells = [f"{mean:.2f} ± {deviation:.2f}" for mean, deviation in rows]
    print(f"{kind:16s}", *cells)
    for c, cell in zip(amounts, cells, strict=True):
        record(f"{kind}, {c}".replace(", ", "_"), cell)
chance = stored["errors"]["none, one, 0"]
record("chance", f"{chance[0]:.2f} ± {chance[1]:.2f}")
print(f"two fresh sets: {chance[0]:.2f} ± {chance[1]:.2f}")

# %%
way = torch.linspace(0.02, 0.98, 101)
begin, fresh = draw(cosine, way[0], 1200), draw(cosine, way[-1], 1200)


def disturbed(c, exact_score):
    """Sample, velocity wrong by 0.5; return the squared energy distance to data."""
    x = begin
    for t, end in zip(way[:-1], way[1:], strict=True):
        time, w, h = t.expand(len(x)), c * reversal(t), end - t
        v = cosine_field(x, time) + torch.tensor([0.5, 0.0])
        s = cosine.convert(v, x, time, "velocity", "score")
        s = cosine_field.score(x, time) if exact_score else s
        z = torch.randn(x.shape, generator=generator)
        x = x + h * (v + w**2 / 2 * s) + w * h.sqrt() * z
    return energy_distance(x, fresh) ** 2


# %%
without, healed, unhealed = (
    disturbed(0.0, True),
    disturbed(2.0, True),
    disturbed(2.0, False),
)
print("exact score: noise heals:", healed < 0.5 * without)
print("one network: noise makes it worse:", unhealed > 1.5 * without)
assert healed < 0.5 * without and unhealed > 1.5 * without

# %% [markdown]
# With an exact score noise forgets errors of the velocity. With one network the error enters the score too: a little noise hardly changes the result, and much noise makes it worse.
#
# **Check 7.11** (a closed form for it). On the flow that stands still, let the velocity have the constant error $\delta$. With $c$ times the reversal's noise level the mean arrives at $\delta\,(1+c^2)\int_0^1\sin^{c^2}(\pi t/2)\,dt$, and with an exact score at the same without the factor $1+c^2$. You run the first for $\delta=\tfrac12$.

# %%
s = (torch.arange(2000) + 0.5) / 2000
way = torch.linspace(0.002, 0.998, 201)
for c in (0.0, 1.0, 2.0):
    level = lambda t, c=c: c * reversal(t)  # noqa: E731
    wrong = lambda x, t: still(x, t) + 0.5  # noqa: E731
    end = solve_sde(wrong, flat[:10_000], way, cosine, level, generator).last
    forgets = torch.sin(math.pi * s / 2).pow(c**2).mean().item()
    closed = 0.5 * (1 + c**2) * forgets
    print(f"c = {c:g}: the mean is off by {end.mean():.1f}, closed form {closed:.1f}")
    record(f"one_network_{c:g}", round((1 + c**2) * forgets, 2))
    record(f"exact_score_{c:g}", round(forgets, 2))
    assert (
        abs(end.mean().item() - closed) < 0.06
    )  # five standard errors and the step size
    assert c == 0 or abs(end.mean().item() - 0.5 * forgets) > 0.2

# %% [markdown]
# ## Train by predicting noise
#
# DDPM draws the same $x_0,x_1,t$ as flow matching, and regresses on $x_0$ instead of $\dot x_t$.
#
# **Check 7.12** (the same regression with another weight). At each time the noise loss is $(\alpha_t/\Delta_t)^2$ times the velocity loss of the network read as a velocity. For an untrained network and the same batch the ratio must agree to seven digits, for three schedules and three times.

# %%
untrained = MLP().double()
weights = {
    "linear": lambda t: t**2,
    "cosine": lambda t: (2 / math.pi * torch.sin(math.pi * t / 2)) ** 2,
    "VP": lambda t: 4 * VP.sigma(t) ** 2 / (0.1 + 19.9 * (1 - t)) ** 2,
}

# %%
for name, weight in weights.items():
    for time in (0.1, 0.4, 0.9):
        t = torch.full((512,), time, dtype=torch.float64)
        x0, x1 = torch.randn(512, 2).double(), ring.sample(512, generator).double()
        of_noise = noise_prediction_loss(untrained, paths[name], x0, x1, t)
        velocity = as_velocity(untrained, paths[name], "noise")
        ratio = of_noise / flow_matching_loss(velocity, paths[name], x0, x1, t)
        assert abs(ratio / weight(t[0]) - 1) < 1e-7, (name, time)
print("noise loss = (α/Δ)² × velocity loss, for", ", ".join(weights))

# %% tags=["hide-input"]
t = torch.linspace(0.005, 0.995, 199)
colors = (plotting.TRUTH, plotting.DATA, plotting.MODEL)
figure, (left, right) = plotting.panels(
    ["weight of the velocity loss", "clock log(α/σ)"]
)
for color, (name, weight) in zip(colors, weights.items(), strict=True):
    left.plot(t.cpu(), weight(t).cpu(), color=color, label=name)
    right.plot(
        t.cpu(), half_log_snr(paths[name].schedule, t).cpu(), color=color, label=name
    )
left.set(xlabel="t", yscale="log", ylim=(1e-4, 5))
left.legend(loc="lower right")
right.set(xlabel="t")
plotting.show(
    figure,
    "weights",
    "Left, on a log scale: the weight that predicting noise puts on the velocity loss. "
    "For the linear and cosine schedules it rises from below 0.001 to 1 and 0.4. For "
    "VP it rises from 0.01 to a peak near t = 1. Right: log(α/σ) rises from −5 to "
    "about 5 for all three schedules, at different speeds.",
)

# %% [markdown]
# *Figure 7.3.* Left: predicting noise is flow matching with this weight, which neglects the noise end. Right: the schedules as clocks.
#
# Now train: the loop of the lab on flow matching, with a narrower network, a higher learning rate, another loss and the VP schedule.

# %%
network = MLP(width=128)
ema = EMA(network, decay=0.995)


def loss():
    x1 = ring.sample(512, generator)
    x0 = torch.randn(x1.shape, generator=generator)
    return noise_prediction_loss(network, vp, x0, x1, uniform_times(512, generator))


for _ in train(network, loss, steps=2000, learning_rate=1e-2, ema=ema):
    pass
diffusion = as_velocity(ema.network, vp, "noise")

# %% [markdown]
# **Two samplers of the papers.** A noise prediction gives a guess of the data. *DDIM* mixes the two guesses again, with the weights of the next time. *DDPM* replaces a part of the predicted noise by fresh noise $\xi$, and keeps so much of the rest that the variance of all noise is $\sigma'^2$. The amount it adds is the chapter's $b$, with $b^2=\frac{\sigma'^2}{\sigma^2}\bigl(\sigma^2-\frac{\alpha^2}{\alpha'^2}\sigma'^2\bigr)$.


# %% tags=["quote-ddim"]
def mix_again(noise, x, now, later, added=0, xi=0):
    """Step between two pairs (α, σ)."""
    (alpha, sigma), (alpha2, sigma2) = now, later
    # x = α x̂₁ + σ x̂₀, solved for x̂₁
    data = (x - sigma * noise) / alpha
    # so much of the noise is not replaced
    kept = (sigma2**2 - added**2) ** 0.5
    return alpha2 * data + kept * noise + added * xi


# %%
ends, x = torch.tensor([0.3, 0.4]), target.sample(500, own)
now, later = ((vp.schedule.alpha(t), vp.schedule.sigma(t)) for t in ends)
b = later[1] / now[1] * (now[1] ** 2 - (now[0] / later[0] * later[1]) ** 2) ** 0.5
t, field = ends[0].expand(500), ExactField(vp, target)
guess = vp.convert(field(x, t), x, t, "velocity", "noise")
for name, eta in (("DDIM", 0.0), ("DDPM", 1.0)):
    xi = torch.randn(x.shape, generator=own.manual_seed(7))
    step = ddim(vp, eta, own.manual_seed(7))  # draws the same noise
    theirs = solve(field, x, ends, step).last
    assert (mix_again(guess, x, now, later, eta * b, xi) - theirs).abs().max() < 1e-5
    print(f"{name}: the step by hand is the package's")

# %% [markdown]
# **Check 7.13** (one network, four samplers). Draw with a plain ODE, with DDIM, with DDPM's ancestral sampler, and with the SDE at the reversal's noise level, which takes a hundred steps for the fifty of the others. `fresh_ratio` compares the Wasserstein distance of 1000 samples to fresh data with that of two fresh sets, each averaged over eight draws, because one such distance varies by a fifth: it comes from how many points fall into each mode. The ratio may be at most 1.25. A ring that is 13 % too small must exceed it, by more than four standard errors above 1. All modes get their share to within 30 %; its standard error is 4 %.
#
# What this distance does not see is a few points that are a little off. Between the modes lie about twice as many samples as data, and no ratio says so. So count the strays, the points more than 2.5 from every centre. They may be 16 %, where the data have 4 %.

# %%
noise = torch.randn(8000, 2, generator=generator)
fifty = torch.linspace(0, 1, 51)
early_stop = torch.linspace(0, 0.999, 101)
level = reversal_noise_level(VP)
with torch.no_grad():
    samples = {
        "ODE": solve(diffusion, noise, early_stop[::2], euler).last,
        "DDIM": solve(diffusion, noise, fifty, ddim(vp)).last,
        "DDPM": solve(diffusion, noise, fifty, ddim(vp, 1.0, generator)).last,
        "SDE": solve_sde(diffusion, noise, early_stop, vp, level, generator).last,
    }


# %%
def strays(x):
    """Return the share of samples more than 2.5 from every centre."""
    return (torch.cdist(x, ring.means).amin(dim=1) > 2.5).float().mean().item()


def fresh_ring(n):
    return ring.sample(n, generator)


# %%
quality = {name: (fresh_ratio(x, fresh_ring), strays(x)) for name, x in samples.items()}
for name, (ratio, stray) in quality.items():
    shares = mode_shares(samples[name], ring.means) * 11
    even = bool(0.7 < shares.min() and shares.max() < 1.3)
    near, few = ratio.value < 1.25, stray < 0.16
    print(f"{name:6s} ratio below 1.25: {near}   all modes: {even}", end="   ")
    print(f"strays below 16 %: {few}")
    assert near and even and few, (ratio, shares, stray)
small = fresh_ratio(0.87 * samples["DDIM"], fresh_ring)
print("a ring 13 % too small is found:", small.value > max(1.25, 1 + 4 * small.error))
assert small.value > max(1.25, 1 + 4 * small.error), small
fresh_strays = strays(fresh_ring(8000))
assert abs(fresh_strays - math.exp(-(2.5**2) / 2)) < 0.01  # four standard errors

# %% tags=["nbval-ignore-output"]
for name, (ratio, stray) in quality.items():
    print(
        f"{name:6s} {ratio.value:.2f} ± {ratio.error:.2f} times as far as data are,",
        end=" ",
    )
    print(f"strays {100 * stray:.0f} %")
print(f"13 % too small: {small.value:.2f} ± {small.error:.2f} times")
record("samplers_ratio", round(max(ratio.value for ratio, _ in quality.values()), 1))
record("samplers_strays", round(100 * max(stray for _, stray in quality.values())))
record("small_ratio", round(small.value, 1))

# %% tags=["hide-input"]
figure, axes = plotting.panels(list(samples), extent=14)
for ax, x in zip(axes, samples.values(), strict=True):
    plotting.draw_samples(ax, x[:2500], plotting.MODEL, size=1.5)
plotting.show(
    figure,
    "samplers",
    "Four panels, one for each sampler, with the same ring of eleven clusters. In all "
    "four some points lie between neighbouring clusters.",
)

# %% [markdown]
# *Figure 7.4.* Four samplers, one network that was trained to predict noise. It is small and was trained for seconds: points lie between the modes, whichever way you sample.
#
# ## DDIM and DDPM
#
# **Check 7.14** (in their own notation). The papers write a step from $k$ to $k-1$ with $\bar\alpha_k=\prod_{j\le k}(1-\beta_j)$, which is $\alpha^2$ here. You evaluate their formulas: DDIM with $\eta=0$, $0.5$, $1$, and DDPM with the mean $\frac{1}{\sqrt{1-\beta_k}}\bigl(x-\frac{\beta_k}{\sqrt{1-\bar\alpha_k}}\hat x_0\bigr)$ and the variance $\frac{1-\bar\alpha_{k-1}}{1-\bar\alpha_k}\beta_k$. One step of the package, with the same fresh noise, must agree to $10^{-6}$, with DDPM at $\eta=1$. With $\eta=\tfrac12$ it must not be DDPM.

# %%
betas = torch.linspace(1e-4, 0.02, 1000).double()
bar = torch.cat([torch.ones(1), (1 - betas).cumprod(0)])  # bar[k] for k = 0 … T


def paper_ddim(x, k, eta, noise, fresh):
    """Song, Meng and Ermon 2021, Eq. 12 and 16."""
    variance = (1 - bar[k - 1]) / (1 - bar[k]) * (1 - bar[k] / bar[k - 1])
    std = eta * variance.sqrt()
    data = (x - (1 - bar[k]).sqrt() * noise) / bar[k].sqrt()
    kept = (1 - bar[k - 1] - std**2).sqrt()
    return bar[k - 1].sqrt() * data + kept * noise + std * fresh


# %%
def paper_ddpm(x, k, noise, fresh):
    """Ho et al. 2020, Algorithm 2, with the smaller of their two variances."""
    mean = (x - betas[k - 1] / (1 - bar[k]).sqrt() * noise) / (1 - betas[k - 1]).sqrt()
    return mean + ((1 - bar[k - 1]) / (1 - bar[k]) * betas[k - 1]).sqrt() * fresh


# %%
ddpm_path = AffinePath(ddpm_schedule(betas))
ddpm_field = ExactField(ddpm_path, ring)


def steps_of(k, eta):
    """Return one step from level k: by the package, DDIM's paper, DDPM's paper."""
    ends = 1 - torch.tensor([k, k - 1]).double() / 1000
    t = ends[0].expand(200)
    x = draw(ddpm_path, ends[0], 200, ring)
    noise = ddpm_path.convert(ddpm_field(x, t), x, t, "velocity", "noise")
    own = torch.Generator(device).manual_seed(k)
    step = solve(ddpm_field, x, ends, ddim(ddpm_path, eta, own)).last
    fresh = torch.randn(x.shape, generator=own.manual_seed(k), dtype=x.dtype)
    return step, paper_ddim(x, k, eta, noise, fresh), paper_ddpm(x, k, noise, fresh)


# %%
for eta in (0.0, 0.5, 1.0):
    triples = [steps_of(k, eta) for k in (1000, 700, 300, 50, 2)]
    to_ddim = max((ours - theirs).abs().max().item() for ours, theirs, _ in triples)
    to_ddpm = max((ours - theirs).abs().max().item() for ours, _, theirs in triples)
    same = to_ddim < 1e-6, to_ddpm < 1e-6
    print(f"η = {eta:3.1f}: DDIM's formula {same[0]}, DDPM's formula {same[1]}")
    assert same == (True, eta == 1)

# %% [markdown]
# The 1000 levels of DDPM are a grid of times on a schedule that is almost VP.

# %%
t = 1 - torch.arange(1, 1001).double() / 1000
signal = (bar[1:].sqrt() - VP.alpha(t)).abs().max().item()
rest = ((1 - bar[1:]).sqrt() - VP.sigma(t)).abs().max().item()
print(f"DDPM's 1000 levels against VP: α to {signal:.4f}, σ to {rest:.4f}")
record("ddpm_alpha", round(signal, 4))
record("ddpm_sigma", round(rest, 4))
assert max(signal, rest) < 0.002

# %% [markdown]
# **Check 7.15** (DDIM is Euler with another clock). Follow $x/\sigma$ against the clock $\alpha/\sigma$: the ODE becomes $d(x/\sigma)=\hat x_1\,d(\alpha/\sigma)$, and Euler's step for it is DDIM. For the linear schedule DDIM and Euler in $t$ are equal, to rounding; for the cosine schedule they differ. And the order is 1.

# %%
few, gap = torch.linspace(0, 1, 8), {}
for name in ("linear", "cosine"):
    field, x = ExactField(paths[name], ring), noise[:1000]
    ends = [solve(field, x, few, step).last for step in (euler, ddim(paths[name]))]
    gap[name] = (ends[0] - ends[1]).abs().max().item()
print("Euler = DDIM to rounding:", {name: value < 1e-4 for name, value in gap.items()})
assert gap["linear"] < 1e-4 < 0.1 < gap["cosine"]

# %%
x = torch.randn(200, 2, generator=generator).double()
reference = solve(cosine_field, x, torch.linspace(0, 0.95, 201).double(), rk4).last
misses = []
for steps in (20, 40, 80, 160):
    end = solve(
        cosine_field, x, torch.linspace(0, 0.95, steps + 1).double(), ddim(cosine)
    ).last
    misses.append((end - reference).square().sum(dim=1).mean().sqrt().item())
order = math.log2(misses[-2] / misses[-1])
print(f"order of DDIM: {order:.1f}")
assert abs(order - 1) < 0.15

# %% [markdown]
# **Check 7.16** (DDPM is a member of the family). A small ancestral step must move like the SDE with $\eta$ times the noise level $w$ of the reversal: the mean increment over $h$ is $v+\tfrac12\eta^2w^2s$ and the variance over $h$ is $\eta^2w^2$. You take one step of length $h=10^{-3}$ from one point, 200,000 times. The mean must agree to five standard errors, the variance to 2 %.

# %%
many, h = torch.tensor([[1.0, -0.5]]).double().expand(200_000, 2), 1e-3
short = torch.tensor([0.4, 0.4 + h]).double()
for (name, path), eta in [(pair, eta) for pair in paths.items() for eta in (0.5, 1.0)]:
    field, t = ExactField(path, target), short[:1]
    variance = eta**2 * reversal_noise_level(path.schedule)(t).item() ** 2
    moved = solve(field, many, short, ddim(path, eta, generator)).last - many
    drift = field(many[:1], t) + variance / 2 * field.score(many[:1], t)
    off = (moved.mean(dim=0) / h - drift[0]).abs().max().item()
    off /= math.sqrt(variance / h / 2e5)
    ratio = moved.var(dim=0).mean().item() / h / variance
    assert off < 5 and abs(ratio - 1) < 0.02, (name, eta, off, ratio)
print("small ancestral steps are steps of the SDE, for", ", ".join(paths))

# %% [markdown]
# ## Change the schedule of a trained network
#
# Two schedules visit the same states at the same signal-to-noise ratio, up to a factor. So one network serves both.
#
# **Check 7.17** (the exact field). The linear field, changed to cosine and to VP, must be the exact field of those paths. And DDIM on VP must give what Euler gives on the *linear* schedule from the same noise, if the two grids have the same signal-to-noise ratios: not approximately, but the same numbers at every step. On a uniform linear grid it must not.

# %%
t = (0.02 + 0.96 * torch.rand(2000, generator=generator)).double()
for wanted in (cosine, vp):
    x = draw(wanted, t, 2000, ring)
    changed = change_schedule(exact_ring, linear, wanted)(x, t)
    assert scaled_error(changed, ExactField(wanted, ring)(x, t)) < 1e-6
print("changed field = exact field")

# %%
vp_grid = torch.linspace(0, 1, 21).double()
linear_grid = time_of(LINEAR, half_log_snr(VP, vp_grid))
size = torch.hypot(LINEAR.alpha(linear_grid), LINEAR.sigma(linear_grid))
x = noise[:1000].double()
as_diffusion = solve(ExactField(vp, ring), x, vp_grid, ddim(vp)).states
as_flow = solve(exact_ring, size[0] * x, linear_grid, euler).states
gap = (as_flow - size[:, None, None] * as_diffusion).abs().max().item()
uniform = solve(exact_ring, x, vp_grid, euler).last
print("DDIM on VP = Euler on linear, at equal signal-to-noise ratios:", gap < 1e-6)
assert gap < 1e-6 < 0.1 < (uniform - as_diffusion[-1]).abs().max().item()

# %% [markdown]
# **Check 7.18** (the trained network). The network learned to predict noise on VP. Sample it as a diffusion, and by `change_schedule` as a flow on straight lines, by Heun's method, from the same noise and up to the same signal-to-noise ratio. Both grids are even in $\log(\alpha/\sigma)$. The two sets of samples must come together as the steps become smaller, at least threefold for each doubling, and to within 0.03, which is 3 % of a mode's width.

# %%
flow = change_schedule(diffusion, vp, linear)
first, last = 0.0, 0.995
start_flow, end_flow = time_of(
    LINEAR, half_log_snr(VP, torch.tensor([first, last]))
).tolist()
gaps = []

# %%
for steps in (10, 20, 40):
    straight = log_snr_grid(LINEAR, start_flow, end_flow, steps).float()
    sizes = torch.hypot(straight, 1 - straight)
    with torch.no_grad():
        x = noise[:300]
        one = solve(diffusion, x, log_snr_grid(VP, first, last, steps), heun).last
        two = solve(flow, sizes[0] * x, straight, heun).last / sizes[-1]
    gaps.append((one - two).square().sum(dim=1).mean().sqrt().item())
print("they come together:", gaps[0] > 3 * gaps[1] > 9 * gaps[2], gaps[2] < 0.03)
assert gaps[0] > 3 * gaps[1] > 9 * gaps[2] and gaps[2] < 0.03, gaps

# %% tags=["nbval-ignore-output"]
print("distance of the two sets of samples:", ", ".join(f"{gap:.3f}" for gap in gaps))
for steps, gap in zip((10, 20, 40), gaps, strict=True):
    record(f"same_samples_{steps}", round(gap, 3))

# %% [markdown]
# ## Data at time zero
#
# Many texts count time from the data: $r=1-t$. The velocity changes its sign with the clock, the score does not.
#
# **Check 7.19.** A field in that convention, integrated from $r=1$ down to $0$, must give the same samples. If you turn only the sign, or only the clock, it must not. If you turn back, you must have the field you started with.

# %%
theirs = reverse_time(exact_ring)
x, down = noise[:1000], torch.linspace(0.98, 0.0, 51)
ours = solve(exact_ring, x, torch.linspace(0.02, 1.0, 51), heun).last
same = solve(theirs, x, down, heun).last
only_sign = solve(lambda x, t: -exact_ring(x, t), x, down, heun).last
only_clock = solve(lambda x, t: exact_ring(x, 1 - t), x, down, heun).last
for name, end in {
    "both": same,
    "only the sign": only_sign,
    "only the clock": only_clock,
}.items():
    print(f"{name:15s} the same samples: {(end - ours).abs().max().item() < 1e-3}")
    assert ((end - ours).abs().max().item() < 1e-3) == (name == "both")
t = torch.full((1000,), 0.3)
assert torch.equal(reverse_time(theirs)(x, 1 - (1 - t)), exact_ring(x, 1 - (1 - t)))

# %% [markdown]
# ## At equal evaluations
#
# Ten samplers, the exact field of the ring, four seeds. Too long for a lab, so the results are stored. The measure is the standard deviation within the modes, which is 1 for data. Samplers with few steps err there first.

# %%
table, source = stored["samplers"], stored["provenance"]
counts = list(next(iter(table.values())))


def key(name):
    return "".join(c for c in name if c.isascii() and c.isalnum())


# %%
print(f"{'evaluations':30s}" + "".join(f"{n:>12s}" for n in counts))
for name, row in table.items():
    cells = [f"{row[n]['spread'][0]:.2f} ± {row[n]['spread'][1]:.2f}" for n in counts]
    print(f"{name:30s}" + "".join(f"{cell:>12s}" for cell in cells))
    for n, cell in zip(counts, cells, strict=True):
        record(key(f"{name} {n}"), cell.split(" ±")[0])

# %%
record("samplers_seeds", len(source["seeds"]))
record("training_seeds", len(source["seeds"]))
data_spread, data_distance = stored["fresh"]["spread"], stored["fresh"]["distance"]
record("data_spread", f"{data_spread[0]:.2f} ± {data_spread[1]:.2f}")
record("data_distance", f"{data_distance[0]:.2f} ± {data_distance[1]:.2f}")
print("data:", f"{data_spread[0]:.2f} ± {data_spread[1]:.2f}")
told = ("script", "seeds", "minutes", "torch", "device", "threads")
print({name: source[name] for name in told})

# %% tags=["hide-input"]
figure, (left, right) = plotting.panels(["ODE samplers", "noisy samplers"])
euler_maruyama = [name for name in table if "Maruyama" in name]
shown = {
    left: ("Euler = DDIM, linear", "DDIM, cosine", "DDIM, VP", "DPM-Solver++, VP"),
    right: ("ancestral, cosine", "ancestral, VP", *euler_maruyama),
}
colors = (plotting.TRUTH, plotting.DATA, plotting.MODEL, plotting.NOISE)
for ax, names in shown.items():
    for color, name in zip(colors, names, strict=True):
        mean = [table[name][n]["spread"][0] for n in counts]
        short_name = name.replace("Euler–Maruyama", "E.–M.")
        style = {"color": color, "marker": "o", "ms": 3, "label": short_name}
        ax.plot([int(n) for n in counts], mean, **style)
    ax.axhline(data_spread[0], color="black", linewidth=0.6, linestyle=":")
    ax.set(xlabel="evaluations", xscale="log", ylim=(0.8, 1.8))
    ax.legend(fontsize=7)
left.set_ylabel("width of the modes")
plotting.show(
    figure,
    "evaluations",
    "Width of the modes against evaluations from 5 to 100 for four ODE samplers and "
    "four noisy ones, with the width of the data as a dotted line. DPM-Solver++ is at "
    "the line with five evaluations, the others come down to it from above, the "
    "ancestral samplers dip below it.",
)

# %% [markdown]
# *Figure 7.5.* Width of the modes against evaluations; dotted: data.
#
# **Check 7.20** (a part of it again, now). Three samplers at ten evaluations, with a new seed. The result must lie within five standard deviations of the stored mean, or 0.03 where that is more.

# %%
start = torch.randn(4000, 2, generator=generator)
steps = {
    "Euler = DDIM, linear": ("linear", euler),
    "DDIM, VP": ("VP", ddim(vp)),
    "ancestral, VP": ("VP", ddim(vp, 1.0, generator)),
}
for name, (schedule, step) in steps.items():
    field = ExactField(paths[schedule], ring)
    x = solve(field, start, torch.linspace(0, 1, 11), step).last
    nearest = torch.cdist(x, ring.means).min(dim=1).values
    now = (nearest.square().mean() / 2).sqrt().item()
    mean, deviation = table[name]["10"]["spread"]
    agrees = abs(now - mean) < max(5 * deviation, 0.03)
    print(f"{name:22s} as stored: {agrees}")
    assert agrees, (now, mean, deviation)

# %% [markdown]
# Now trained networks: the same architecture, the same 2000 steps of 512 points; another target of the regression, another schedule. What a learning rate is good for depends on the target, so each kind has two to choose from, and shows the one with the smaller error. The first number is the relative error of the velocity, after conversion to the linear path, for $0.01\le t\le0.98$. The others are the width of the modes after 50 steps of DDIM on VP, and the Wasserstein distance of 1000 samples to fresh data after 10 steps of Euler on the linear schedule and of DDIM on VP.

# %%
trained = stored["training"]
best = {
    k: min(rows, key=lambda rate: rows[rate]["error"][0]) for k, rows in trained.items()
}
columns = [
    ("DDIM, VP, 50", "spread"),
    ("Euler, linear, 10", "distance"),
    ("DDIM, VP, 10", "distance"),
]

# %%
heads = ("error", "width", "euler", "ddim")

# %%
print(
    f"{'trained on':18s}{'rate':>6s}{'error':>15s}"
    + "".join(f"{h:>13s}" for h in heads[1:])
)
for kind, rate in best.items():
    row = trained[kind][rate]
    cells = [
        f"{row[name][what][0]:.2f} ± {row[name][what][1]:.2f}" for name, what in columns
    ]
    error = f"{row['error'][0]:.3f} ± {row['error'][1]:.3f}"
    print(
        f"{kind:18s}{rate:>6s}{error:>15s}" + "".join(f"{cell:>13s}" for cell in cells)
    )
    for name, cell in zip(heads, (error, *cells), strict=True):
        record(key(f"{name} {kind}"), cell)

# %% [markdown]
# The Wasserstein distance of two sets of data is about 1.1 and varies by 0.15, so it can tell apart only the ten steps of Euler. The width of the modes is a finer measure.
#
# ## Where to start with a noise prediction
#
# At $t=0$ of the linear schedule the state is noise and nothing else. The noise prediction is the state itself, and the velocity cannot be computed from it. So a sampler starts a little later, at $t_0$, and takes pure noise for the state there.
#
# **Check 7.21** (which $t_0$). Fifty Euler steps from $t_0$ to 1, and the root mean square distance of the samples from the exact ends of the same noise. With an exact noise prediction no $t_0$ up to 0.05 may be worse than 1.05 times the start at 0 with the exact velocity. With a prediction that is wrong by at most 0.02 in each coordinate, $t_0=0.0005$ must be at least ten times as bad as 0.05 with equal steps: the first step is 40 times as long as $t_0$, and it multiplies the error by 40. Steps that are even in $\log(\alpha/\sigma)$ must mend most of that. At $t_0=0.2$ the pure noise itself is wrong.


# %%
def mistaken(error):
    """Return the velocity from a noise prediction that is wrong by so much."""

    def velocity(x, t):
        noise = linear.convert(exact_ring(x, t), x, t, "velocity", "noise")
        wave = torch.stack([torch.cos(3 * x[:, 1]), torch.sin(3 * x[:, 0])], dim=1)
        return linear.convert(noise + error * wave, x, t, "noise", "velocity")

    return velocity


# %%
x = noise[:1000]
true_ends = solve(exact_ring, x, torch.linspace(0, 1, 401), rk4).last


def missed(field, grid):
    ends = solve(field, x, grid, euler).last
    return (ends - true_ends).square().sum(dim=1).mean().sqrt().item()


from_zero, late = missed(exact_ring, torch.linspace(0, 1, 51)), {}
print(f"exact velocity from t = 0: {from_zero:.2f}")
print("t0: exact noise; wrong by 0.02; the same, even in log(α/σ)")

# %%
for first in (0.0005, 0.005, 0.05, 0.2):
    equal = torch.linspace(first, 1, 51)
    even = log_snr_grid(LINEAR, first, 0.995, 49).float().to(device)
    even = torch.cat([even, torch.ones(1)])
    late[first] = missed(mistaken(0.0), equal), missed(mistaken(0.02), equal)
    late[first] += (missed(mistaken(0.02), even),)
    print(f"{first}:", " ".join(f"{value:.1f}" for value in late[first]))
    for name, value in zip(("exact", "equal", "even"), late[first], strict=True):
        record(f"start_{name}_{first}", f"{value:.1f}")
assert all(late[first][0] < 1.05 * from_zero for first in (0.0005, 0.005, 0.05))
assert late[0.0005][1] > 10 * late[0.05][1] and late[0.2][0] > 5 * from_zero
assert late[0.0005][2] < 0.4 * late[0.0005][1]

# %% [markdown]
# ## How far the guarantee reaches
#
# **Check 7.22** (the bound with the reversal's noise). For a velocity that is wrong by $\delta$ and a score from it, the chapter bounds the relative entropy by $\int\lVert\delta\rVert^2/\lambda^*_t\,dt$, with $\lambda^*=\sigma\Delta/\alpha$. For an error of constant size 1 the integral from 0 to $t_1$ is $-t_1-\log(1-t_1)$ on the linear schedule and $-\frac4{\pi^2}\log\cos\frac{\pi t_1}2$ on the cosine one. Both grow without bound as $t_1\to1$. On VP it is $\frac2{19.9}\log\frac{20}{20-19.9t_1}$, which stays below 0.54. Sums must agree with these.

# %%
closed = {
    "linear": lambda t: -t - math.log(1 - t),
    "cosine": lambda t: -4 / math.pi**2 * math.log(math.cos(math.pi * t / 2)),
    "VP": lambda t: 2 / 19.9 * math.log(20 / (20 - 19.9 * t)),
}
# %%
middles = (torch.arange(200_000).double() + 0.5) / 200_000
for name, integral in closed.items():
    found = []
    for end in (0.9, 0.99, 0.999):
        strength = reversal_noise_level(paths[name].schedule)(end * middles) ** 2 / 2
        found.append((1 / strength).mean().item() * end)
        assert abs(found[-1] / integral(end) - 1) < 1e-3
        record(f"reach_{name}_{end}", f"{integral(end):.2f}")
    print(f"{name:7s} up to 0.9, 0.99, 0.999:", *(f"{value:.2f}" for value in found))
record("reach_VP", f"{closed['VP'](1):.2f}")
assert closed["VP"](1) < 0.54

# %% [markdown]
# ## One axis of noise
#
# One start, one field, and samplers in the order of how much noise a step adds, in units of the noise level $w^*$ of the reversal: ODE and DDIM at 0, DDPM and the SDE with $w^*$ at 1, DDIM with $\eta$ between, and the SDE with more noise beyond.
#
# **Check 7.23** (the axis). From one point at $t=0.5$ of VP each sampler takes one step of 0.01, 4000 times. The standard deviation of where it lands, over $w^*\sqrt{0.01}$, must be the sampler's place on the axis, to 6 %: 3 % for the statistics, the rest for the length of the step. Then all go from one start to $t=1$ in 100 steps. ODE and DDIM must end in one point each, in the same mode. With more noise fewer runs must end in that mode, and DDPM and the SDE with $w^*$ must agree in that share to 0.05, five standard errors.

# %%
vp_ring, wstar = ExactField(vp, ring), reversal_noise_level(VP)
hundred, early = torch.linspace(0, 1, 101), torch.linspace(0, 0.999, 101)


def axis_run(kind, c, x, whole=True):
    """Run DDIM with η = c, or the SDE with c times the reversal's noise level."""
    times = torch.tensor([0.5, 0.51])
    if kind == "DDIM":
        step = ddim(vp, c, generator)
        return solve(vp_ring, x, hundred if whole else times, step).last
    level = lambda t: c * wstar(t)  # noqa: E731
    times = early if whole else times
    return solve_sde(vp_ring, x, times, vp, level, generator).last


# %%
begin = torch.tensor([[0.8, 0.5]]).expand(4000, 2)
samplers = [("DDIM", c) for c in (0.0, 0.25, 0.5, 1.0)]
samplers += [("SDE", c) for c in (0.0, 0.25, 0.5, 1.0, 2.0)]
place, landed, share = {}, {}, {}
for key_ in samplers:
    spread = axis_run(*key_, begin, whole=False).std(dim=0).mean()
    place[key_] = (spread / (wstar(torch.tensor(0.5)) * 0.1)).item()
    landed[key_] = axis_run(*key_, begin)
    assert abs(place[key_] - key_[1]) <= 0.06 * key_[1]

# %%
mode = {k: torch.cdist(x, ring.means).argmin(dim=1) for k, x in landed.items()}
home = mode["SDE", 0.0][0]
for k, m in mode.items():
    share[k] = (m == home).float().mean().item()
    print(f"{k[0]:5s}{k[1]:5.2f} w*: in the mode of the ODE: {share[k]:.1f}")
    record(f"share_{k[0]}_{k[1]}", round(100 * share[k], -1))
assert share["DDIM", 0.0] == share["SDE", 0.0] == 1
assert 1 > share["SDE", 0.25] > share["SDE", 0.5] > share["SDE", 1.0]
assert abs(share["DDIM", 1.0] - share["SDE", 1.0]) < 0.05

# %% tags=["hide-input"]
figure, (ax,) = plotting.panels(["one start, one field: where the runs end"])
figure.set_figheight(3.8)
jitter = torch.Generator("cpu").manual_seed(0)
ode = torch.atan2(*landed["SDE", 0.0][0].flip(0)).cpu()
for (kind, c), x in landed.items():
    x, off = x[:150].cpu(), -0.05 if kind == "DDIM" else 0.05
    turn = ((torch.atan2(x[:, 1], x[:, 0]) - ode) / math.pi * 180 + 180) % 360 - 180
    across = c + off + 0.04 * (torch.rand(150, generator=jitter, device="cpu") - 0.5)
    color = plotting.DATA if kind == "DDIM" else plotting.MODEL
    label = {"DDIM0.0": "DDIM, to DDPM", "SDE0.0": "ODE, to SDE"}.get(f"{kind}{c}")
    style = {"s": 6, "c": color, "alpha": 0.6, "linewidths": 0, "label": label}
    ax.scatter(across.cpu(), turn.cpu(), **style)
names = {0: "0\nODE,\nDDIM", 0.25: "¼", 0.5: "½", 1: "1\nDDPM,\nSDE", 2: "2\nSDE"}
ax.set_xticks(list(names), list(names.values()))
ax.set(xlim=(-0.2, 2.2), ylim=(-180, 180), yticks=(-180, -90, 0, 90, 180))
ax.set(ylabel="degrees from the end of the ODE")
ax.set(xlabel="noise of a step, in units of that of the reversal")
ax.legend(fontsize=8, loc="center", bbox_to_anchor=(0.73, 0.5))
alt = (
    "Where 150 runs from one start end on the ring, as an angle, against the noise "
    "that a step adds. At 0 the ODE and DDIM have one point each, in the same mode. At "
    "one quarter the runs end in a few modes around it, at one half in most modes, "
    "fewer of them opposite, at 1, for DDPM and the SDE alike, and at 2 all around."
)
plotting.show(figure, "axis", alt)

# %% [markdown]
# *Figure 7.6.* ODE, DDIM, DDPM and the SDE on one axis of noise: same start, same field. Each dot is the end of one run. All samplers have the same densities; what noise changes is how much of the start is remembered.
#
# ## Training for likelihood
#
# How likely does a model find the data? As likely as $\mathrm{KL}(p_1\Vert p^\theta_1)$ is small. The chapter bounds it by $\int\frac{(1+\lambda/\lambda^*)^2}{4\lambda}\,\mathbb E\lVert\delta_t\rVert^2dt$, where $\delta$ is the error of the velocity, for the SDE with noise $\lambda$ and the score of the same network. With a Gaussian in one dimension and affine fields everything has a closed form. A field is a pair of functions here, shift and slope: $v_t(x)=a_t+k_tx$.


# %%
def gaussian_law(m, s, t):
    """Mean and variance of x_t, linear schedule."""
    return t * m, (t * s) ** 2 + (1 - t) ** 2


def gaussian_field(m, s, t):
    """Shift and slope of the exact velocity."""
    mean, variance = gaussian_law(m, s, t)
    slope = (t * s**2 - (1 - t)) / variance
    return m - slope * mean, slope


def gaussian_kl(p, q):
    (m1, v1), (m2, v2) = p, q
    return ((v2 / v1).log() + (v1 + (m1 - m2) ** 2) / v2 - 1) / 2


# %%
t = torch.linspace(0.05, 0.95, 19).double()
narrow = distributions.Gaussian(torch.tensor([0.5]).double(), 0.1**2)
shift, slope = gaussian_field(0.5, 0.1, t)
for x in (-1.0, 0.25):
    exact = ExactField(linear, narrow)(torch.full((19, 1), x).double(), t)[:, 0]
    assert (shift + slope * x - exact).abs().max() < 1e-9 * exact.abs().max()
print("shift and slope are those of the exact field")

# %% [markdown]
# The data are $\mathcal N(0.5,\,0.1^2)$. One model has a constant error of 0.3. The other is the exact field of other data, $\mathcal N(0.56,\,0.12^2)$. Each runs from $t_0=0.05$, where it starts in its own density, to $t_1=0.98$, with $c$ times the noise level of the reversal, for nine values of $c$ at once. Its mean and its variance obey two ordinary equations.

# %%
DATA_LAW, OTHER = (0.5, 0.1), (0.56, 0.12)


def shifted(t):
    shift, slope = gaussian_field(*DATA_LAW, t)
    return shift + 0.3, slope


models = {  # a field and the law that it starts in
    "constant error": (shifted, DATA_LAW),
    "other data": (lambda t: gaussian_field(*OTHER, t), OTHER),
}
levels = torch.tensor([0, 0.25, 0.35, 0.5, 0.7, 1, 1.5, 2, 4]).double()
clock_grid = log_snr_grid(LINEAR, 0.05, 0.98, 1000).double().to(device)


# %%
def run_model(field, start):
    """Mean and variance at all times, shape (T, 9), for the nine noise levels."""

    def speed(law, t):
        (shift, slope), strength = field(t), levels**2 * (1 - t) / t
        # the score of the same field: (t v − x) / (1 − t)
        shift, slope = (
            shift + strength * t * shift / (1 - t),
            slope + strength * (t * slope - 1) / (1 - t),
        )
        mean, variance = law[:, 0], law[:, 1]
        return torch.stack([shift + slope * mean, 2 * (slope * variance + strength)], 1)

    begin = torch.stack(gaussian_law(*start, clock_grid[0])).expand(9, 2)
    return solve(speed, begin, clock_grid, rk4).states.unbind(dim=2)


# %% [markdown]
# **Check 7.24** (the weight of the likelihood). For each $c>0$ the relative entropy at $t_1$ must lie below the bound, and of all bounds that with $c=1$ must be the least. For the field of other data the relative entropy must be the same for every $c$, the ODE's among them, and equal to that least bound, to $10^{-4}$: 1000 intervals of the trapezoidal rule leave $10^{-5}$. For the constant error the ODE must lie above the least bound, which is none for it.

# %%
column, strength = clock_grid[:, None], (1 - clock_grid[:, None]) / clock_grid[:, None]
data_law = gaussian_law(*DATA_LAW, column)
entropy, bound, laws = {}, {}, {}
for name, (field, start) in models.items():
    laws[name] = run_model(field, start)
    entropy[name] = gaussian_kl(data_law, laws[name])
    shift, slope = field(column)
    true_shift, true_slope = gaussian_field(*DATA_LAW, column)
    a, b = shift - true_shift, slope - true_slope
    error = (a + b * data_law[0]) ** 2 + b**2 * data_law[1]  # E‖δ‖²
    factor = (1 + levels**2) ** 2 / (4 * levels**2 * strength)
    bound[name] = torch.trapezoid(factor * error, column, dim=0) + entropy[name][0]

# %%
print("noise level c:  ", *(f"{c:5.2f}" for c in levels))
for name in models:
    found, limit = entropy[name][-1], bound[name]
    print(f"{name}: KL  ", *(f"{value:5.3f}" for value in found))
    print(f"{'':{len(name)}s}  bound", *(f"{value:5.3f}" for value in limit))
    assert (found[1:] < limit[1:] * (1 + 1e-4)).all() and limit.argmin() == 5
found, least = entropy["other data"][-1], bound["other data"][5]
assert ((found / least - 1).abs() < 1e-4).all()
assert entropy["constant error"][-1, 0] > bound["constant error"][5]
for key_, value in {
    "ode": entropy["constant error"][-1, 0],
    "sde": entropy["constant error"][-1, 5],
    "least": bound["constant error"][5],
}.items():
    record(f"likelihood_{key_}", f"{value:.3f}")

# %% tags=["hide-input"]
figure, axes = plotting.panels(list(models))
fine = 2 ** torch.linspace(-2, 2, 101)
for ax, name in zip(axes, models, strict=True):
    c, found = levels[1:].cpu(), entropy[name][-1].cpu()
    begun, least = entropy[name][0, 5], bound[name][5]
    curve = begun + ((fine + 1 / fine) / 2) ** 2 * (least - begun)
    ax.plot(fine.cpu(), curve.cpu(), color=plotting.TRUTH, label="bound")
    ax.plot(c, found[1:], "o", ms=4, color=plotting.MODEL, label="SDE")
    ax.axhline(found[0], color=plotting.DATA, ls="--", label="ODE")
    ax.set(xscale="log", xlabel="c", ylim=(0, 3 * bound[name][5].item()))
    ax.set_xticks([0.25, 0.5, 1, 2, 4], ["¼", "½", "1", "2", "4"])
    ax.minorticks_off()
axes[0].set(ylabel="relative entropy")
axes[1].legend(fontsize=8, loc="upper center")
plotting.show(
    figure,
    "likelihood",
    "Relative entropy of the data from the model against the noise level c from one "
    "quarter to four, in two panels. The bound is a valley with its floor at c = 1. "
    "Left, for a constant error, the dots of the SDE lie below it and the line of the "
    "ODE crosses above its floor. Right, for the field of other data, dots and line "
    "lie at one height, and the bound touches them at c = 1.",
)

# %% [markdown]
# *Figure 7.7.* The bound of the likelihood and what it bounds, with $c$ times the noise level of the reversal. Left: a field with a constant error. Right: the exact field of other data, for which the least bound is the truth.
#
# **Check 7.25** (rates). Along the way the relative entropy must change at the rate $\mathbb E[(b-b^\theta)\cdot\zeta-\lambda\lVert\zeta\rVert^2]$ with $\zeta=\nabla\log(p_t/p^\theta_t)$ and the two drifts $b$, $b^\theta$. For the ODE the second term is gone. The expectation is a sum over three points that is exact for polynomials up to the fifth degree, the rate a central difference of the relative entropies in $\ell=\log\frac t{1-t}$. They must agree to $10^{-3}$ of the largest rate; the difference leaves $10^{-4}$.

# %%
points = torch.tensor([-(3**0.5), 0, 3**0.5]).double()[:, None, None]
shares = torch.tensor([1, 4, 1]).double()[:, None, None] / 6
mean, variance = data_law
x, width = mean + variance.sqrt() * points, math.log(0.98 / 0.02 * 0.95 / 0.05) / 1000
noise_strength, worst = levels**2 * strength, 0.0

# %%
for name, (field, _) in models.items():
    (shift, slope), (m, v) = field(column), laws[name]
    true_shift, true_slope = gaussian_field(*DATA_LAW, column)
    delta = shift - true_shift + (slope - true_slope) * x
    zeta = (x - m) / v - (x - mean) / variance
    rate = -(1 + levels**2) * delta * zeta - noise_strength * zeta**2
    rate = (shares * rate).sum(dim=0) * column * (1 - column)  # by ℓ
    measured = (entropy[name][2:] - entropy[name][:-2]) / (2 * width)
    gap = (measured - rate[1:-1]).abs().amax(dim=0) / rate.abs().amax(dim=0)
    worst = max(worst, gap.max().item())
print("rates of two models at nine noise levels, to 1e-3:", worst < 1e-3)
assert worst < 1e-3

# %% [markdown]
# **Check 7.26** (one bound for all schedules). By the chapter the least bound is $\int\mathbb E\lVert\hat x_0^\theta-\hat x_0\rVert^2\,d\ell$, an integral over levels $\ell=\log(\alpha/\sigma)$ that knows nothing of the schedule. `change_schedule` takes the field with the constant error to the cosine schedule and to VP, where its error is no constant any more. Between the same two levels $\int\mathbb E\lVert\delta\rVert^2/\lambda^*\,dt$ must be what it was, to $10^{-4}$. Without the factor $1/\lambda^*$ it must not be.


# %%
def wrong(x, t):
    return ExactField(linear, narrow)(x, t) + 0.3


def error_on(path, t):
    """E‖δ‖² at the times t, for the field above on another schedule."""
    field, exact = change_schedule(wrong, linear, path), ExactField(path, narrow)
    a, s = path.schedule.alpha(t), path.schedule.sigma(t)
    x = (0.5 * a)[:, None] + (0.01 * a**2 + s**2).sqrt()[:, None] * points[:, :, 0].T
    delta = [field(x[:, i : i + 1], t) - exact(x[:, i : i + 1], t) for i in range(3)]
    return (torch.cat(delta, dim=1).square() * shares[:, 0, 0]).sum(dim=1)


# %%
ell, rows = torch.linspace(-2.0, 3.0, 1001).double(), {}
for name, path in paths.items():
    t = time_of(path.schedule, ell)
    error, level = error_on(path, t), reversal_noise_level(path.schedule)(t)
    rows[name] = [
        torch.trapezoid(error * factor, t).item() for factor in (2 / level**2, 1)
    ]
    print(f"{name}: the bound {rows[name][0]:.3f}, unweighted {rows[name][1]:.3f}")
bounds, plain = zip(*rows.values(), strict=True)
assert max(bounds) / min(bounds) - 1 < 1e-4 < 0.1 < max(plain) / min(plain) - 1

# %% [markdown]
# **Check 7.27** (what the times do). A pixel of a digit is nearly a number: $\mathcal N(0.5,\,0.02^2)$. The network is one that cannot have everything: $a_t+k_tx$, where $a_t$ and $k_t$ are polynomials of degree four in $t$. Its loss is a quadratic, so training is one least-squares problem, with 400 000 draws. Four times over: uniform times, logit-normal ones, those of `likelihood_times`, and these with the factor $t$ in the loss, which makes the density $\frac1{1-t}$ into the weight $\frac t{1-t}$ of the bound. All is then measured up to $t_1=0.99$. By design the first must have the least plain error and the last the least bound. The relative entropy of the ODE must be at most a fifth of that of uniform times for the last two.


# %%
dice = torch.Generator(device).manual_seed(7)
kinds = {
    "uniform": uniform_times,
    "logit-normal": logit_normal_times,
    "likelihood": lambda n, generator: likelihood_times(n, 0.01, generator),
}
kinds["bound"] = kinds["likelihood"]


def powers(t):
    return t[:, None] ** torch.arange(5)


# %%
def fit(kind, n=400_000):
    """Least squares with features t^j and t^j x; return a field."""
    t = kinds[kind](n, generator=dice).double()
    x0, x1 = torch.randn(2, n, generator=dice).double()
    x1 = 0.5 + 0.02 * x1
    x = t * x1 + (1 - t) * x0
    features = torch.cat([powers(t), powers(t) * x[:, None]], dim=1)
    weighted = (t if kind == "bound" else 1 + 0 * t)[:, None] * features
    found = torch.linalg.solve(weighted.T @ features, weighted.T @ (x1 - x0))
    return lambda t: (powers(t) @ found[:5], powers(t) @ found[5:])


# %%
def ode_end(field, grid):
    def speed(law, t):
        shift, slope = field(t)
        return torch.stack([shift + slope * law[:, 0], 2 * slope * law[:, 1]], dim=1)

    return solve(speed, torch.tensor([[0.0, 1.0]]).double(), grid, rk4).last[0]


t = 1 - 0.01 ** torch.linspace(0, 1, 401).double()
pixel = gaussian_law(0.5, 0.02, t)
shift, slope = gaussian_field(0.5, 0.02, t)

# %%
trained_on = {}
for kind in kinds:
    field = fit(kind)
    a, b = (ours - exact for ours, exact in zip(field(t), (shift, slope), strict=True))
    error = (a + b * pixel[0]) ** 2 + b**2 * pixel[1]
    limit = torch.trapezoid(t / (1 - t) * error, t).item()
    missed_by = gaussian_kl([part[-1] for part in pixel], ode_end(field, t)).item()
    trained_on[kind] = torch.trapezoid(error, t).item(), limit, missed_by
    print(f"{kind:12s} error {trained_on[kind][0]:.3f}, bound {limit:.2f},", end=" ")
    print(f"relative entropy of the ODE {missed_by:.3f}")
    for what, value in zip(("error", "bound", "ode"), trained_on[kind], strict=True):
        record(f"times_{kind}_{what}", f"{value:.{2 if what == 'bound' else 3}f}")

# %%
assert min(kinds, key=lambda kind: trained_on[kind][0]) == "uniform"
assert min(kinds, key=lambda kind: trained_on[kind][1]) == "bound"
for kind in ("likelihood", "bound"):
    assert trained_on[kind][2] < 0.2 * trained_on["uniform"][2]

# %% [markdown]
# ## Summary
#
# - Velocity, score, noise and data are one thing. At the noise end predict velocity or data, at the data end velocity or noise.
# - One network gives a flow without noise, a diffusion with the reversal's noise, and everything between and beyond; the densities are the same.
# - DDIM is Euler's method with the clock $\alpha/\sigma$; DDPM is the member of the family with the noise of the reversal.
# - Predicting noise is flow matching with the weight $(\alpha/\Delta)^2$.
# - A schedule can be changed after training.
# - The likelihood weighs an error of the velocity by $t/(1-t)$ on the linear schedule: times close to the data count.
#
# ## Questions
#
# 1. In Check 7.5 "minus the score" gives samples that are too wide. Why does it not give the densities of the way back?
# 2. Give `wander` a noise level that is 3 for $t<0.2$ and 0 after. Do the marginals hold? How many steps does it need?
# 3. In Check 7.8, what is the covariance of $x_{0.4}$ and $x_{0.8}$ under the flow without noise, if the data are $\mathcal N(0,I)$? And as $c\to\infty$?
# 4. Why does the noise loss on VP stay finite although the velocity loss with uniform times does not?
# 5. Train the network to predict data on the linear schedule. At which end does the sampler suffer?
