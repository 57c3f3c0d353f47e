# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lab: Common mistakes
#
# Every mistake of the page of common mistakes, made on purpose. You run the wrong line beside the right one and measure the damage. Almost nothing is trained here: the fields are exact, so that nothing but the mistake is to blame. The numbers of the checks are those of the page.
#
# After this lab you can
#
# - tell each mistake by its symptom, and its symptom from a badly trained network,
# - say which mistakes raise an error and which are silent,
# - write a test that would have found each one,
# - carry a model of another library or paper over to this book's conventions, and check that you did it right.

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
import warnings

import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

# %%
from fmtutorial import conventions, couplings, distributions
from fmtutorial.diffusion import as_velocity, change_schedule, solve_sde
from fmtutorial.exact import ExactField
from fmtutorial.fields import expand_time
from fmtutorial.images.data import dequantise, small_digits
from fmtutorial.labs import record, use_default_device
from fmtutorial.likelihood import divergence, rademacher_like
from fmtutorial.losses import flow_matching_loss, logit_normal_times, uniform_times
from fmtutorial.metrics import relative_error, wasserstein
from fmtutorial.networks import MLP
from fmtutorial.paths import COSINE, LINEAR, SQRT, VP, AffinePath, lipman
from fmtutorial.solvers import euler, heun, midpoint, rk4, solve, solve_adaptive

# %%
device = use_default_device()
generator = torch.Generator(device).manual_seed(0)
torch.manual_seed(0)  # first weights of networks


def randn(*shape, **options):
    return torch.randn(*shape, generator=generator, **options)


# %% [markdown]
# Most experiments have the same data: one small Gaussian, with mean $(4,0)$ and standard deviation $\tfrac12$. A sampler is right if it arrives there. Noise is drawn once. `report` prints the measured numbers to a few digits and stores them for the page.

# %%
path = AffinePath(LINEAR)
blob = distributions.Gaussian(torch.tensor([4.0, 0.0]), 0.25)
exact = ExactField(path, blob)
ring = distributions.ring_of_gaussians()
noise = randn(20_000, 2)
grid = torch.linspace(0, 1, 101)


def report(name, digits=2, **numbers):
    for kind, number in numbers.items():
        rounded = float(f"{float(number):.{digits}g}")
        print(f"{kind}: {rounded:g}")
        record(f"{name}_{kind}", rounded)


# %%
def mean_and_std(x):
    """Mean of the first coordinate, standard deviation of the second."""
    return x[:, 0].mean().item(), x[:, 1].std().item()


def arrives(x, tolerance=0.03):
    """Say whether samples have the mean and the standard deviation of the blob."""
    mean, std = mean_and_std(x)
    return abs(mean - 4) < tolerance and abs(std - 0.5) < tolerance


samples = solve(exact, noise, grid, heun).last
# 20,000 samples: standard error of the mean 0.004; Heun's own error is below that
assert arrives(samples)
print("right code arrives:", arrives(samples))

# %% [markdown]
# ## Paths and targets
#
# **Check 9.1** (noise in the place of the state). The conditional velocity $u_t(x\mid x_1)=\dfrac{x_1-(1-\sigma_{\min})\,x}{1-(1-\sigma_{\min})\,t}$ has the *current* state in its numerator. With $x_0$ there, the target is too long by the factor $1/(1-(1-\sigma_{\min})t)$.

# %%
s_min = 0.01
lipman_path = AffinePath(lipman(s_min))
x0, x1, t = noise, blob.sample(len(noise), generator), torch.full((len(noise),), 0.9)
point = lipman_path.sample(x0, x1, t)
bottom = 1 - (1 - s_min) * expand_time(t, x0)
wrong = (x1 - (1 - s_min) * x0) / bottom
right = (x1 - (1 - s_min) * point.x_t) / bottom
ratio = wrong.norm(dim=1).mean() / point.velocity.norm(dim=1).mean()
report("numerator", times_too_long=ratio)
assert ratio > 9
assert relative_error(right, point.velocity) < 1e-4  # rounding, divided by 0.1

# %%
fit = ExactField(lipman_path, blob)


def too_long(x, t):
    """What a perfect network learns from the wrong target."""
    return fit(x, t) / expand_time(1 - (1 - s_min) * t, x)


fine = torch.linspace(0, 1, 501)
beyond = mean_and_std(solve(too_long, noise[:2000], fine, rk4).last)[0]
report("numerator", mean=beyond)
assert beyond > 40 and arrives(solve(fit, noise, grid, heun).last)

# %% [markdown]
# **Check 9.2** (a target that is not the derivative of the path). The path is $x_t=tx_1+(1-t)x_0$, the target that of another path, $x_1-(1-\sigma_{\min})x_0$. What a network then learns is the mean of the target, $v_t(x)+\sigma_{\min}\hat x_0(x,t)$. Here $\sigma_{\min}=0.1$. Part of the noise is not taken out, so the samples are too wide.


# %%
def mismatched(x, t):
    """The field that minimises the loss with the wrong target."""
    velocity = exact(x, t)
    return velocity + 0.1 * path.convert(velocity, x, t, "velocity", "noise")


wide = solve(mismatched, noise, grid, heun).last
variance_ratio = (mean_and_std(wide)[1] / 0.5) ** 2
report("derivative", variance_ratio=variance_ratio)
assert variance_ratio > 1.1 and arrives(samples)

# %% [markdown]
# **Check 9.3** (a bracket in the wrong place). $(1-\sigma_{\min}t)$ for $1-(1-\sigma_{\min})\,t$: the noise is hardly taken away at all. At $t=1$ there should be $\sigma_{\min}=0.01$ of it left.

# %%
end = torch.ones(1)
left = 1 - s_min * end
report("bracket", noise_left=left, noise_wanted=lipman(s_min).sigma(end))
assert left > 0.9
assert abs(lipman(s_min).sigma(end).item() - s_min) < 1e-6

# %% [markdown]
# **Check 9.4** (noise with two names). A text calls the noise $z_0$ in the path and $\epsilon$ in the target. Code that takes the two names for two things draws twice. Given $x_t$ the second draw has mean zero, so a network learns $\dot\alpha_t\hat x_1$: nothing removes the noise. The schedule is variance preserving ($\alpha^2+\sigma^2=1$, `COSINE`).

# %%
cosine_path = AffinePath(COSINE)
on_circle = ExactField(cosine_path, blob)


def drawn_twice(x, t):
    return COSINE.alpha_dot(expand_time(t, x)) * on_circle.posterior_mean(x, t)


twice = solve(drawn_twice, noise, grid, heun).last
report("two_names", std=mean_and_std(twice)[1])
assert mean_and_std(twice)[1] > 1
assert arrives(solve(on_circle, noise, grid, heun).last)

