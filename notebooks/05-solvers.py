# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lab: Solvers
#
# You integrate fields that you know exactly, so every error that you see is the solver's. There is nothing to train.
#
# After this lab you can
#
# - measure the order of a method, and see why some test problems flatter it,
# - compare solvers by evaluations of the field, and say what an evaluation buys,
# - watch an adaptive solver choose its steps, and see a hard sample hide in a batch,
# - use the exponential solver DPM-Solver++(2M), and choose a grid of times,
# - recognise wrong grids and wrong signs by how their error depends on the number of steps,
# - say what happens near $t=1$ when data are thin, and what to do.

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
from itertools import pairwise

import torch
from scipy.integrate import solve_ivp

from fmtutorial import distributions, plotting

# %%
from fmtutorial.conventions import reverse_time
from fmtutorial.diffusion import ddim
from fmtutorial.exact import ExactField
from fmtutorial.labs import record, use_default_device
from fmtutorial.paths import COSINE, LINEAR, SQRT, VP, AffinePath

# %%
from fmtutorial.solvers import (
    dpm_solver,
    euler,
    heun,
    log_snr_grid,
    midpoint,
    rk4,
    solve,
    solve_adaptive,
)

# %% [markdown]
# Errors of $10^{-10}$ will matter, so the lab computes in double precision. The `truth` is the adaptive solver at a tolerance near rounding; a check below compares it with another library. The error of a set of samples is the root mean square of their distances to the truth, in the unit of $x$. The ring has radius 10.

# %%
device = use_default_device()
torch.set_default_dtype(torch.float64)
generator = torch.Generator(device).manual_seed(0)

ring = distributions.ring_of_gaussians()
straight = AffinePath(LINEAR)
exact = ExactField(straight, ring)
noise = torch.randn(100, 2, generator=generator)
METHODS = {euler: 1, midpoint: 2, heun: 2, rk4: 4}  # step: evaluations of the field


# %%
def truth(field, x, start=0.0, end=1.0):
    """Solve to nearly the precision of the numbers."""
    return solve_adaptive(field, x, start, end, rtol=1e-9, atol=1e-9).last


def miss(x, wanted):
    """Root mean square of the distances of the samples."""
    return (x - wanted).square().sum(dim=-1).mean().sqrt().item()


def slopes(errors):
    """Orders seen between neighbours of a list of errors, where n doubles each time."""
    return [math.log2(a / b) for a, b in pairwise(errors)]


# %%
ring_truth = truth(exact, noise)

# %% [markdown]
# ## A solver in six lines
#
# Take a step of Euler, ask for the velocity where it ends, and move by the mean of the two velocities. That is Heun's method. The rest is a loop over a grid of times.


# %% tags=["quote-heun"]
def solve_by_heun(v, x, times):
    """Follow dx/dt = v(x, t) on n + 1 times."""
    for t, end in pairwise(times):
        h = end - t  # negative backwards
        first = v(x, t.expand(len(x)))
        # the velocity where Euler's step ends
        second = v(x + h * first, end.expand(len(x)))
        x = x + h * (first + second) / 2
    return x


# %% [markdown]
# The package's `solve` does the same, and counts. On an uneven grid, and on the same grid backwards, both must agree to rounding.

# %%
uneven = torch.tensor([0.0, 0.1, 0.3, 0.35, 0.8, 1.0])
for grid in (uneven, uneven.flip(0)):
    ours, theirs = solve_by_heun(exact, noise, grid), solve(exact, noise, grid, heun)
    assert (ours - theirs.last).abs().max() < 1e-12  # roundings of numbers near 10
    print(f"the same; {theirs.evaluations} evaluations in {len(grid) - 1} steps")

# %% [markdown]
# ## Four methods and their tableaux
#
# A Runge–Kutta step asks for several velocities $k_i$ and moves by their weighted mean:
#
# $$k_i=v_{t+c_ih}\Bigl(x+h\sum_{j<i}a_{ij}k_j\Bigr),\qquad x\leftarrow x+h\sum_ib_ik_i,\qquad c_i=\sum_ja_{ij}.$$
#
# The numbers $a_{ij}$ and $b_i$ are the method.

# %%
TABLEAUX = {  # step: rows of a, then b
    euler: ([[]], [1]),
    midpoint: ([[], [1 / 2]], [0, 1]),
    heun: ([[], [1]], [1 / 2, 1 / 2]),
    rk4: ([[], [1 / 2], [0, 1 / 2], [0, 0, 1]], [1 / 6, 1 / 3, 1 / 3, 1 / 6]),
}


# %%
def tableau_step(a, b, v, x, t, h):
    """Take the Runge-Kutta step with this tableau."""
    k = []
    for row in a:
        ahead = sum(w * slope for w, slope in zip(row, k, strict=True))
        k.append(v(x + h * ahead, t + h * sum(row)))
    return x + h * sum(w * slope for w, slope in zip(b, k, strict=True))


# %% [markdown]
# **Check 5.1** (tableaux). Each of the package's steps is the step of its tableau, to rounding. A method has order $p$ if its numbers satisfy the conditions of all orders up to $p$; there are 1, 1, 2 and 4 of them. Heun's tableau must not reproduce the midpoint step.


# %%
def at_time(x, t):
    """The exact field as a step sees it: one time for all samples."""
    return exact(x, t.expand(len(x)))


def conditions(a, b):
    """Left minus right side of the order conditions, by order."""
    A = torch.tensor([[*row, *[0.0] * (len(a) - len(row))] for row in a])
    b, c = torch.tensor([float(w) for w in b]), A.sum(dim=1)
    third = [b @ c**2 - 1 / 3, b @ (A @ c) - 1 / 6]
    fourth = [b @ c**3 - 1 / 4, b @ (c * (A @ c)) - 1 / 8]
    fourth += [b @ (A @ c**2) - 1 / 12, b @ (A @ A @ c) - 1 / 24]
    return [[b.sum() - 1], [b @ c - 1 / 2], third, fourth]


# %%
t, h = torch.tensor(0.2), torch.tensor(0.1)
for step, (a, b) in TABLEAUX.items():
    ours = tableau_step(a, b, at_time, noise, t, h)
    gap = (step(at_time, noise, t, h) - ours).abs().max()
    kept = [all(abs(value) < 1e-14 for value in values) for values in conditions(a, b)]
    order = kept.index(False) if False in kept else 4
    print(f"{step.__name__:9s} satisfies the conditions up to order {order}")
    assert gap < 1e-13  # a few roundings of numbers near 10
assert (midpoint(at_time, noise, t, h) - heun(at_time, noise, t, h)).abs().max() > 1e-3
assert order == 4

# %% [markdown]
# ## Local and global error
#
# The **local error** is that of one step from an exact state. A method of order $p$ has local error $O(h^{p+1})$. After $1/h$ steps the **global error** is $O(h^p)$.
#
# **Check 5.2** (local error). One step from $t=0.2$, with $h$ halved again and again. The slopes must be within 0.15 of $p+1$.