# %% [markdown]
# **Check 9.5** (one conditional velocity in the place of the mean of all). The data are the numbers $-1$ (one in five) and $3$ (four in five). At each step the wrong sampler follows the conditional velocity of the *likeliest* data point. The rarer one is lost. The exact field, the mean over both, keeps the shares.

# %%
points = torch.tensor([-1.0, 3.0, 3.0, 3.0, 3.0])
two_points = ExactField(path, points)
short = torch.linspace(0, 0.999, 200)


def likeliest(x, t):
    logits = -((x[:, None] - t[:, None] * points) ** 2) / (2 * (1 - t[:, None]) ** 2)
    score = torch.stack([logits[:, 0], logits[:, 1] + math.log(4)], dim=1)
    return path.conditional_velocity(x, points[score.argmax(dim=1)], t)


# %%
shares = [
    (solve(f, noise[:, 0], short).last < 1).float().mean()
    for f in (likeliest, two_points)
]
report("likeliest", wrong_share=shares[0], right_share=shares[1])
assert shares[0] < 0.1
assert abs(shares[1] - 0.2) < 0.02  # standard error 0.003, and Euler's error

# %% [markdown]
# **Check 9.6** (the posterior). The weight of data point $z$ in the marginal field is $p_t(x\mid z)\,p(z)/p_t(x)$. Printed as $p_t(x\mid z)\,p(x)/p(x)$ it is the bare density $p_t(x\mid z)$. Those weights do not sum to one. The data are the centres of the ring, $t=0.5$, and the sum is taken at points of the path.

# %%
t = torch.full((2000,), 0.5)
chosen = torch.randint(0, 11, (2000,), generator=generator)
x = path.sample(noise[:2000], ring.means[chosen], t).x_t
squares = (x[:, None] - 0.5 * ring.means).square().sum(dim=2)
density = torch.exp(-squares / (2 * 0.5**2)) / (2 * math.pi * 0.5**2)
weights = density / 11 / (density / 11).sum(dim=1, keepdim=True)
velocities = (ring.means - x[:, None]) / 0.5
fields = [(w[:, :, None] * velocities).sum(dim=1) for w in (density, weights)]

# %%
truth = ExactField(path, ring.means)(x, t)
errors = [relative_error(field, truth) for field in fields]
report("posterior", wrong_sum=density.sum(dim=1).mean(), error=errors[0])
assert errors[0] > 0.3 and errors[1] < 1e-4

# %% [markdown]
# **Check 9.7** (a square root in the place of a variance). You want modes of standard deviation $0.1$ and pass $0.1=\sqrt{0.01}$ where a covariance belongs.

# %%
stds = [
    torch.distributions.MultivariateNormal(torch.zeros(2), c * torch.eye(2))
    .sample((50_000,))
    .std()
    for c in (0.1, 0.1**2)
]
report("covariance", wrong_std=stds[0], right_std=stds[1])
# relative standard error of a standard deviation of 100,000 numbers: 0.002
assert abs(stds[0] - math.sqrt(0.1)) < 0.004 and abs(stds[1] - 0.1) < 0.002

# %% [markdown]
# **Check 9.8** (a small constant in the denominator). For one data point the field is $(x_1-x)/(1-t)$. With $1-t+\kappa$ below, the samples stop short by $\kappa/(1+\kappa)$ of the way (chapter 2), for any solver and any number of steps. Here $\kappa=0.01$ and the data point is 10 away.

# %%
kappa, target = 0.01, torch.tensor([10.0, 0.0])
start = torch.zeros(1, 2)
stopped = solve(
    lambda x, t: (target - x) / expand_time(1 - t + kappa, x),
    start,
    torch.linspace(0, 1, 1001),
    rk4,
).last
# the right field is not defined at t = 1 itself, where no Euler step needs it
reached = solve(lambda x, t: (target - x) / expand_time(1 - t, x), start, grid).last
report("constant", missing=(target - stopped).norm())
assert abs((target - stopped).norm() - 10 * kappa / (1 + kappa)) < 1e-3
assert (target - reached).norm() < 1e-4

# %% [markdown]
# ## Time
#
# **Check 9.9** (the other convention of time). In many texts $t=0$ is data and $t=1$ is noise. `theirs` is such a model: the right field in the other convention. Used as it stands from noise at $t=0$, it is asked for data velocities where noise is, and its arrows point to noise.

# %%
# what a text with data at t = 0 calls its velocity
theirs = conventions.reverse_time(exact)
as_it_stands = solve(theirs, noise, grid, heun).last
report("convention", mean=mean_and_std(as_it_stands)[0])
assert mean_and_std(as_it_stands)[0] < 0
assert arrives(solve(conventions.reverse_time(theirs), noise, grid, heun).last)

# %% [markdown]
# **Check 9.10** (reversed twice). The same model, on a grid from 1 to 0, *and* with a minus sign. A decreasing grid has negative steps already. The two signs cancel, and the samples run away from the data.

# %%
backwards = torch.linspace(1, 0, 101)
away = solve(lambda x, t: -theirs(x, t), noise, backwards, heun).last
report("two_signs", mean=mean_and_std(away)[0])
assert mean_and_std(away)[0] < 0
assert arrives(solve(theirs, noise, backwards, heun).last)

# %% [markdown]
# **Check 9.11** (a grid that evaluates at $t=1$). Ten Euler steps to a Gaussian with mean 10. `linspace(0, 1, n)` as the starts of $n$ steps contains $t=1$, where no step can start: every step uses the field of a later time. On this field Euler's mean is exact, so all that is missing is the mistake's.

# %%
single = ExactField(path, distributions.Gaussian(torch.tensor([10.0, 0.0])))


def steps_from(times, h):
    x = noise
    for t in times:
        x = x + h * single(x, t.expand(len(x)))
    return mean_and_std(x)[0]


# %%
starts = torch.arange(10) / 10
right = steps_from(starts, 0.1)
report("late_grid", mean=steps_from(torch.linspace(0, 1, 10), 0.1))
assert steps_from(torch.linspace(0, 1, 10), 0.1) < right - 0.2
# standard error of the mean with 20,000 samples: 0.007
assert abs(right - 10) < 0.05

# %% [markdown]
# **Check 9.12** (one step short). A loop over `range(1, n)` leaves out the first of the same ten steps. On the way to a mean of 10 that step is worth 1.

# %%
short_by_one = steps_from(starts[1:], 0.1)
report("off_by_one", mean=short_by_one)
assert short_by_one < right - 0.9

# %% [markdown]
# **Check 9.13** (the range of time). `scaled` was trained with times from 0 to 1000, as models of diffusers are. It is asked at times from 0 to 1. It answers as if every state were finished data. At $t=1$ the exact velocity is $\hat x_1-\hat x_0=x-0$, so that the samples follow $dx/dt=x$: their mean stays at zero, and they spread by the factor $e$.