# %%
middle = truth(exact, noise, 0.0, 0.2)
sizes = [0.04, 0.02, 0.01]
after = [truth(exact, middle, 0.2, 0.2 + h) for h in sizes]
for step, order in zip(METHODS, (1, 2, 2, 4), strict=True):
    errors = [
        miss(step(at_time, middle, t, torch.tensor(h)), x)
        for h, x in zip(sizes, after, strict=True)
    ]
    power = slopes(errors)[-1]
    print(f"{step.__name__:9s} local error falls with the power {power:.1f} of h")
    assert abs(power - order - 1) < 0.15, errors

# %% [markdown]
# **Check 5.3** (global error). The same on whole trajectories, for three schedules. The slope between 50 and 100 steps must be within 0.15 of the order. The velocity of VP is not defined at $t=1$, so that row ends at 0.99. A Heun step that forgets to move before its second evaluation must fail: it has order one.

# %%
ENDS = {LINEAR: 1.0, COSINE: 1.0, VP: 0.99}
fields = {s: ExactField(AffinePath(s), ring) for s in ENDS}
truths = {s: truth(fields[s], noise, 0.0, end) for s, end in ENDS.items()}


def global_errors(step, schedule, counts):
    """Errors at the end of the interval after so many equal steps."""
    grids = (torch.linspace(0, ENDS[schedule], n + 1) for n in counts)
    return [
        miss(solve(fields[schedule], noise, g, step).last, truths[schedule])
        for g in grids
    ]


# %%
for step, order in zip(METHODS, (1, 2, 2, 4), strict=True):
    seen = [slopes(global_errors(step, s, (50, 100)))[0] for s in ENDS]
    print(
        f"{step.__name__:9s}",
        "  ".join(f"{s.name} {k:.2f}" for s, k in zip(ENDS, seen, strict=True)),
    )
    record(f"slopes_{step.__name__}", ", ".join(f"{k:.2f}" for k in seen))
    assert all(abs(k - order) < 0.15 for k in seen)


def forgetful(v, x, t, h):
    return x + h / 2 * (v(x, t) + v(x, t + h))


assert slopes(global_errors(forgetful, LINEAR, (50, 100)))[0] < 1.2

# %% [markdown]
# **Check 5.4** (the bounds). The theorems bound the error on $v_t(x)=x$, whose solution is $x_0e^t$, with $L=1$ and derivatives of the solution up to $e$. The bounds must hold, and they must not be larger than the error by more than a factor 4.

# %%
one, e = torch.ones(1, 1), math.e
for n in (10, 100):
    grid, h, L_heun = torch.linspace(0, 1, n + 1), 1 / n, 1 + 1 / n / 2
    bounds = {
        euler: e / 2 * (e - 1) * h,
        heun: (e / 12 + e / 4) / L_heun * (math.exp(L_heun) - 1) * h**2,
    }
    for step, bound in bounds.items():
        wrong = abs(solve(lambda x, t: x, one, grid, step).last.item() - e)
        print(f"n = {n:3d} {step.__name__}: error / bound {wrong / bound:.2f}")
        assert bound / 4 < wrong < bound

# %% [markdown]
# **Check 5.5** (a test that flatters). Take the linear schedule and data $\mathcal N(0,I)$, the simplest test problem there is. Every trajectory ends where it began, and the second half of it undoes the first. The chapter proves that going out and back gains an order where $p$ is even. So you measure 3, 3 and 5 for methods of order 2, 2 and 4. Do not certify a solver here. (With COSINE or VP the field of this data is zero and every method is perfect.)

# %%
easy = ExactField(straight, distributions.Gaussian(torch.zeros(2)))
for step, flattered in zip(METHODS, (1, 3, 3, 5), strict=True):
    errors = [
        miss(solve(easy, noise, torch.linspace(0, 1, n + 1), step).last, noise)
        for n in (20, 40)
    ]
    print(f"{step.__name__:9s} seems to have order {slopes(errors)[0]:.1f}")
    assert abs(slopes(errors)[0] - flattered) < 0.15

# %% [markdown]
# ## Count evaluations
#
# A step of RK4 calls the field four times. The field is a network, and calling it is all the cost. So the fair axis is the number $N$ of evaluations. The ladder below goes from 8 to 256 evaluations for each solver, on the ring with the linear schedule and with VP. And because a grid can make a method look good, every method runs on two grids: equal steps, and $(i/n)^2$, with short steps near noise. DPM-Solver++ is explained further down.

# %%
GRIDS = {"equal": lambda u: u, "short near noise": lambda u: u**2}
NAMES = ["euler", "midpoint", "heun", "rk4", "dpm"]
LADDER = [8, 16, 32, 64, 128, 256]
STEP = {step.__name__: step for step in METHODS}


def run(name, schedule, N, grid="equal"):
    """Return the samples of the ring that a solver makes with N evaluations."""
    steps = N // METHODS[STEP[name]] if name in STEP else N
    times = ENDS[schedule] * GRIDS[grid](torch.linspace(0, 1, steps + 1))
    if name == "dpm":
        return dpm_solver(fields[schedule], noise, times, AffinePath(schedule)).last
    return solve(fields[schedule], noise, times, STEP[name]).last


# %%
def ladder(name, schedule, grid):
    return [miss(run(name, schedule, N, grid), truths[schedule]) for N in LADDER]


ladders = {
    (s, grid): {name: ladder(name, s, grid) for name in NAMES}
    for s in (LINEAR, VP)
    for grid in GRIDS
}

# %%
TOLERANCES = [0.3, 0.1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6]
adaptive = {}
for s in (LINEAR, VP):
    adaptive[s] = []
    for tol in TOLERANCES:
        way = solve_adaptive(fields[s], noise, 0.0, ENDS[s], rtol=tol, atol=tol)
        adaptive[s].append((way.evaluations, miss(way.last, truths[s])))

# %%
COLORS = dict(euler="#6b7280", midpoint="#0f766e", heun="#1d4ed8", rk4="#c2410c")
COLORS["dpm"] = "#111827"
LABELS = dict(euler="Euler", midpoint="midpoint", heun="Heun", rk4="RK4")
LABELS["dpm"] = "DPM++(2M)"

# %% tags=["hide-input"]
titles = ["linear, equal: against steps", "the same, against evaluations"]
titles += ["linear, short near noise", "VP, equal"]
figure, axes = plotting.panels(titles, rows=2)
shown = [(LINEAR, "equal"), (LINEAR, "equal"), (LINEAR, "short near noise")]
for i, (ax, key) in enumerate(zip(axes, [*shown, (VP, "equal")], strict=True)):
    for name, errors in ladders[key].items():
        each = METHODS[STEP[name]] if i == 0 and name in STEP else 1
        style = {"color": COLORS[name], "marker": ".", "label": LABELS[name]}
        ax.plot([N / each for N in LADDER], errors, **style)
    if i > 0:
        costs = zip(*adaptive[key[0]], strict=True)
        ax.plot(*costs, color="#a21caf", marker="x", ls=":", label="adaptive")
    ax.set(xscale="log", yscale="log", ylim=(1e-6, 5))
    ax.set_xlabel("evaluations" if i else "steps")
    ax.set_ylabel("" if i % 2 else "error")
axes[1].legend(fontsize=7)
alt = (
    "Errors on the ring in four panels, on log scales, for Euler, midpoint, Heun, RK4 "
    "and DPM-Solver++. Against steps RK4 is far below all others. Against evaluations, "
    "linear schedule and equal steps, RK4 is lowest too, midpoint is close to it at "
    "eight, and DPM-Solver++ is above Heun. With short steps near noise "
    "DPM-Solver++ is lowest at eight and sixteen evaluations, RK4 from 32 on. "
    "On VP with equal steps RK4 is lowest throughout."
)
plotting.show(figure, "evaluations", alt)

# %% [markdown]
# *Figure 5.1.* Errors on the ring. Above: the same runs against steps and against evaluations; the picture on the left is the one that you will often be shown. Below: with short steps near noise, and on VP.
#
# **Check 5.6** (equal cost). "Heun with 25 steps" costs what "Euler with 50 steps" costs, and "RK4 with 50 steps" costs 200 evaluations. You count, and then you compare at 48 evaluations each, on both grids.

# %%
for step, steps in ((euler, 50), (heun, 25), (rk4, 50)):
    cost = solve(exact, noise, torch.linspace(0, 1, steps + 1), step).evaluations
    print(f"{step.__name__} with {steps} steps: {cost} evaluations")
    assert cost == steps * METHODS[step]

# %%
print("error with 48 evaluations:", ", ".join(GRIDS))
equal = {}
for name in NAMES:
    pair = [miss(run(name, LINEAR, 48, grid), ring_truth) for grid in GRIDS]
    print(f"{LABELS[name]:10s} {pair[0]:.4f}  {pair[1]:.4f}")
    record(f"equal_{name}", f"{pair[0]:.4f}")
    record(f"short_{name}", f"{pair[1]:.4f}")
    equal[name] = pair[0]
assert equal["rk4"] < equal["heun"] < equal["euler"]

# %% [markdown]
# ## Adaptive steps
#
# Dormand and Prince's method computes the step with two tableaux that share their velocities. Their difference estimates the local error, and the next $h$ follows from it.
#
# **Check 5.7** (against SciPy). `solve_ivp` uses the same pair. On single trajectories of the ring, at equal tolerances, evaluations must agree within 20 % and errors within a factor of two.


# %%
def scipy_end(x, tolerance, field=exact, end=1.0):
    """Integrate one sample with SciPy; return its end and the evaluations."""

    def velocity(t, y):
        return field(torch.tensor(y)[None], torch.tensor([t]))[0].cpu().numpy()

    answer = solve_ivp(
        velocity, (0.0, end), x.cpu().numpy(), rtol=tolerance, atol=tolerance
    )
    return torch.tensor(answer.y[:, -1]), answer.nfev


# %%
for tolerance in (1e-3, 1e-5, 1e-7):
    ours = theirs = 0
    for x, wanted in zip(noise[:5], ring_truth[:5], strict=True):
        way = solve_adaptive(exact, x[None], 0.0, 1.0, rtol=tolerance, atol=tolerance)
        end, evaluations = scipy_end(x, tolerance)
        assert abs(way.evaluations - evaluations) <= 0.2 * evaluations
        ratio = (way.last[0] - wanted).norm() / (end - wanted).norm()
        assert 0.5 < ratio < 2
        ours, theirs = ours + way.evaluations, theirs + evaluations
    print(f"tolerance {tolerance:.0e}: evaluations ours / SciPy {ours / theirs:.2f}")

# %% [markdown]
# What you ask for and what you get are not the same number: the tolerance bounds each step, and you look at the end.

# %%
for tol, (evaluations, error) in zip(TOLERANCES, adaptive[LINEAR], strict=True):
    print(f"tolerance {tol:.0e}: {evaluations:3d} evaluations, error {error:.0e}")
record("adaptive_evaluations", adaptive[LINEAR][3][0])
record("adaptive_error", f"{adaptive[LINEAR][3][1]:.4f}")
assert all(later[1] < former[1] for former, later in pairwise(adaptive[LINEAR]))

# %% [markdown]
# **Check 5.8** (one hard sample). In the vortex $v(x)=\lVert x\rVert^2\,(-x_2,x_1)$ a point at radius $r$ turns by $r^2$ radians in unit time: a closed form. Of 1000 samples 999 lie near the centre and one at radius 3. The package's norm is that of the worst sample. A norm over the whole batch, as in `solve_ivp` and torchdiffeq when you hand them a batch, divides the square of the one large error by 1000. To get it here, present the batch as one sample of shape `(1000, 2)`.


# %%
def vortex(x, t):
    return x.square().sum(dim=-1, keepdim=True) * torch.stack(
        [-x[..., 1], x[..., 0]], dim=-1
    )


def turned(x):
    angle = x.square().sum(dim=1)
    across = torch.stack([-x[:, 1], x[:, 0]], dim=1)
    return angle.cos()[:, None] * x + angle.sin()[:, None] * across


crowd = 0.5 * torch.randn(1000, 2, generator=generator)
crowd[0] = torch.tensor([3.0, 0.0])


# %%
def hard_errors(tolerance):
    """Error of the hard sample: with the worst norm, with the pooled norm, alone."""
    options = {"t0": 0.0, "t1": 1.0, "rtol": tolerance, "atol": tolerance}
    worst = solve_adaptive(vortex, crowd, **options).last[0]
    pooled = solve_adaptive(
        lambda x, t: vortex(x[0], t)[None], crowd[None], **options
    ).last[0, 0]
    alone = solve_adaptive(vortex, crowd[:1], **options).last[0]
    return [(x - turned(crowd[:1])[0]).norm().item() for x in (worst, pooled, alone)]


hard = {tol: hard_errors(tol) for tol in (1e-3, 1e-4, 1e-5, 1e-6)}

# %%
for tol, (worst, pooled, alone) in hard.items():
    print(f"tolerance {tol:.0e}: worst norm, error {worst:.0e}; pooled, {pooled:.0e}")
    assert worst < 1.01 * alone  # the crowd does no harm
# the pooled norm lets one of 1000 have a local error that is √1000 = 32 times as large
assert all(
    pooled > 30 * worst for tol, (worst, pooled, _) in hard.items() if tol < 5e-4
)
worst, pooled, _ = hard[1e-5]
record("hard_worst", f"{worst:.4f}")
record("hard_pooled", f"{pooled:.2f}")
record("hard_ratio", round(pooled / worst, -1))