# %%
scaled = conventions.to_diffusers(exact)  # model(x, k), k from 0, data, to 1000, noise
lost = solve(lambda x, t: -scaled(x, 1 - t), noise, grid, heun).last
mean, std = mean_and_std(lost)
report("range", digits=2, mean=round(mean, 1) + 0.0, std=std)
# standard errors: 0.02 of the mean, 0.014 of the standard deviation, and Heun's error
assert abs(mean) < 0.2 and abs(std - math.e) < 0.1
assert arrives(solve(conventions.from_diffusers(scaled), noise, grid, heun).last)

# %% [markdown]
# **Check 9.14** (the sign of the logit-normal location). $1/(1+e^{z})$ and $1/(1+e^{-z})$ have the same distribution only if $z$ is centred at zero. With $z\sim\mathcal N(1,1)$ one prefers data, the other noise.

# %%
z = 1 + randn(100_000)
flipped, ours = 1 / (1 + torch.exp(z)), logit_normal_times(100_000, 1.0, 1.0, generator)
early = [(times < 0.5).float().mean() for times in (flipped, ours)]
report("location", wrong=early[0], right=early[1])
assert early[0] > 0.8 > 0.2 > early[1]

# %% [markdown]
# ## Losses
#
# **Check 9.15** (a loss that cannot converge). With $\sigma_t=\sqrt{1-t}$ the expected square of the noise part of the target, $\dot\sigma_t^2$, is $\tfrac14\int_0^{1-\delta}\frac{dt}{1-t}=\tfrac14\ln\frac1\delta$ up to a cut-off $\delta$. It grows with every decade and has no limit. The linear schedule has $\dot\sigma^2=1$.


# %%
def squared_slope(schedule, delta):
    """Integrate the square of σ̇ from 0 to 1 − delta, in the variable −ln(1 − t)."""
    y = torch.linspace(0, -math.log(delta), 2001, dtype=torch.float64)
    return torch.trapezoid(
        schedule.sigma_dot(-torch.expm1(-y)) ** 2 * torch.exp(-y), y
    ).item()


values = [squared_slope(SQRT, delta) for delta in (1e-2, 1e-4, 1e-6)]
report("diverges", at_2=values[0], at_4=values[1], at_6=values[2])
for value, decades in zip(values, (2, 4, 6), strict=True):
    assert abs(value - decades * math.log(10) / 4) < 1e-3
assert abs(squared_slope(LINEAR, 1e-6) - 1) < 1e-4

# %% [markdown]
# **Check 9.16** (waiting for zero). The conditional loss differs from the marginal one by a *constant*; it is not proportional to it. For the exact field the marginal loss is 0 and the conditional one is its floor, about twenty on the ring.

# %%
on_ring = ExactField(path, ring)
n = 100_000
x0, x1, t = randn(n, 2), ring.sample(n, generator), uniform_times(n, generator)
x_t = path.sample(x0, x1, t).x_t
truth, gaps = on_ring(x_t, t), []

# %%
print("times the exact field: CFM, FM, difference")
for factor in (1.0, 0.5, 0.0):
    cfm = flow_matching_loss(lambda x, t, f=factor: f * on_ring(x, t), path, x0, x1, t)
    fm = (factor - 1) ** 2 * truth.square().sum(dim=1).mean()
    gaps.append((cfm - fm).item())
    print(f"{factor:3.1f}: {cfm:.0f}, {fm:.0f}, {gaps[-1]:.0f}")
report("floor", loss_of_the_exact_field=gaps[0])
# standard error of the cross term: 0.15
assert max(gaps) - min(gaps) < 0.8 and gaps[0] > 15

# %% [markdown]
# **Check 9.17** (losses of two schedules side by side). Their floors differ, so that the smaller loss says nothing about the better model. Both numbers belong to *perfect* fields of the same data.

# %%
floors = [
    ExactField(p, ring).target_variance(p.sample(x0, x1, t).x_t, t).mean()
    for p in (path, cosine_path)
]
report("floors", linear=floors[0], cosine=floors[1])
assert floors[1] > 1.3 * floors[0]

# %% [markdown]
# ## Couplings
#
# One batch of 256 pairs, noise and ring. `plan` is the entropic plan, in the log domain, with a regularisation relative to the mean cost.
#
# **Check 9.18** (the largest entry of each column). Giving each data point the noise point with the largest weight uses some noise points often and others never. A permutation uses each once.

# %%
x0, x1 = randn(256, 2), ring.sample(256, generator)
cost = couplings.squared_distances(x0, x1)
plan = couplings.sinkhorn_log(cost, 0.05 * cost.mean().item(), 500)


def share_used(rows):
    return len(torch.unique(rows)) / len(rows)


permuted = couplings.exact_ot(x0, x1)
report("argmax", share_of_noise_used=share_used(plan.argmax(dim=0)))
assert share_used(plan.argmax(dim=0)) < 0.9
assert torch.equal(permuted.sort(dim=0).values, x0.sort(dim=0).values)

# %% [markdown]
# **Check 9.19** (pairs drawn from the plan). $B$ draws with replacement from the plan leave out a share of $(1-1/B)^B\approx e^{-1}$ of the data points, and of the noise points, of every batch.

# %%
drawn = [
    torch.multinomial(plan.flatten(), 256, True, generator=generator) for _ in range(50)
]
kept = sum(share_used(pairs % 256) for pairs in drawn) / 50
report("replacement", share_of_data_used=kept, expected=1 - (1 - 1 / 256) ** 256)
assert abs(kept - (1 - math.exp(-1))) < 0.02

# %% [markdown]
# **Check 9.20** (the target forgets the pairing). The path uses the permuted noise, the target the noise as it was drawn. The target is then not the velocity of the path on which $x_t$ lies. (What a network learns from it is in chapter 4.)

# %%
ends = torch.zeros(256), torch.ones(256)
first, last = (path.sample(permuted, x1, t).x_t for t in ends)
velocity = last - first  # of the straight line on which x_t lies
report("unpaired", error=relative_error(x1 - x0, velocity))
assert relative_error(x1 - x0, velocity) > 0.1
assert relative_error(path.sample(permuted, x1, ends[0]).velocity, velocity) < 1e-5

# %% [markdown]
# **Check 9.21** (an absolute $\rho$). The regularisation has the unit of the cost. $0.05$ against costs of a hundred makes the kernel $e^{-c/\rho}$ underflow, here even in double precision, and the plan is not a number. In units of the mean cost and in the log domain the same $0.05$ is fine, and it stays the same plan when the data are rescaled.

# %%
kernel = torch.exp(-cost / 0.05)
lost_share = (kernel == 0).double().mean()
right = torch.ones(256, dtype=cost.dtype)
left = 1 / (256 * (kernel @ right))
report("absolute", digits=3, zero_share=lost_share)
assert lost_share > 0.9 and not torch.isfinite(left).all()
larger = couplings.sinkhorn_log(100 * cost, 0.05 * 100 * cost.mean().item(), 500)
assert torch.isfinite(plan).all() and (larger - plan).abs().max() < 1e-6 / 256