# %%
norm_error = scipy_end(
    crowd.flatten(), 1e-5, lambda x, t: vortex(x.reshape(-1, 2), t).reshape(1, -1)
)
scipy_hard = (norm_error[0][:2] - turned(crowd[:1])[0]).norm().item()
print(f"SciPy on the batch at 1e-5: error {scipy_hard:.2f}, like the pooled norm")
record("hard_scipy", f"{scipy_hard:.2f}")
assert abs(scipy_hard / pooled - 1) < 0.1

# %% tags=["hide-input"]
figure, (left, right) = plotting.panels(
    ["steps that the solver chose", "error of the hard sample"]
)
for std, color in ((1.0, plotting.MODEL), (0.1, plotting.DATA)):
    field = ExactField(straight, distributions.ring_of_gaussians(std=std))
    times = solve_adaptive(field, noise, 0.0, 1.0, rtol=1e-5, atol=1e-5).times.cpu()
    left.plot(times[:-1], times.diff(), color=color, marker=".", label=f"std {std}")
left.set(xlabel="t", ylim=(0, None))
left.legend(fontsize=7)
for i, (text, color) in enumerate(
    (("worst sample", plotting.MODEL), ("pooled", plotting.DATA))
):
    right.plot(
        list(hard), [e[i] for e in hard.values()], color=color, marker=".", label=text
    )
right.set(xscale="log", yscale="log", xlabel="tolerance")
right.legend(fontsize=7)
plotting.show(
    figure,
    "adaptive",
    "Left: step sizes over time at tolerance 1e-5 for rings with modes of std 1 and "
    "0.1; both dip near t = 0.25, the thin ring a second time near 0.6. Right: the "
    "error of the hard sample against tolerance, about a hundred times as large with "
    "the pooled norm as with the norm of the worst sample.",
)

# %% [markdown]
# *Figure 5.2.* Left: the steps that the adaptive solver chose on two rings. Right: the error of the one hard sample among 1000, for two norms.
#
# ## An exponential solver
#
# In the variables $x/\sigma_t$ and $\alpha_t/\sigma_t=e^\ell$ the equation reads $d(x/\sigma)=D\,de^{\ell}$ with the data prediction $D=\hat x_1$. So
#
# $$x_t=\frac{\sigma_t}{\sigma_s}\,x_s+\sigma_t\int_{\ell_s}^{\ell_t}e^{\ell}D\,d\ell .$$
#
# Keep $D$ constant over the step, and the integral is $D\,(\alpha_t/\sigma_t-\alpha_s/\sigma_s)$. That is the whole first-order solver.


# %% tags=["quote-exponential"]
def exponential_step(D, x, s, t, alpha, sigma):
    """D predicts the data; from time s to t."""
    shrink = sigma(t) / sigma(s)
    rest = alpha(t) - shrink * alpha(s)
    return shrink * x + rest * D(x, s)


def solve_exponential(D, x, times, alpha, sigma):
    for s, t in pairwise(times):
        x = exponential_step(D, x, s, t, alpha, sigma)
    return x


# %% [markdown]
# On the cosine schedule it must give what the package's `ddim` gives, and its first step that of `dpm_solver`.

# %%
grid, cosine = torch.linspace(0, 0.9, 11), AffinePath(COSINE)
predict = lambda x, t: fields[COSINE].posterior_mean(x, t.expand(len(x)))  # noqa: E731
waves = (lambda t: torch.sin(math.pi * t / 2), lambda t: torch.cos(math.pi * t / 2))
ours = solve_exponential(predict, noise, grid, *waves)
theirs = solve(fields[COSINE], noise, grid, ddim(cosine)).last
assert (ours - theirs).abs().max() < 1e-11  # roundings of numbers near 10, ten steps
one_step = exponential_step(predict, noise, grid[0], grid[1], *waves)
first = dpm_solver(fields[COSINE], noise, grid[:2], cosine).last
assert (one_step - first).abs().max() < 1e-12
print("the steps by hand are the package's")

# %% [markdown]
# **Check 5.9** (the formula). Sum the integral along trajectories that the adaptive solver found, with 100 trapezoids. Their remainder is of order $100^{-2}$. The formula without its factor $e^\ell$ must fail.

# %%
grid = torch.linspace(0.1, 0.9, 101)
for s in ENDS:
    field, ratio, sigma = fields[s], s.alpha(grid) / s.sigma(grid), s.sigma(grid)
    way = solve(field, truth(field, noise[:10], 0.0, 0.1), grid, rk4).states
    D = [field.posterior_mean(x, t.expand(10)) for x, t in zip(way, grid, strict=True)]
    gaps = []
    for variable in (ratio, ratio.log()):  # dτ = e^ℓ dℓ, and dℓ without the factor
        integral = torch.trapezoid(torch.stack(D), variable, dim=0)
        gaps.append(miss(sigma[-1] / sigma[0] * way[0] + sigma[-1] * integral, way[-1]))
    print(f"{s.name:20s} the formula holds: {gaps[0] < 1e-2}")
    assert gaps[0] < 1e-2 < 0.1 < gaps[1], gaps

# %% [markdown]
# **Check 5.10** (exact for a point mass, and DDIM). If all data are one point, $D$ is constant and any number of steps on any grid is exact. Heun's method is not, but for the linear schedule, where all these trajectories are straight. And the first step of DPM-Solver++, or all of them if you start anew each time, is the DDIM step $\alpha_t\hat x_1+\sigma_t\hat x_0$ of chapter 7; on the linear schedule that is Euler's step.

# %%
point = torch.tensor([[3.0, -4.0]])
uneven = torch.tensor([0.0, 0.07, 0.5, 0.55, 0.98])
for s in (LINEAR, COSINE, VP):
    path, field = AffinePath(s), ExactField(AffinePath(s), point)
    first, last = s.alpha(uneven[[0, -1]]), s.sigma(uneven[[0, -1]])
    wanted = last[1] / last[0] * (noise - first[0] * point) + first[1] * point
    assert miss(dpm_solver(field, noise, uneven, path).last, wanted) < 1e-13
    assert s is LINEAR or miss(solve(field, noise, uneven, heun).last, wanted) > 1e-2
print("a point mass of data is reached exactly in four uneven steps")

# %%
for s in ENDS:
    path, field, grid = AffinePath(s), fields[s], torch.linspace(0, 0.9, 11)
    x = noise
    for pair in grid.unfold(0, 2, 1):
        x = dpm_solver(field, x, pair, path).last
    by_ddim = solve(field, noise, grid, ddim(path)).last
    by_euler = solve(field, noise, grid, euler).last
    assert miss(x, by_ddim) < 1e-12
    print(f"{s.name:20s} DDIM is Euler's method: {miss(by_ddim, by_euler) < 1e-12}")
    assert (miss(by_ddim, by_euler) < 1e-12) == (s is LINEAR)

# %% [markdown]
# **Check 5.11** (orders). On a grid that is even in $\ell$, between 0.02 and 0.98, DPM-Solver++(2M) has order 2 and DDIM order 1.