# %% [markdown]
# **Check 9.22** (too few iterations). The columns of the plan are exact by construction; the rows are off by what is left to do. A plan with wrong rows uses some noise points more than others.


# %%
def row_error(iterations, relative_epsilon=0.01):
    p = couplings.sinkhorn_log(cost, relative_epsilon * cost.mean().item(), iterations)
    return (p.sum(dim=1) * 256 - 1).abs().mean().item()


few, many = row_error(5), row_error(1000)
report("iterations", rows_off_after_5=few)
print("after 1000 iterations below 1 %:", many < 0.01)
assert few > 0.1 and many < 0.01

# %% [markdown]
# **Check 9.23** (a label-blind plan). Two classes, left and right. The best pairing of the whole batch gives each class the noise of its own side: half a normal distribution, with mean $\sqrt{2/\pi}\approx0.80$. At sampling time every class starts from all of the noise. Pairing within each class keeps it whole.

# %%
x0, label = randn(1000, 2), torch.arange(1000) % 2
x1 = 0.5 * randn(1000, 2) + torch.tensor([5.0, 0.0]) * (2 * label[:, None] - 1)
blind = couplings.exact_ot(x0, x1)[label == 1, 0].mean()
aware = couplings.within_labels(couplings.exact_ot, x0, x1, label)[label == 1, 0].mean()
report("blind", mean_of_noise=blind)
assert blind > 0.7 and abs(aware) < 4 / math.sqrt(500)

# %% [markdown]
# **Check 9.24** (a stale cache). A cache of pairings whose key is `data_ptr()`, the address of the batch. The loader writes the next batch into the same memory, the key is found, and the pairing is that of another batch. Only the first of these ten batches gets its own; the others cost as much as a random pairing.


# %%
def order(x0, x1):
    """Rows of x0 in the best order for x1."""
    cost = couplings.squared_distances(x0, x1)
    return torch.as_tensor(linear_sum_assignment(cost.T.cpu().numpy())[1])


cache, buffer, costs = {}, torch.empty(256, 2), torch.zeros(3)
for _ in range(10):
    x0 = randn(256, 2)
    buffer.copy_(ring.sample(256, generator))
    stale = cache.setdefault(buffer.data_ptr(), order(x0, buffer))
    for i, paired in enumerate((x0[stale], x0, couplings.exact_ot(x0, buffer))):
        costs[i] += (paired - buffer).square().sum(dim=1).mean() / 10
report("cache", digits=3, stale=costs[0], random=costs[1], fresh=costs[2])
assert costs[0] > 1.15 * costs[2] and len(cache) == 1

# %% [markdown]
# ## Solvers
#
# **Check 9.25** (counting steps). Fifty steps are 50 evaluations of Euler, 100 of Heun, 200 of RK4. Each evaluation is one call of the network, and calls are what you wait for. So 25 steps of Heun go beside 50 of Euler.

# %%
fifty = torch.linspace(0, 1, 51)
counts = [
    solve(exact, noise[:100], fifty, step).evaluations for step in (euler, heun, rk4)
]
half = solve(exact, noise[:100], fifty[::2], heun).evaluations
report("steps", digits=3, euler=counts[0], heun=counts[1], rk4=counts[2], heun_25=half)
assert counts == [50, 100, 200] and half == 50

# %% [markdown]
# **Check 9.26** (a method under another's name). Some code calls "Euler" what evaluates half a step ahead. That is the midpoint rule. The order tells: halve the step, and the error of a method of order 1 halves, that of order 2 falls to a quarter.


# %%
def error_with(step, n):
    x = noise[:200].double()
    fine = solve(on_circle, x, torch.linspace(0, 1, 201), rk4).last
    coarse = solve(on_circle, x, torch.linspace(0, 1, n + 1), step).last
    return (coarse - fine).norm().item()


ratios = [error_with(step, 50) / error_with(step, 100) for step in (euler, midpoint)]
report("order", euler=ratios[0], midpoint=ratios[1])
assert 1.8 < ratios[0] < 2.3 and 3.5 < ratios[1] < 4.6

# %% [markdown]
# **Check 9.27** (too few steps). One Euler step of a perfect field with independent pairs takes *all* noise to the mean of the data: $x+v_0(x)=x+\mathbb Ex_1-x$. On the ring that is the empty middle. The network is not to blame.

# %%
one_step = solve(on_ring, noise[:2000], torch.tensor([0.0, 1.0])).last
many = solve(on_ring, noise[:2000], grid, heun).last
report("one_step", wrong_radius=one_step.norm(dim=1).max().round(decimals=3))
report("many_steps", right_radius=many.norm(dim=1).mean())
assert one_step.norm(dim=1).max() < 1e-3
assert abs(many.norm(dim=1).mean() - 10) < 0.2

# %% [markdown]
# **Check 9.28** (a singular end). For VP $\dot\sigma_1=-\infty$. A conversion with bare formulas gives numbers that are not numbers there, and one Heun step that ends at $t=1$ spoils every sample. `convert` and `ExactField` say so instead. Euler never evaluates at the last time of its grid; other methods stop a little before.

# %%
vp_path = AffinePath(VP)
vp_field = ExactField(vp_path, blob)
one = torch.ones(len(noise))
print("derivative of sigma at t = 1:", VP.sigma_dot(one[0]).item())
delta = VP.alpha_dot(one) * VP.sigma(one) - VP.alpha(one) * VP.sigma_dot(one)
# velocity to data, one coordinate
bare = (VP.sigma(one) * delta - VP.sigma_dot(one)) / delta
report("singular", share_nan=bare.isnan().float().mean())
assert bare.isnan().all()
try:
    solve(vp_field, noise, grid, heun)
except ValueError as error:
    print("ValueError:", error)
assert arrives(solve(vp_field, noise, torch.linspace(0, 0.9999, 201), heun).last)

# %% [markdown]
# **Check 9.29** (step size underflow). The message that users of adaptive solvers report most. One cause: a field that is singular at the end. Here it is $-x/(2(1-t))$, one data point at 0 on the square-root schedule. The last stage of the last step lies at $t=1$, where the field is not finite. The step is refused and made smaller, again and again. Stop a little before the end, or take a schedule without that end.


# %%
def pull(x, t):
    return -x / (2 * expand_time(1 - t, x))


message = "nothing"
try:
    solve_adaptive(pull, noise[:10], 0.0, 1.0)
except FloatingPointError as error:
    message = str(error).split(":")[0]
print(message)
record("underflow", message)
stopped = solve_adaptive(pull, noise[:10], 0.0, 0.999).last
assert message == "step size underflow"
assert torch.allclose(stopped, math.sqrt(0.001) * noise[:10], atol=1e-3)

# %% [markdown]
# **Check 9.30** (a probe drawn anew at every call). Hutchinson's estimate with a fresh probe at each evaluation makes the right-hand side another function each time it is asked. An adaptive solver takes the difference for its own error and refuses one step after another. With one probe for the whole way the integral is easy: here the Jacobian is constant, and so is the rate.

# %%
matrix, start = randn(8, 8), torch.zeros(1, 1)
fixed = rademacher_like(torch.zeros(8), generator)


def log_density_rate(redraw):
    def rate(x, t):
        probe = rademacher_like(fixed, generator) if redraw else fixed
        return -(probe @ matrix @ probe).expand_as(x)

    return rate


# %%
calls = [
    solve_adaptive(log_density_rate(r), start, 0.0, 1.0, 1e-2, 1e-2).evaluations
    for r in (True, False)
]
print("more than 5 times the evaluations:", calls[0] > 5 * calls[1])
record("probe_wrong", calls[0])
record("probe_right", calls[1])
assert calls[0] > 5 * calls[1]

# %% [markdown]
# **Check 9.31** (the divergence of an image). Code for points loops over `x.shape[1]` and takes `[:, i]` of gradients. On images `(B, C, H, W)` that is the loop over channels: the result has the wrong shape, and summed up it adds entries of the Jacobian from off the diagonal. The field is linear, so that its divergence is a trace.

# %%
jacobian = torch.full((16, 16), 0.5)  # every pixel is pushed by all
images = randn(5, 1, 4, 4).requires_grad_()


def linear(x, t):
    return (x.flatten(1) @ jacobian.T).reshape(x.shape)


# %%
v = linear(images, None)
# as for points: i = 0 only
slopes = torch.autograd.grad(v[:, 0].sum(), images)[0][:, 0]
print("shape for points:", tuple(slopes.shape), "  wanted: (5,)")
right = divergence(linear, images.detach(), torch.zeros(5))
report("images", digits=3, wrong=slopes[0].sum().detach(), trace=jacobian.trace())
assert slopes.shape == (5, 4, 4) and slopes[0].sum() > 100
assert (right - jacobian.trace()).abs().max() < 1e-4

# %% [markdown]
# ## Noise and stochastic samplers
#
# **Check 9.32** (noise times noise). A function for the diffusion term returns $w$ times a random number, and the method of Euler and Maruyama multiplies by a random number again. Mean and variance of the increments are right, so no plot of a spread shows it. (The sum of many small ones is nearly normal anyway.) The fourth moment does: the kurtosis is 9 instead of 3.


# %%
def kurtosis(x):
    return ((x - x.mean()) ** 4).mean() / x.var() ** 2


first, second = randn(1_000_000), randn(1_000_000)
report("twice_random", wrong=kurtosis(first * second), right=kurtosis(first))
print("variances agree:", bool(abs((first * second).var() - 1) < 0.02))
# standard errors: 0.1 for the product, 0.005 for a normal
assert abs(kurtosis(first * second) - 9) < 0.6 and abs(kurtosis(first) - 3) < 0.03

# %% [markdown]
# **Check 9.33** (which $\lambda$). $dx=[v+\lambda s]\,dt+w\,dW$ keeps the densities only for $\lambda=w^2/2$. The data here are $\mathcal N(0,I)$ on the cosine path: then $p_t=\mathcal N(0,I)$ at all times, $v=0$ and $s=-x$, and the equation is linear. Its variance tends to $w^2/(2\lambda)$. With $\lambda=w^2$ that is one half.


# %%
def spread(push, w=2.0, n=1000):
    """Standard deviation at t = 1 of dx = push(x) dt + w dW from N(0, I)."""
    x, h = noise, 1 / n
    for _ in range(n):
        x = x + h * push(x) + w * math.sqrt(h) * randn(*x.shape)
    return x.std().item()


stds = spread(lambda x: -4 * x), spread(lambda x: -2 * x)
report("lambda", wrong_std=stds[0], right_std=stds[1])
assert abs(stds[0] - math.sqrt(0.5)) < 0.03 and abs(stds[1] - 1) < 0.03

# %% [markdown]
# **Check 9.34** (a factor lost). The drift $v+\lambda s$ written as $s+v/\lambda$: the same direction, but $\lambda$ times too short. The noise keeps its size. Here $\lambda=2$, so $w=2$: the samples lag behind, and spread too far.


# %%
def stochastic(divide):
    x, h = noise[:5000], 1 / 500
    for i in range(500):
        t = torch.full((len(x),), i * h)
        v = exact(x, t)
        drift = v + 2 * path.convert(v, x, t, "velocity", "score")
        x = x + h * drift / divide + 2 * math.sqrt(h) * randn(*x.shape)
    return mean_and_std(x)


# %%
low, wide = stochastic(2)
mean, std = stochastic(1)
times, level = torch.linspace(0, 1, 501), lambda t: 0 * t + 2
library = solve_sde(exact, noise[:5000], times, path, level, generator).last
report("factor", wrong_mean=low, right_mean=mean, wrong_std=wide, right_std=std)
# 5000 samples: standard error 0.007 of the mean, 0.005 of the standard deviation
assert low < 3.7 and wide > 0.6 and abs(mean - 4) < 0.05 and abs(std - 0.5) < 0.04
assert arrives(library, 0.04)

# %% [markdown]
# **Check 9.35** ("flow matching is deterministic"). The *equation* you choose is. With the same field you can also follow the stochastic equation of any noise level. Its samples have the same distribution, and starting noise that is the same leads to different samples.

# %%
again = solve_sde(exact, noise[:5000], times, path, level, generator).last
correlation = torch.corrcoef(torch.stack([library[:, 1], again[:, 1]]))[0, 1]
apart = (library - again).square().sum(dim=1).mean().sqrt()
report("deterministic", apart=apart)
# independent draws have a correlation of 0, with a standard error of 0.014
assert abs(correlation) < 0.1 and arrives(library, 0.04) and arrives(again, 0.04)
assert torch.equal(
    solve(exact, noise[:10], grid).last, solve(exact, noise[:10], grid).last
)

# %% [markdown]
# **Check 9.36** (a score that is none). Every formula with $s$ needs noise $\mathcal N(0,I)$. With other noise the velocity stays right, but $-\hat x_0/\sigma$ is no longer the score, and stochastic samplers built on it leave the path. The noise here is uniform with variance 1 (kurtosis 1.8). At $t=0$ the supposed score is $-x$. Hold the time there. The equation $dx=-x\,dt+\sqrt2\,dW$, which should keep $p_0$, turns it into a normal distribution.

# %%
uniform = math.sqrt(3) * (2 * torch.rand(100_000, generator=generator) - 1)
x, h = uniform, 0.01
for _ in range(300):
    x = x - h * x + math.sqrt(2 * h) * randn(len(x))
report("uniform_noise", kurtosis_before=kurtosis(uniform), kurtosis_after=kurtosis(x))
assert abs(kurtosis(uniform) - 1.8) < 0.02 and abs(kurtosis(x) - 3) < 0.1