# %%
data = ring.sample(100, generator)
for s in (LINEAR, COSINE):
    path, field = AffinePath(s), fields[s]
    x = path.sample(noise, data, torch.full((100,), 0.02)).x_t
    wanted, errors, ddims = truth(field, x, 0.02, 0.98), [], []
    for n in (40, 80):
        grid = log_snr_grid(s, 0.02, 0.98, n).to(device)
        errors.append(miss(dpm_solver(field, x, grid, path).last, wanted))
        ddims.append(miss(solve(field, x, grid, ddim(path)).last, wanted))
    print(
        f"{s.name:20s} DPM++(2M) {slopes(errors)[0]:.2f}, DDIM {slopes(ddims)[0]:.1f}"
    )
    assert abs(slopes(errors)[0] - 2) < 0.15 and abs(slopes(ddims)[0] - 1) < 0.15

# %% [markdown]
# **Check 5.12** (a slope of 1.7). On a uniform grid from $t=0$ with the linear schedule $\ell$ starts at $-\infty$. The chapter computes that the error then behaves like $h^2\log n$: with every doubling of $n$, $n^2$ times the error grows by the same amount. On VP, whose $\ell_0$ is finite, the slope is 2.

# %%
counts = (40, 80, 160, 320)
found = {}
for s in (LINEAR, VP):
    rungs = counts[: 4 if s is LINEAR else 2]
    found[s] = [miss(run("dpm", s, n), truths[s]) for n in rungs]
    print(f"{s.name:20s} slopes", " ".join(f"{k:.1f}" for k in slopes(found[s])))
record("slope_log", f"{slopes(found[LINEAR])[1]:.1f}")
assert all(1.6 < k < 1.85 for k in slopes(found[LINEAR]))
assert abs(slopes(found[VP])[0] - 2) < 0.15

# %%
scaled = [n**2 * e for n, e in zip(counts, found[LINEAR], strict=True)]
growth = [b - a for a, b in pairwise(scaled)]
multiples = " ".join(f"{g / growth[0]:.1f}" for g in growth)
print("growth of n² · error per doubling, as multiples of the first:", multiples)
# each doubling adds the same, a multiple of log 2; the rest is of higher order
assert max(growth) < 1.15 * min(growth)

# %% [markdown]
# ## Where to put the steps
#
# The same number of evaluations, 48, on four grids: uniform; quadratic with short steps near noise, $(i/n)^2$, or near data, $1-(1-i/n)^2$; and even in $\ell$ between 0.002 and 0.998, with one step to each end. First the ring, whose modes have standard deviation 1. Then the same ring with 0.01: thin data.


# %%
def grids(n):
    u = torch.linspace(0, 1, n + 1)
    ends = torch.zeros(1), torch.ones(1)
    inner = log_snr_grid(LINEAR, 0.002, 0.998, n - 2).to(device)
    return {
        "uniform": u,
        "short_near_noise": u**2,
        "short_near_data": 1 - (1 - u) ** 2,
        "log_snr": torch.cat([ends[0], inner, ends[1]]),
    }