# %% [markdown]
# ## Networks and shapes
#
# **Check 9.37** (times against images). A time of shape `(B,)` against `(B, C, H, W)`: PyTorch lines shapes up from the right, and here they do not fit.


# %%
def raised(call):
    """Return the name of the error that a call raises, or "nothing"."""
    try:
        call()
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        return type(error).__name__
    return "nothing"


t, pictures = torch.linspace(0, 1, 8), randn(8, 1, 4, 4)
print("t * images raises", raised(lambda: t * pictures))
assert raised(lambda: t * pictures) == "RuntimeError"
assert torch.equal((expand_time(t, pictures) * pictures)[3], t[3] * pictures[3])

# %% [markdown]
# It is silent if a batch has as many images as an image has columns: 28 for digits. Then each *column* gets the time of another sample, $x_t=\alpha\,x_1+\sigma\,x_0$ with weights that jump from column to column, and the network is told one of these 28 times. What does it learn?
#
# No training is needed to say. Take networks that are affine in the image and do not look at the time that they are told, since it is wrong for 27 of 28 columns. The best of them follows from the mean and the second moments of the digits. With times that are uniform and independent, $\mathbb E[t_it_j]$ is $\tfrac13$ for two pixels of one column and $\tfrac14$ for others.

# %%
digits = dequantise(small_digits().images.to(device), generator).flatten(1)
mean, second = digits.mean(dim=0), digits.T @ digits / len(digits)
unit, column = torch.eye(784), torch.arange(784) % 28
products = torch.where(column[:, None] == column, 1 / 3, 1 / 4)  # of two times
moments, targets = torch.ones(785, 785), torch.empty(784, 785)  # the last: a constant
moments[:784, :784] = products * second + unit / 3
moments[784, :784] = moments[:784, 784] = mean / 2
targets[:, :784], targets[:, 784] = (second - unit) / 2, mean
learned = torch.linalg.solve(moments, targets.T).T


def column_times(x, t):
    """The best affine field for batches in which each column has its own time."""
    return x @ learned[:, :784].T + learned[:, 784]


# %% [markdown]
# Beside it stands the best affine field for right batches, the exact field of the normal distribution with this mean and covariance. Both are judged on the same right batch. Then both make images, and we look at a corner, where all digits are black up to the width of a pixel.

# %%
variances, axes = torch.linalg.eigh(second - mean[:, None] * mean)
# no direction has less than the width of a pixel gives; float32 may say so
variances = variances.clamp(min=1 / (12 * 128**2))


def one_time(x, t):
    t = expand_time(t, x)
    gain = (t * variances - (1 - t)) / (t**2 * variances + (1 - t) ** 2)
    return mean + ((x - t * mean) @ axes * gain) @ axes.T


# %%
x0, t = randn(1000, 784), uniform_times(1000, generator)
both = (column_times, one_time)
losses = [flow_matching_loss(f, path, x0, digits, t) / 784 for f in both]
report("columns", wrong_loss=losses[0], right_loss=losses[1])
ends = [solve(f, x0[:200], torch.linspace(0, 1, 51)).last for f in both]
grain = [x[:, 0].std() for x in ends]
report("columns", wrong_grain=grain[0], pixel=digits[:, 0].std())
# alone, a pixel would follow dx/dt = −3/2 x, which leaves e^(−3/2) = 0.22 of the noise
assert losses[0] > 1.3 * losses[1]
assert grain[0] > 0.2 and grain[1] < 0.02

# %% [markdown]
# **Check 9.38** (as many samples as coordinates). The same mistake with shapes `(3,)` and `(3, 3)` raises nothing. Each coordinate gets the time of another sample.

# %%
t, x0, x1 = torch.tensor([0.1, 0.5, 0.9]), randn(3, 3), randn(3, 3) + 4
silent = t * x1 + (1 - t) * x0
report("square", error=relative_error(silent, path.sample(x0, x1, t).x_t))
assert relative_error(silent, path.sample(x0, x1, t).x_t) > 0.2

# %% [markdown]
# **Check 9.39** (channels that do not add up). After a skip connection a level of a U-Net has its own channels *plus* those of the skip. A convolution that was built for one of the two raises an error, at the first call and not before.

# %%
up, skip = torch.zeros(1, 64, 8, 8), torch.zeros(1, 64, 8, 8)
joined = torch.cat([up, skip], dim=1)
narrow, wide = nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64 + 64, 64, 3, padding=1)
print("channels after the skip:", joined.shape[1])
print("a convolution for 64 raises", raised(lambda: narrow(joined)))
assert raised(lambda: narrow(joined)) == "RuntimeError"
assert wide(joined).shape == up.shape

# %% [markdown]
# **Check 9.40** (a method that is not there). Python looks a method up when it is called. A network whose sampler calls a method that nobody wrote trains for hours and fails at the first sample. One call of every branch before training finds it.


# %%
class Conditional(nn.Module):
    def forward(self, x, t, label=None):
        return x if label is None else self.forward_with_temb(x, t, label)


network = Conditional()
print("without a label:", raised(lambda: network(noise, 0)))
print("with a label:   ", raised(lambda: network(noise, 0, label=1)))
assert raised(lambda: network(noise, 0)) == "nothing"
assert raised(lambda: network(noise, 0, label=1)) == "AttributeError"
labelled = MLP(labels=2)
zeros, classes = torch.zeros(5), torch.zeros(5, dtype=torch.int64)
assert raised(lambda: labelled(noise[:5], zeros, classes)) == "nothing"

# %% [markdown]
# **Check 9.41** (batch norm over all times). In training a batch holds states of all times, and batch norm scales them together. While sampling, all states have the same time. With running statistics an early state comes out small and a late one large; in training mode every sample depends on its neighbours. Layer norm looks at one sample alone.

# %%
norm, t = nn.BatchNorm1d(2, momentum=None), uniform_times(50_000, generator)
x1 = ring.sample(50_000, generator)
norm(path.sample(randn(50_000, 2), x1, t).x_t)  # training: all times together


def at_time(value, mode):
    x = path.sample(noise, x1[:20_000], torch.full((20_000,), value)).x_t
    return norm.train(mode)(x).std().item()


# %%
with torch.no_grad():
    outputs = [at_time(t, mode) for t in (0.05, 0.95) for mode in (False, True)]
    whole, part = norm(noise)[:5], norm(noise[:5])
report("norm", early=outputs[0], late=outputs[2], in_training_mode=outputs[1])
assert outputs[2] > 3 * outputs[0] and abs(outputs[1] - 1) < 0.01
layer = nn.LayerNorm(2)
assert torch.allclose(layer(noise)[:5], layer(noise[:5]), atol=1e-6)
# batch norm: other neighbours, other values
assert not torch.allclose(whole, part, atol=0.01)

# %% [markdown]
# **Check 9.42** (no time input). The best that a network without $t$ can learn is the mean of the velocity over the times at which $x$ is met, $\int p_t(x)v_t(x)\,dt\,/\int p_t(x)\,dt$. Here it is computed by quadrature, so no training is to blame. Such a field cannot tell an early state from a late one at the same place: along the way to the data the samples are spread too far.

# %%
instants = (torch.arange(40) + 0.5) / 40


def timeless(x, t):
    logs = torch.stack([exact.log_prob(x, s.expand(len(x))) for s in instants])
    fields = torch.stack([exact(x, s.expand(len(x))) for s in instants])
    return (logs.softmax(dim=0)[:, :, None] * fields).sum(dim=0)


short = torch.linspace(0, 1, 41)
stds = [solve(f, noise[:1000], short, heun).last[:, 0].std() for f in (timeless, exact)]
report("timeless", wrong_std=stds[0], right_std=stds[1])
# with 1000 samples the relative standard error of a standard deviation is 0.02
assert stds[0] > 0.8 and abs(stds[1] - 0.5) < 0.05

# %% [markdown]
# **Check 9.43** (an old spelling). `torch.cuda.amp.autocast` still works and warns that it is deprecated. `torch.amp.autocast` takes the device as an argument, and runs on the CPU too.

# %%
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    torch.cuda.amp.autocast(enabled=False)
old = [w for w in caught if issubclass(w.category, FutureWarning)]
print("warnings of the old spelling:", len(old))
with warnings.catch_warnings():
    warnings.simplefilter("error")
    with torch.amp.autocast("cpu", dtype=torch.bfloat16):
        product = torch.ones(2, 2, device="cpu") @ torch.ones(2, 2, device="cpu")
print("type inside the new one:", product.dtype)
assert len(old) == 1 and product.dtype == torch.bfloat16

# %% [markdown]
# ## Measuring
#
# **Check 9.44** (a test that asks for *any*). `(given == wanted).any()` passes with 127 of 128 values wrong.

# %%
wanted = torch.rand(128, generator=generator)
given = wanted.clone()
given[1:] += 1
wrong_values = (given != wanted).sum()
report("any", digits=3, wrong_values=wrong_values)
print("any:", bool((given == wanted).any()), "  all:", bool((given == wanted).all()))
assert (given == wanted).any() and not torch.allclose(given, wanted)
assert wrong_values == 127

# %% [markdown]
# **Check 9.45** (signed errors). A sum of differences calls $[1,2]$ equal to $[2,1]$. Take squares or absolute values before you add.

# %%
a, b = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0])
report("signed", signed=(a - b).sum(), absolute=(a - b).abs().sum())
assert (a - b).sum() == 0 and (a - b).abs().sum() == 2

# %% [markdown]
# **Check 9.46** (a distance without its floor). The Wasserstein distance between two samples of the *same* distribution is not zero, and depends on how many there are. So a distance without the number of samples means nothing, and two distances compare only at the same number. FID has the same property.


# %%
def floor_of(target, n):
    values = [
        wasserstein(target.sample(n, generator), target.sample(n, generator))
        for _ in range(8)
    ]
    return sum(values) / len(values)


small, large = floor_of(ring, 100), floor_of(ring, 800)
report("sample_size", with_100=small, with_800=large)
assert small > 1.5 * large

# %% [markdown]
# **Check 9.47** (one table, several data sets). A column that mixes figures of different data sets ranks the data sets and not the methods. Both figures here belong to a *perfect* sampler.

# %%
moons = floor_of(distributions.two_moons(), 800)
report("mixed_table", ring=large, moons=moons)
assert large > 3 * moons

# %% [markdown]
# ## Converters
#
# A model of another library or paper becomes a field of this book by one of the converters of `fmtutorial.conventions`. To test one you need a model whose right answer you know. So you write the exact field down in the other convention, from its posterior means and not by the converter, convert it back, and sample.
#
# **Check 9.48** (every converter, on the exact field). `error` is the largest difference to the exact velocity, on 2000 points of the path. All are rounding errors, and each wrong reading is far off.

# %%
t = 0.02 + 0.96 * uniform_times(2000, generator)
x1 = blob.sample(2000, generator)


def largest_error(field, truth):
    x = truth.path.sample(noise[:2000], x1, t).x_t
    return (field(x, t) - truth(x, t)).abs().max().item()


def predictions(truth, x, t):
    """Data and noise prediction of a field of the path of ``truth``."""
    data, time, s = truth.posterior_mean(x, t), expand_time(t, x), truth.path.schedule
    return data, (x - s.alpha(time) * data) / s.sigma(time)


# %%
def torchcfm_model(t, x):
    data, noise = predictions(exact, x, t)
    return data - noise


def diffusers_model(x, k):
    data, noise = predictions(exact, x, 1 - k / 1000)
    return noise - data


# %%
def score_sde_model(x, label):
    return predictions(vp_field, x, 1 - label / 999)[1]


def sde_noise(x, t):
    return score_sde_model(x, 999 * (1 - t))


def v_prediction(x, t):
    (data, noise), time = predictions(on_circle, x, t), expand_time(t, x)
    return COSINE.alpha(time) * noise - COSINE.sigma(time) * data


# %%
converted = {
    "time_first": (conventions.time_first(torchcfm_model), exact),
    "reverse_time": (
        conventions.reverse_time(lambda x, r: diffusers_model(x, 1000 * r)),
        exact,
    ),
    "from_diffusers": (conventions.from_diffusers(diffusers_model), exact),
    "from_v_prediction": (
        conventions.from_v_prediction(v_prediction, cosine_path),
        on_circle,
    ),
    "as_velocity": (as_velocity(sde_noise, vp_path, "noise"), vp_field),
    "change_schedule": (change_schedule(exact, path, cosine_path), on_circle),
}

# %%
for name, (field, truth) in converted.items():
    print(f"{name:18s} error below 1e-4: {largest_error(field, truth) < 1e-4}")
    # float32: 1e-6 of numbers up to 10, divided by σ ≥ 0.02 or α ≥ 0.008
    assert largest_error(field, truth) < 1e-4
assert largest_error(lambda x, t: diffusers_model(x, 1000 * (1 - t)), exact) > 1
assert largest_error(v_prediction, on_circle) > 1
there = conventions.to_diffusers(conventions.from_diffusers(diffusers_model))
assert largest_error(lambda x, t: -there(x, 1000 * (1 - t)), exact) < 1e-4

# %% [markdown]
# **Check 9.49** (a DDPM). Its network knows whole indices only: index 0 has one step of noise, index $T-1$ all $T$. The exact noise prediction is computed from $\bar\alpha_k$, with the usual 1000 values of $\beta$. `from_ddpm` returns the field and its path. At the levels of training the field is the exact one of that path. The schedule is close to `VP`.

# %%
betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
alpha_bar = torch.cumprod(1 - betas, dim=0).float()