# %%
thin = ExactField(straight, distributions.ring_of_gaussians(std=0.01))
thin_truth = truth(thin, noise)
table = {}
for kind, field, wanted in (("wide", exact, ring_truth), ("thin", thin, thin_truth)):
    for name, each in (("euler", 1), ("heun", 2), ("rk4", 4), ("dpm", 1)):
        for title, grid in grids(48 // each).items():
            if name == "dpm":
                end = dpm_solver(field, noise, grid, straight).last
            else:
                end = solve(field, noise, grid, STEP[name]).last
            table[kind, name, title] = miss(end, wanted)

# %%
for kind, text in (("wide", "std 1"), ("thin", "std 0.01")):
    print(
        f"{text:16s}",
        *(f"{LABELS[name]:>9s}" for name in ("euler", "heun", "rk4", "dpm")),
    )
    for title in grids(4):
        row = {
            name: table[kind, name, title] for name in ("euler", "heun", "rk4", "dpm")
        }
        print(f"{title:16s}", *(f"{error:9.4f}" for error in row.values()))
        for name, error in row.items():
            record(f"{kind}_{name}_{title}", f"{error:.4f}")

# %% [markdown]
# **Check 5.13** (no grid for all). On the wide ring the field changes most at early times, and steps spent near data are lost: RK4 is at least three times worse with short steps near data than with equal ones. On the thin ring it is at least five times better. DPM-Solver++ gains at least a factor three from short steps near noise on the wide ring, and five from steps even in $\ell$ on the thin one.

# %%
wide_loss = table["wide", "rk4", "short_near_data"] / table["wide", "rk4", "uniform"]
thin_gain = table["thin", "rk4", "uniform"] / table["thin", "rk4", "short_near_data"]
print(f"RK4, short steps near data: {wide_loss:.0f} times worse on the wide ring,")
print(f"{thin_gain:.0f} times better on the thin one")
assert wide_loss > 3 and thin_gain > 5
assert table["wide", "dpm", "uniform"] > 3 * table["wide", "dpm", "short_near_noise"]
assert table["thin", "dpm", "uniform"] > 5 * table["thin", "dpm", "log_snr"]

# %% [markdown]
# ## Wrong grids and wrong signs
#
# Five loops that you will meet. Each is right or wrong in one line.


# %%
def loop(times, h, step=euler):
    """Take one step of length h from each of the times."""
    x = noise
    for t in times:
        x = step(at_time, x, t, torch.tensor(h))
    return x


# %%
def recipes(n):
    i = torch.arange(n)
    return {
        "right": loop(i / n, 1 / n),
        "linspace(0, 1, n)": loop(torch.linspace(0, 1, n), 1 / n),
        "range(1, n)": loop(i[1:] / n, 1 / n),
        "RK4, right": loop(i / n, 1 / n, rk4),
        "RK4, range(1, n)": loop(i[1:] / n, 1 / n, rk4),
    }


# %%
STEPS = (10, 20, 40, 80)
damage = [{k: miss(x, ring_truth) for k, x in recipes(n).items()} for n in STEPS]

# %%
for key in damage[0]:
    few, many = damage[0][key], damage[-1][key]
    print(f"{key:18s} error with 10 steps {few:.3f}, with 80 {many:.1e}")
names = ("right", "late", "short", "rk4_right", "rk4_short")
for name, key in zip(names, damage[0], strict=True):
    record(f"loop_{name}", f"{damage[2][key]:.2g}")
    record(f"loop_{name}_80", f"{damage[-1][key]:.2g}")

# %% [markdown]
# **Check 5.14** (a wrong grid has order one). With Euler's method neither wrong grid can be told from the right one by its error on this ring. The data are centred at zero, and one of them is even better by luck. With RK4 the missing step shows: at 80 steps the error is at least 1000 times that of the right loop. A wrong loop has order one, whatever the method: from 160 to 320 steps its slope is 1 to within 0.15, where that of the right loop with RK4 is 4.

# %%
further = [{k: miss(x, ring_truth) for k, x in recipes(n).items()} for n in (160, 320)]
order = {key: slopes([row[key] for row in further])[0] for key in further[0]}
for key in damage[0]:
    ratio = further[-1][key] / further[-1]["RK4, right" if "RK4" in key else "right"]
    print(f"{key:18s} order from 160 to 320 steps {order[key]:.1f}", end="   ")
    print(f"error / right error {ratio:.1f}" if "RK4" not in key else "")
    assert abs(order[key] - (4 if key == "RK4, right" else 1)) < 0.15, (key, order)
    assert "RK4" in key or 0.5 < ratio < 2
lost = damage[-1]["RK4, range(1, n)"] / damage[-1]["RK4, right"]
print("RK4 loses more than three digits at 80 steps:", lost > 1e3)
assert lost > 1e3

# %% [markdown]
# **Check 5.15** (two signs). In the other convention data are at time 0. `reverse_time` makes such a model $m$ from the exact field. Its samples come from $dx/dr=m(x,r)$ on a grid from 1 to 0: the grid's direction is the only minus sign. A code that negates the velocity as well goes the wrong way. A code that reverses the grid and negates the velocity of a model in *this* book's convention moves along the right field in the wrong order of times. Only the first reaches the data, and no number of steps helps the others.

# %%
model = reverse_time(exact)
down = torch.linspace(1, 0, 101)
velocities = {
    "grid reversed": model,
    "grid and velocity reversed": lambda x, t: -model(x, t),
    "the same with our field": lambda x, t: -exact(x, t),
}
outcomes = {key: solve(v, noise, down, rk4).last for key, v in velocities.items()}
for key, x in outcomes.items():
    radius, error = x.norm(dim=1).mean(), miss(x, ring_truth)
    print(f"{key:28s} mean radius {radius:5.2f}, error {error:5.2f}")
    record("sign_" + key.replace(" ", "_"), f"{radius:.2f}")
good, bad, other = (miss(x, ring_truth) for x in outcomes.values())
assert good < 1e-5 and bad > 5 and other > 1

# %% [markdown]
# With the exact field of one Gaussian, mean $(10,0)$, the same mistake sends the samples away from the data.

# %%
aside = ExactField(straight, distributions.Gaussian(torch.tensor([10.0, 0.0])))
away = solve(lambda x, t: -reverse_time(aside)(x, t), noise, down, rk4).last
print(f"mean of the data 10, of the samples {away[:, 0].mean():.0f}")
record("away", f"{away[:, 0].mean():.0f}")
assert away[:, 0].mean() < -5

# %% tags=["hide-input"]
titles = ["error against steps", "mean radius 10 is right"]
figure, (left, right) = plotting.panels(titles)
styles, shades = ("-", "--", ":", "-", ":"), 3 * ["#6b7280"] + 2 * ["#c2410c"]
for key, color, style in zip(damage[0], shades, styles, strict=True):
    left.plot(
        STEPS, [d[key] for d in damage], color=color, ls=style, marker=".", label=key
    )
left.set(xscale="log", yscale="log", xlabel="steps n", ylim=(1e-9, 3))
left.set_xticks(STEPS, STEPS)
left.set_xticks([], minor=True)
left.legend(fontsize=6, loc="lower left")
tints = (plotting.DATA, plotting.NOISE, plotting.MODEL)
for x, color in zip(outcomes.values(), tints, strict=True):
    plotting.draw_samples(right, x, color, size=8)
right.set(xlim=(-14, 14), ylim=(-14, 14), aspect="equal", xticks=[], yticks=[])
plotting.show(
    figure,
    "wrong",
    "Left: errors against steps for five loops. The three Euler loops fall together "
    "with slope one; right RK4 falls with slope four, and RK4 with a missing step "
    "stays far above it. Right: the right samples lie on the ring, those with two "
    "minus signs in one point in the middle, those of the field in the wrong order on "
    "a smaller, blurred ring.",
)

# %% [markdown]
# *Figure 5.3.* Left: right and wrong loops. Right: samples with the grid reversed (orange, right), with grid and velocity reversed (grey, all in the middle), and the same with a field of this book's convention (blue).
#
# ## There and back
#
# Decode what you have encoded: from data to noise on a decreasing grid, and back with as many steps.
#
# **Check 5.16** (the round trip). The error has order 1 for Euler, 3 for midpoint and Heun, 5 for RK4: even orders gain one. So a good round trip does not certify the encoding: at 80 steps Heun's codes are farther from the true codes than its round trip suggests.

# %%
codes = truth(exact, data, 1.0, 0.0)


def there_and_back(step, n):
    """Return the errors of the codes and of the round trip, with n steps each way."""
    grid = torch.linspace(0, 1, n + 1)
    code = solve(exact, data, grid.flip(0), step).last
    return miss(code, codes), miss(solve(exact, code, grid, step).last, data)


# %%
for step, own, order in zip(METHODS, (1, 2, 2, 4), (1, 3, 3, 5), strict=True):
    coded, trips = zip(*(there_and_back(step, n) for n in (40, 80)), strict=True)
    of_code, of_trip = slopes(coded)[0], slopes(trips)[0]
    print(
        f"{step.__name__:9s} order of code {of_code:.1f}, of round trip {of_trip:.1f}"
    )
    record(f"trip_{step.__name__}", f"{trips[-1]:.1e}")
    record(f"code_{step.__name__}", f"{coded[-1]:.1e}")
    assert abs(of_trip - order) < 0.15 and abs(of_code - own) < 0.15
    assert step is not heun or coded[-1] > 2 * trips[-1]

# %% [markdown]
# ## Stiff near t = 1
#
# **Check 5.17** (how steep the field gets). For data in finitely many points the Jacobian of the field on the linear path is
#
# $$J_t(x)=-\frac{1}{1-t}\,I+\frac{t}{(1-t)^3}\operatorname{Cov}(x_1\mid x_t=x).$$
#
# At points of the path the covariance vanishes as $t\to1$ and the norm of $J$ is $1/(1-t)$. Half-way between two neighbours $m_1,m_2$ it is $\tfrac14\lVert m_1-m_2\rVert^2\,t/(1-t)^3$, less $1/(1-t)$. Automatic differentiation must agree with both.

# %%
points = ring.means
cloud = ExactField(straight, points)
apart = (points[0] - points[1]).norm().item()


def steepness(x, t):
    """Spectral norm of the Jacobian at one point."""
    jacobian = torch.autograd.functional.jacobian(
        lambda y: cloud(y[None], torch.tensor([t]))[0], x
    )
    return torch.linalg.matrix_norm(jacobian, 2).item()


# %%
ends = points[torch.randint(11, (20,), generator=generator)]
for t in (0.9, 0.99, 0.999):
    typical = [
        steepness(t * m + (1 - t) * z, t) for m, z in zip(ends, noise, strict=False)
    ]
    between = steepness(t * (points[0] + points[1]) / 2, t)
    formula = apart**2 / 4 * t / (1 - t) ** 3 - 1 / (1 - t)
    print(f"t = {t}: on the path {max(typical):.0f}, between two points {between:.1e}")
    assert max(abs(v * (1 - t) - 1) for v in typical) < 1e-6
    # the other nine points have no weight there, up to e^(-100) or so
    assert abs(between / formula - 1) < 1e-6

# %% [markdown]
# **Check 5.18** (the limit of an explicit step). On $\dot x=-\Lambda x$ a step multiplies by a polynomial in $z=-h\Lambda$: it shrinks only for $z>-2$ (Euler, midpoint, Heun) or $z>-2.785$ (RK4). Just inside the limit the solution decays, just outside it explodes.

# %%
rate = 1000.0
for step, limit in zip(METHODS, (2.0, 2.0, 2.0, 2.785), strict=True):
    ends = []
    for n in (math.ceil(1.02 * rate / limit), math.floor(0.98 * rate / limit)):
        grid = torch.linspace(0, 1, n + 1)
        ends.append(abs(solve(lambda x, t: -rate * x, one, grid, step).last.item()))
    print(f"{step.__name__:9s} inside the limit {ends[0]:.0e}, outside {ends[1]:.0e}")
    assert ends[0] < 0.1 and ends[1] > 10

# %% [markdown]
# **Check 5.19** (thin data). On the ring with standard deviation 0.01 the field turns steep in the last hundredth of the time. With eight steps Heun's method, at twice the cost, is worse than Euler's, and RK4 has not reached its order with 64 steps. On a grid with short steps near data it is far better.

# %%
stiff = {}
for step in (euler, heun, rk4):
    n = 8 * torch.tensor([1, 2, 4, 8, 16])
    lines = [torch.linspace(0, 1, k + 1) for k in n.tolist()]
    stiff[step.__name__, "uniform"] = [
        miss(solve(thin, noise, u, step).last, thin_truth) for u in lines
    ]
    stiff[step.__name__, "short near data"] = [
        miss(solve(thin, noise, 1 - (1 - u) ** 2, step).last, thin_truth) for u in lines
    ]

# %%
print("errors with 8 and 64 steps, and the slope from there")
for (name, grid), errors in stiff.items():
    slope = slopes(errors)[3]
    print(f"{name:6s}{grid:16s} {errors[0]:.1e}, {errors[3]:.1e}, {slope:.1f}")
record("stiff_euler", f"{stiff['euler', 'uniform'][0]:.3f}")
record("stiff_heun", f"{stiff['heun', 'uniform'][0]:.3f}")

# %%
assert stiff["heun", "uniform"][0] > 2 * stiff["euler", "uniform"][0]
assert slopes(stiff["rk4", "uniform"])[2] < 2.5
assert stiff["rk4", "uniform"][2] > 5 * stiff["rk4", "short near data"][2]

# %% tags=["hide-input"]
figure, (left, right) = plotting.panels(["ring, std 1", "ring, std 0.01"])
for name in ("euler", "heun", "rk4"):
    left.plot(
        LADDER,
        ladders[LINEAR, "equal"][name],
        color=COLORS[name],
        marker=".",
        label=LABELS[name],
    )
    for grid, style in (("uniform", "-"), ("short near data", ":")):
        cost = [k * {"euler": 1, "heun": 2, "rk4": 4}[name] for k in n.tolist()]
        right.plot(cost, stiff[name, grid], color=COLORS[name], ls=style, marker=".")
for ax in (left, right):
    ax.set(xscale="log", yscale="log", xlabel="evaluations", ylim=(1e-7, 5))
left.legend(fontsize=7)
plotting.show(
    figure,
    "stiff",
    "Errors against evaluations. Left: on the ring with std 1 the three methods fall "
    "with slopes 1, 2 and 4. Right: on the ring with std 0.01 and a uniform grid Heun "
    "and RK4 start above Euler and reach their slopes only beyond a hundred steps; "
    "dotted lines, with short steps near data, lie far below.",
)

# %% [markdown]
# *Figure 5.4.* Left: wide modes. Right: thin modes; solid on a uniform grid, dotted with short steps near data.
#
# **Check 5.20** (step size underflow). A data set of eleven points, the square-root schedule, single precision, and an end within $10^{-7}$ of 1. The solver cannot make its steps small enough and says so. Three ways out: stop at 0.999, use double precision, or loosen the tolerance.


# %%
def attempt(end, dtype, tolerance):
    """Integrate the data set's field, square-root schedule; return evaluations."""
    field = ExactField(AffinePath(SQRT), points.to(dtype))
    way = solve_adaptive(
        field, noise.to(dtype), 0.0, end, rtol=tolerance, atol=tolerance
    )
    return way.evaluations


try:
    attempt(1 - 1e-7, torch.float32, 1e-5)
    raise AssertionError("the solver did not notice")
except FloatingPointError as error:
    print(str(error).split(":")[0], "and the advice:", str(error).rsplit(": ", 1)[1])

# %%
for end, dtype, tolerance in (
    (0.999, torch.float32, 1e-5),
    (1 - 1e-7, torch.float64, 1e-5),
    (1 - 1e-7, torch.float32, 1e-2),
):
    enough = attempt(end, dtype, tolerance) < 600
    print(f"end 1 - {1 - end:.0e}, {dtype}, tolerance {tolerance:.0e}:", end=" ")
    print("fewer than 600 evaluations")
    assert enough

# %% [markdown]
# Stopping early leaves a little noise in the samples. One last step of DPM-Solver++ to $t=1$ removes it, without evaluating the field at the end.

# %%
path = AffinePath(SQRT)
field = ExactField(path, points)
x = solve_adaptive(field, noise, 0.0, 0.999, rtol=1e-5, atol=1e-5).last
last = dpm_solver(field, x, torch.tensor([0.999, 1.0]), path).last
gaps = [
    (y[:, None] - points).norm(dim=2).min(dim=1).values.max().item() for y in (x, last)
]
print(f"largest distance to a data point: {gaps[0]:.2f} at 0.999,", end=" ")
print(f"below 1e-9 at 1: {gaps[1] < 1e-9}")
record("early_gap", f"{gaps[0]:.2f}")
assert gaps[0] > 0.01 and gaps[1] < 1e-9

# %% [markdown]
# **Check 5.21** (the floor of the precision). In single precision the error of RK4 stops falling where rounding takes over: numbers near 10 have a spacing of $10^{-6}$. A network has far larger errors than this, so it costs nothing. It matters for tests of order and for tight tolerances.

# %% tags=["nbval-ignore-output"]
plain = ExactField(
    straight,
    distributions.GaussianMixture(ring.means.float(), ring.covariances.float()),
)
for n in (16, 64, 256):
    grid = torch.linspace(0, 1, n + 1)
    double = miss(solve(exact, noise, grid, rk4).last, ring_truth)
    single = miss(
        solve(plain, noise.float(), grid.float(), rk4).last.double(), ring_truth
    )
    print(f"RK4 with {n:3d} steps: double {double:.0e}, single {single:.0e}")
assert 1e-7 < single < 3e-5 and double < 1e-7
record("floor", f"{single:.0e}")

# %% [markdown]
# ## Choose
#
# How many evaluations for a given error? Interpolated on log scales between the rungs of the ladder of Figure 5.1, and given to two digits: equal steps / short steps near noise. The adaptive solver chooses its own.


# %%
def needed(costs, errors, wanted):
    """Evaluations at which the error falls to the wanted one, as a string."""
    for (n, e), (m, f) in pairwise(zip(costs, errors, strict=True)):
        if e >= wanted > f:
            value = n * (m / n) ** (math.log(e / wanted) / math.log(e / f))
            return f"{round(value, 1 - int(math.log10(value))):.0f}"
    return f"> {costs[-1]}" if wanted < errors[-1] else f"< {costs[0]}"


# %%
LEVELS = (0.1, 0.01, 0.001)
for s in (LINEAR, VP):
    print(f"{s.name}: evaluations for an error of", ", ".join(map(str, LEVELS)))
    runs = {n: [(LADDER, ladders[s, g][n]) for g in GRIDS] for n in NAMES}
    runs["adaptive"] = [tuple(zip(*adaptive[s], strict=True))]
    for name, ways in runs.items():
        cells = [" / ".join(dict.fromkeys(needed(*w, k) for w in ways)) for k in LEVELS]
        print(f"  {LABELS.get(name, name):10s}", *(f"{cell:>13s}" for cell in cells))
        for level, cell in zip(LEVELS, cells, strict=True):
            record(f"needed_{s.name[0]}_{name}_{level}", cell)

# %% [markdown]
# **Check 5.22** (both grids for every method). On the linear schedule the short steps near noise must help every method at every rung of the ladder, and DPM-Solver++ most. With them DPM-Solver++ must have the least error at 8 and 16 evaluations; from 32 on RK4 must have it, and at 32 midpoint must be ahead of DPM-Solver++ too. With equal steps RK4 must have the least error of all at every rung, on both schedules. On VP the same short steps must hurt every method from 32 evaluations on: there the samples choose a direction later, near the middle of the time.

# %%
best = {}
for (s, grid), errors in ladders.items():
    best[s, grid] = [min(NAMES, key=lambda n: errors[n][i]) for i in range(len(LADDER))]
    print(f"{s.name}, {grid}:", ", ".join(LABELS[name] for name in best[s, grid]))
for s in (LINEAR, VP):
    assert set(best[s, "equal"]) == {"rk4"}
assert best[LINEAR, "short near noise"] == 2 * ["dpm"] + 4 * ["rk4"]
short = ladders[LINEAR, "short near noise"]
assert short["midpoint"][2] < short["dpm"][2]

# %%
for name in NAMES:
    gain = [
        [a / b for a, b in zip(*(ladders[s, g][name] for g in GRIDS), strict=True)]
        for s in (LINEAR, VP)
    ]
    print(
        f"{LABELS[name]:10s} equal / short at 32: {gain[0][2]:.1f}, VP {gain[1][2]:.1f}"
    )
    assert min(gain[0]) > 1 > max(gain[1][2:])
    record(f"gain_{name}", f"{gain[0][2]:.1f}")

# %% [markdown]
# ## Two minus signs, drawn
#
# Follow the mean of the samples, for data with the mean 10, in three ways: this book's field $v$ with $t$ rising; a model $m$ of the other convention with $r$ falling, where the falling time is the one minus sign; and $-m$ with $r$ falling, where a second one cancels it.

# %%
there = reverse_time(aside)
ways = {
    "right: dx = v dt, t from 0 to 1": (aside, down.flip(0)),
    "reversed once: dx = m dr, r from 1 to 0": (there, down),
    "reversed twice: dx = −m dr, r from 1 to 0": (lambda x, r: -there(x, r), down),
}
arrived = {}
for text, (v, grid) in ways.items():
    arrived[text] = solve(v, noise, grid, rk4).last[:, 0].mean().item()
    print(f"{text:43s} mean at the end {arrived[text]:.0f}")
first, once, twice = arrived.values()
assert abs(first - once) < 1e-6 and twice < -5  # the same steps; the wrong way

# %% tags=["hide-input"]
figure, (ax,) = plotting.panels(["mean of the samples"])
start = noise[:, 0].mean().item()
colors = (plotting.MODEL, plotting.MODEL, plotting.DATA)
for row, ((text, end), color) in enumerate(zip(arrived.items(), colors, strict=True)):
    style = {"arrowstyle": "-|>", "color": color, "lw": 2, "mutation_scale": 14}
    ax.annotate("", (end, -row), (start, -row), arrowprops=style)
    ax.plot(start, -row, "o", color=plotting.NOISE)
    ax.text(-12, 0.25 - row, text, color=color, fontsize=10)
for x, text in ((0, "noise"), (10, "data")):
    ax.plot([x, x], [-2.5, 0.55], color=plotting.NOISE, lw=0.7, ls=":", zorder=0)
    ax.text(x, 0.65, text, ha="center", fontsize=10)
ax.spines["left"].set_visible(False)
ax.set(xlim=(-12, 12), ylim=(-2.5, 1), yticks=[], xticks=(-10, 0, 10))
plotting.show(
    figure,
    "directions",
    "Three arrows that start at the mean of the noise, 0. The first, right, and the "
    "second, reversed once, end at the mean of the data, 10. The third, reversed "
    "twice, points the other way and ends far to the left of the noise.",
)

# %% [markdown]
# *Figure 5.5.* From noise to data, seen from the mean of the samples. One minus sign too many, and they move away from the data.
#
# ## Summary
#
# - The order is the slope of the error. Measure it on a problem without symmetry, and at more than one schedule.
# - Compare by evaluations, and give every method the same choice of grids. The finer the answer that you need, the more a high order pays.
# - An adaptive solver must not average its error over the batch.
# - DPM-Solver++ gets second order for one evaluation a step, if the grid suits it.
# - Wrong grids have order one whatever the method. A missing step hides behind Euler's own error and shows with RK4.
# - Thin data make the field steep near $t=1$: short steps there, or an early stop and one last step.
#
# ## Questions
#
# 1. Repeat Check 5.5 with a Gaussian of mean zero and standard deviation 2. What are the slopes now, and why?
# 2. What does the round trip of Check 5.16 say if the way back has twice as many steps?
# 3. Put `exact` of the thin ring into the ladder. Which solver wins at 32 evaluations?
# 4. How does the damage of the pooled norm depend on the size of the batch? Predict the exponent, then measure.
# 5. Which grid would you choose for data whose modes differ in width by a factor of 100?