def ddpm_model(x, index):
    """Exact noise prediction for x = √ᾱ data + √(1 − ᾱ) noise, data as in the blob."""
    a = alpha_bar[index.round().long()][:, None]
    total = 0.25 * a + 1 - a
    return torch.sqrt(1 - a) * (x - torch.sqrt(a) * blob.mean) / total


# %%
field, ddpm_path = conventions.from_ddpm(ddpm_model, betas)
on_ddpm = ExactField(ddpm_path, blob)
t = 1 - torch.randint(20, 1001, (2000,), generator=generator) / 1000
print("at the levels of training:", largest_error(field, on_ddpm) < 1e-4)
assert largest_error(field, on_ddpm) < 1e-4

# %%
ddpm_samples = solve(field, noise[:5000], torch.linspace(0, 1, 1001), euler).last
print("samples arrive:", arrives(ddpm_samples, 0.04))
assert arrives(ddpm_samples, 0.04)
# the forgotten shift: index k for k − 1
late, _ = conventions.from_ddpm(
    lambda x, i: ddpm_model(x, (i + 1).clamp(max=999)), betas
)
assert largest_error(late, on_ddpm) > 10 * largest_error(field, on_ddpm)
gap = (ddpm_path.schedule.alpha(grid[:-1]) - VP.alpha(grid[:-1])).abs().max()
print("largest difference of the weights of data from VP:", f"{gap:.4f}")
assert gap < 0.002

# %% [markdown]
# **Check 9.50** (EDM). Karras et al. (2022) add noise of a level $\ell$ to data and scale nothing. So $D(z;\ell)$, their denoiser, is this book's $\hat x_1$ at $x=\alpha_tz$ and $\ell=\sigma_t/\alpha_t$, on every schedule. Inside it is a network $F$ between two scalings. `exact_f` is what a perfect $F$ returns for the blob, and it is minus a "v-prediction".

# %%
SIGMA_DATA = 0.5


def scalings(level):
    """c_skip, c_out and c_in."""
    total = level**2 + SIGMA_DATA**2
    root = total.sqrt()
    return SIGMA_DATA**2 / total, level * SIGMA_DATA / root, 1 / root


# %%
def exact_f(scaled, quarter_log):
    level = torch.exp(4 * quarter_log)[:, None]
    skip, out, inside = scalings(level)
    z = scaled / inside
    mean = blob.mean + 0.25 / (0.25 + level**2) * (z - blob.mean)
    return (mean - skip * z) / out


def edm_model(z, level):
    """D(z; level), as EDMPrecond computes it from its network."""
    skip, out, inside = (c[:, None] for c in scalings(level))
    return skip * z + out * exact_f(inside * z, level.log() / 4)


# %%
def denoiser(x, t):
    a, level = LINEAR.alpha(t), LINEAR.sigma(t) / LINEAR.alpha(t)
    return edm_model(x / expand_time(a, x), level)


t = 0.02 + 0.96 * uniform_times(2000, generator)
field = as_velocity(denoiser, path, "data")
print("EDM: error below 1e-4:", largest_error(field, exact) < 1e-4)
assert largest_error(field, exact) < 1e-4

# %%
x = path.sample(noise[:2000], x1, t).x_t
data, other = predictions(exact, x, t)
level = LINEAR.sigma(t) / LINEAR.alpha(t)
skip, out, inside = (c[:, None] for c in scalings(level))
a, b = inside * SIGMA_DATA, inside * level[:, None]
returned = exact_f(inside * x / expand_time(t, x), level.log() / 4)
gap = (returned + a * other - b * data / SIGMA_DATA).abs().max()
print("F is minus a v-prediction:", bool(gap < 1e-3))
assert gap < 1e-3  # float32, divided by c_out ≥ 0.02

# %% [markdown]
# ## Right, but too noisy
#
# **Check 9.51** (which half is to blame). The page orders the tests for samples that are in the right place with too much noise on them. They need a field that is known to be right, and data that are narrow, so that noise shows: here a standard deviation of 0.05. A grid that stops at $t=0.95$ leaves 0.05 of the noise, and the two add up as squares.

# %%
narrow = ExactField(path, distributions.Gaussian(torch.tensor([4.0, 0.0]), 0.05**2))
stds = [
    mean_and_std(solve(narrow, noise, torch.linspace(0, end, 101), heun).last)[1]
    for end in (1.0, 0.95)
]
report("triage", right_std=stds[0], early_end=stds[1])
# 0.95² of the data's variance and 0.05² of noise; standard error of a std: 0.0003
assert abs(stds[0] - 0.05) < 0.003
assert abs(stds[1] - math.sqrt((0.95 * 0.05) ** 2 + 0.05**2)) < 0.003

# %% [markdown]
# The score of $\mathcal N(0,I)$ is $-x$: at $t=0$ score and state add up to zero. A stochastic sampler with the other sign pushes samples apart. And a target is right if it is the slope of the path: a second draw of the noise is not.


# %%
def pushed(sign, n=200):
    """Standard deviation of samples with noise level 1 and a sign of the score."""
    x, h = noise[:2000], 1 / n
    for i in range(n):
        t = torch.full((len(x),), i * h)
        v = exact(x, t)
        s = sign * path.convert(v, x, t, "velocity", "score")
        x = x + h * (v + 0.5 * s) + math.sqrt(h) * randn(*x.shape)
    return mean_and_std(x)[1]


start = torch.zeros(len(noise))
score = path.convert(exact(noise, start), noise, start, "velocity", "score")
report("triage", wrong_sign=pushed(-1), right_sign=pushed(1))
assert (score + noise).abs().max() < 1e-5 and pushed(-1) > 2 * pushed(1)

# %%
x0, x1 = noise, blob.sample(len(noise), generator)
t = 0.99 * uniform_times(len(noise), generator)
point, later = path.sample(x0, x1, t), path.sample(x0, x1, t + 1e-3).x_t
slope = (later - point.x_t) / 1e-3
targets = point.velocity, x1 - randn(*x1.shape)
gaps = [(slope - target).abs().mean() for target in targets]
print("slope and target agree to 0.01:", [bool(gap < 0.01) for gap in gaps])
# rounding of states of size 8, divided by 0.001; two draws differ by 1.1 on average
assert gaps[0] < 0.01 and gaps[1] > 1

# %% [markdown]
# ## Summary
#
# - Few of these mistakes raise an error. Most give numbers that look like a badly trained network.
# - A closed form tells code and training apart: run the sampler on `ExactField` before you train, and the loss on it before you judge.
# - Data that are off centre, unequal weights, $B=d$, and moments beyond the second find what symmetric examples hide.
# - A test must be able to fail: put the mistake in once, and see.
#
# ## Questions
#
# 1. Which of the mistakes would you not see if the data were centred at zero?
# 2. Which would you not see in the mean and the standard deviation of the samples?
# 3. Check 9.24 reuses a buffer. How would you write the key so that the cache is right, and when is a cache of pairings of use at all?
# 4. Find a mistake of your own, and write the smallest check that finds it.
