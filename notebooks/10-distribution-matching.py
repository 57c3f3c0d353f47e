# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lab: Distribution matching
#
# You train generators that need one step: noise in, sample out. No pairs, no solver. The gradient is a difference of two scores, first from two fields, then from two batches of points.

# %%
# On Colab this cell installs the book's package; elsewhere it does nothing.
import sys

if "google.colab" in sys.modules:
    print("Installing the book's package")
    # %pip install -q git+https://github.com/fmtutorial/fmtutorial

# %%
import math

import numpy as np
import torch

from fmtutorial import distributions, plotting
from fmtutorial.distribution_matching import distribution_matching_loss, kernel_drift
from fmtutorial.distributions import GaussianMixture
from fmtutorial.exact import ExactField
from fmtutorial.labs import default_device, record
from fmtutorial.losses import flow_matching_loss, mean_squared_norm
from fmtutorial.metrics import energy_distance, mode_shares
from fmtutorial.networks import MLP
from fmtutorial.paths import COSINE, LINEAR, AffinePath

# %%
device = default_device()
torch.set_default_device(device)
torch.manual_seed(0)

ring = distributions.ring_of_gaussians()
path = AffinePath(LINEAR)
exact = ExactField(path, ring)

# %% [markdown]
# ## The gradient is a difference of two scores
#
# A student $x_1=G_\theta(z)$ makes samples in one step. Give them noise, $x_t=\alpha_tx_1+\sigma_tx_0$, and call their density $q_t$. That of noised data is $p_t$. Then
#
# $$\nabla_\theta\,\mathrm{KL}(q_t\,\|\,p_t)=\frac{\alpha_t^2}{\sigma_t^2}\,\mathbb E\Bigl[\partial_\theta G_\theta(z)^{\mathsf T}\,\bigl(D_q-D_p\bigr)(x_t)\Bigr],$$
#
# where $D_q$ and $D_p$ are the means of $x_1$ given $x_t$. The left side needs densities, the right side two fields.
#
# On the line everything can be computed. The student is $a+bz$, so $q_t$ is a Gaussian. The divergence is a sum over a grid, and autograd differentiates it.


# %%
def divergence(student, data, t):
    """Return KL(q_t | p_t) for the student a + b z, by the trapezoidal rule."""
    a, b = student
    x = torch.linspace(-15, 15, 3001, dtype=torch.float64)
    variance = t**2 * b**2 + (1 - t) ** 2
    log_q = -0.5 * ((x - t * a) ** 2 / variance + torch.log(2 * math.pi * variance))
    log_p = ExactField(path, data).log_prob(x, torch.full_like(x, t))
    return torch.trapezoid(log_q.exp() * (log_q - log_p), x)


# %%
def through_fields(student, data, t):
    """Return the gradient by the two fields; z and x0 on a grid, with their weights."""
    a, b = student
    side = torch.linspace(-7, 7, 141, dtype=torch.float64)
    z, x0 = torch.cartesian_prod(side, side).T
    weight = torch.softmax(-0.5 * (z**2 + x0**2), dim=0)
    own = ExactField(path, GaussianMixture(a.detach()[None], b.detach()[None] ** 2))
    x1 = (a + b * z).detach().requires_grad_()
    fields, t = (own, ExactField(path, data)), torch.full_like(z, t)
    distribution_matching_loss(x1, *fields, path, t, x0, normalised=False).backward()
    g = len(z) * x1.grad  # the loss is a mean
    along = torch.stack([torch.ones_like(z), z])  # dx1/da and dx1/db
    return (t[0] / (1 - t[0])) ** 2 * (along * weight * g).sum(dim=1)


# %% [markdown]
# **Check 10.21** (two Gaussians). For data $\mathcal N(m,s^2)$ the divergence has a closed form, which the sum must meet. Then the gradients in $a$ and $b$: autograd on the closed form against the two fields.


# %%
def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


# %%
student = [value.requires_grad_() for value in numbers(0.4, 0.9).unbind()]
m, s = 1.2, 0.5
normal = GaussianMixture(numbers(m), numbers(s**2))
for t in (0.2, 0.5, 0.8):
    a, b = student
    r, u = (t**2 * width**2 + (1 - t) ** 2 for width in (b, s))
    closed = 0.5 * (r / u + t**2 * (a - m) ** 2 / u - 1 + torch.log(u / r))
    assert abs(divergence(student, normal, t) - closed) < 1e-10
    wanted = torch.stack(torch.autograd.grad(closed, student))
    found = through_fields(student, normal, t)
    print(f"t = {t}: gradient {wanted[0]:7.4f}, {wanted[1]:7.4f}")
    assert (found - wanted).abs().max() < 1e-9  # both sums are exact to rounding

# %% [markdown]
# **Check 10.22** (data of three clumps). There is no closed form now. The two sides are two different sums, and they agree to as many digits. Without the student's own score the gradient is another one.

# %%
clumps = GaussianMixture(
    numbers(-1.5, 0.2, 2.0), numbers(0.3, 0.2, 0.5), numbers(0.3, 0.5, 0.2)
)
for t in (0.2, 0.5, 0.8):
    found = through_fields(student, clumps, t)
    value = divergence(student, clumps, t)
    wanted = torch.stack(torch.autograd.grad(value, student))
    print(f"t = {t}: gradient {wanted[0]:7.4f}, {wanted[1]:7.4f}")
    assert (found - wanted).abs().max() < 1e-8

# %% [markdown]
# As a loss it is short. Fields are asked at the noised sample, and their answers turned into means of $x_1$. What is left is a number whose gradient in $x_1$ is $g/B$. Dividing by the mean error of the target's answer keeps the gradient of one size for all $t$.


# %% tags=["quote-match-loss"]
def matching_loss(x1, own, target, t, x0):
    s = t[:, None]
    with torch.no_grad():
        x_t = (1 - s) * x0 + s * x1
        ours = x_t + (1 - s) * own(x_t, t)
        wanted = x_t + (1 - s) * target(x_t, t)
        error = (x1 - wanted).abs().mean(dim=1)
        g = (ours - wanted) / error[:, None]
    return (g * x1).sum(dim=1).mean()


# %% [markdown]
# **Check 10.23** (against the package). The value of `distribution_matching_loss` is another one, half the mean of $\lVert g\rVert^2$. The gradients are the same, to single precision.

# %%
network = MLP(width=16, depth=1)
x1, x0 = torch.randn(2, 512, 2)
x1.requires_grad_()
t = 0.02 + 0.96 * torch.rand(512)
ours = torch.autograd.grad(matching_loss(x1, network, exact, t, x0), x1)[0]
loss = distribution_matching_loss(x1, network, exact, path, t, x0)
theirs = torch.autograd.grad(loss, x1)[0]
print("same gradient as the package's:", torch.allclose(ours, theirs, rtol=1e-4))
assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-8)
assert abs(loss - 0.5 * (512 * theirs).square().sum(dim=1).mean()) < 1e-4 * loss

# %% [markdown]
# ## When the second network lags
#
# The student's own field is learned while the student moves. Take a student that has the right shape and the wrong place: $x_1=a+z$, data $\mathcal N(m,I)$, and a second field that believes the student to be at $\hat a$. Then $D_{\hat a}-D_p=c_t(\hat a-m)$ with $c_t=\sigma_t^2/(\alpha_t^2+\sigma_t^2)$, wherever the student is. Let the student move at rate $\eta$ and the belief follow at rate $\kappa$:
#
# $$\dot a=-\eta c\,(\hat a-m),\qquad\dot{\hat a}=\kappa\,(a-\hat a).$$
#
# This is a damped oscillator. It swings past the data if and only if $\kappa<4\eta c$.


# %%
def follow(ratio, steps=400, gap=0.05):
    """Move a student from 0 to data at 1; its field follows at ratio times its rate."""
    place, belief, seen = torch.zeros(1, requires_grad=True), torch.zeros(1), []
    target = ExactField(path, GaussianMixture(torch.ones(1, 1), torch.ones(1)))
    t, x0 = torch.full((1,), 0.5), torch.zeros(1, 1)  # c = 1/2 at this time
    for _ in range(steps):
        seen.append(place.item())
        own = ExactField(path, GaussianMixture(belief[None], torch.ones(1)))
        x1 = place[None] + torch.randn(1, 1)
        loss = distribution_matching_loss(x1, own, target, path, t, x0, False)
        (slope,) = torch.autograd.grad(loss, place)
        belief = belief + gap * ratio * 0.5 * (place.detach() - belief)
        place = (place - gap * slope).detach().requires_grad_()
    return torch.tensor(seen)


# %% [markdown]
# **Check 10.24** (the oscillator). With $e=a-m$ and $k=\kappa/\eta c$ the solution has the rates $\frac12(-k\pm\sqrt{k^2-4k})\,\eta c$. The steps of the loss, with its random samples, must follow this curve: the samples fall out. The tolerance is the error of Euler's method with these steps. A second field that stands still, $k=0$, sends the student past the data for ever.


# %%
def oscillator(k, time):
    """Return the place at a time, in units of 1/(eta c): e'' + k e' + k e = 0."""
    root = np.sqrt(complex(k * k - 4 * k) + 1e-9)
    fast, slow = (-k - root) / 2, (-k + root) / 2
    # e = -1 at the start, and its slope is that of a belief at 0
    weight = (1 + fast) / (slow - fast)
    e = weight * np.exp(slow * time) - (1 + weight) * np.exp(fast * time)
    return torch.as_tensor(1 + e.real, device="cpu")


# %%
time = 0.05 * 0.5 * np.arange(400)
ways = {k: follow(k).cpu().double() for k in (0, 1, 4, 16)}
for k, way in ways.items():
    curve = oscillator(k, time) if k else torch.as_tensor(time)
    print(f"k = {k:2d}: highest place {way.max():.2f}")
    record(f"match-highest-{k}", round(way.max().item(), 2))
    assert (way - curve).abs().max() < 0.03
assert ways[1].max() > 1.1 and ways[4].max() < 1.01 and ways[0].max() > 9

# %% tags=["hide-input"]
figure, (ax,) = plotting.panels(["where the student is"])
shades = {0: plotting.NOISE, 1: plotting.DATA, 4: plotting.MODEL, 16: plotting.TRUTH}
for k, color in shades.items():
    ax.plot(time, ways[k], color=color, label=f"k = {k}")
ax.axhline(1, color="#9ca3af", linestyle=":", label="data")
ax.set(xlabel="time, in units of 1/(ηc)", ylim=(0, 2))
ax.legend(fontsize=7)
plotting.show(
    figure,
    "match-lag",
    "The place of a student against time, for four rates of its own field. With rate 0 "
    "it passes the data on a straight line. With rate 1 it overshoots by a third "
    "and swings back. With rates 4 and 16 it comes to rest at the data.",
)

# %% [markdown]
# *Figure 10.21.* A student that is moved to the data by the difference of two scores, when the score of its own samples follows $k$ times as fast as it moves. Below four it overshoots.
#
# ## What the divergence forgives
#
# $\mathrm{KL}(q\,\|\,p)$ is a mean over the student's samples. Data that the student never makes do not enter. A student that makes one of eleven equal modes pays $\log11$, and no more. A student that makes points between the modes pays for each of them.
#
# **Check 10.25** (the bill). Two students for the ring, both Gaussian: one mode, and the Gaussian with the mean and covariance of the data. By sums over the plane, in both directions.


# %%
def in_plane(q, p, extent=32.0, n=320):
    """Return KL(q | p) by a sum over a square."""
    side = torch.linspace(-extent, extent, n + 1)
    x, log_q = torch.cartesian_prod(side, side), 0
    log_q = q.log_prob(x)
    return (log_q.exp() * (log_q - p.log_prob(x))).sum().item() * (2 * extent / n) ** 2


# %%
one = GaussianMixture(ring.means[:1], torch.ones(1))
broad = GaussianMixture(torch.zeros(1, 2), torch.full((1,), 51.0))
bills = {}
for name, q in (("one mode", one), ("all of it", broad)):
    bills[name] = in_plane(q, ring), in_plane(ring, q)
    print(f"{name:9s}: KL(q|p) {bills[name][0]:5.2f}, KL(p|q) {bills[name][1]:5.2f}")
    for key, value in zip(("reverse", "forward"), bills[name], strict=True):
        record(f"match-{key}-{name.split()[0]}", round(value, 1))
reverse_one, forward_one = bills["one mode"]
# the mode's tail also lies on its neighbours, which lowers the bill by 1 %
assert abs(reverse_one - math.log(11)) < 0.02
assert reverse_one < bills["all of it"][0] and bills["all of it"][1] < forward_one

# %% [markdown]
# Now let a Gaussian student learn, $x_1=a+Lz$, with both fields exact. Only the times differ: late ones, with little noise, or early ones, with much.


# %%
def fit_gaussian(low, high, rate=0.2, steps=300):
    centre = torch.tensor([3.0, 1.0]).requires_grad_()
    factor = torch.eye(2).requires_grad_()
    optimizer = torch.optim.Adam([centre, factor], rate, betas=(0.5, 0.99))
    for i in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - i / steps)
        x1 = centre + torch.randn(256, 2) @ factor.T
        shape = (factor @ factor.T).detach()
        own = ExactField(path, GaussianMixture(centre.detach()[None], shape[None]))
        t, x0 = low + (high - low) * torch.rand(256), torch.randn(256, 2)
        loss = distribution_matching_loss(x1, own, exact, path, t, x0, False)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return GaussianMixture(centre.detach()[None], shape[None])


# %% [markdown]
# **Check 10.26** (seeking modes). From one start, with late times the student ends on one side of the ring and misses most of it: its spread in any direction is below that of the data by a factor of three or more. With early times it ends where the mean and the covariance of the data are, within 10 %.

# %%
seeking, covering = fit_gaussian(0.8, 0.98), fit_gaussian(0.0, 0.1)
for name, found in (("late", seeking), ("early", covering)):
    shares = mode_shares(found.sample(4000), ring.means)
    spread = torch.linalg.eigvalsh(found.covariances[0])
    hit = (shares > 0.02).sum().item()
    print(f"{name:5s} times: modes met {hit}, KL(q|p) {in_plane(found, ring):.1f}")
    record(f"match-modes-{name}", hit)
    record(f"match-reverse-{name}", round(in_plane(found, ring), 1))
    far = found.means[0].norm()
    assert (far > 6 and spread.max() < 51 / 3) if name == "late" else far < 0.5
assert (spread / 51 - 1).abs().max() < 0.1 and hit == 11

# %% [markdown]
# **Check 10.27** (much noise has one valley). Move a narrow student along the line through the centre and one mode. With little noise the divergence has a valley at the mode and one on the other side. With much noise it has one, at the centre. At $\alpha_t=0$ the fields know nothing but the means, $g$ is the difference of the two means wherever $x_t$ is, and the divergence per $\alpha_t^2$ is a parabola.

# %%
places = torch.linspace(-16, 16, 65)
z, x0 = torch.randn(2, 1000, 2)
z, x0 = torch.cat([z, -z]), torch.cat([x0, -x0])
way = ring.means[0] / ring.means[0].norm()


def valley(t):
    """Return KL(q_t | p_t) for students at all places, over (alpha/sigma)^2."""
    times, found = torch.full((2000,), t), []
    for place in places:
        own = ExactField(path, GaussianMixture((place * way)[None], torch.ones(1)))
        x_t = t * (place * way + z) + (1 - t) * x0
        found.append((own.log_prob(x_t, times) - exact.log_prob(x_t, times)).mean())
    return torch.stack(found).cpu() * ((1 - t) / t) ** 2


# %%
valleys = {t: valley(t) for t in (0.02, 0.1, 0.2, 0.5)}
for t, curve in valleys.items():
    inner = curve[1:-1]
    low = (inner < curve[:-2]) & (inner < curve[2:])
    where = places[1:-1].cpu()[low].tolist()
    print(f"t = {t:4}: valleys {len(where)}")
    if t < 0.05:
        assert len(where) == 1 and abs(where[0]) < 1
assert len(where) >= 2 and min(abs(x - 10) for x in where) < 1
own = ExactField(path, one)
start = torch.zeros(2000)
x1 = (ring.means[0] + z).requires_grad_()
loss = distribution_matching_loss(x1, own, exact, path, start, x0, False)
g = 2000 * torch.autograd.grad(loss, x1)[0]
assert (g - ring.means[0]).abs().max() < 1e-4  # the data's mean is 0; single precision

# %% tags=["hide-input"]
figure, axes = plotting.panels(["Gaussian students", "divergence along a line"])
axes[0].set(xlim=(-16, 16), ylim=(-24, 16), aspect="equal", xticks=[], yticks=[])
axes[0].spines[:].set_visible(False)
plotting.draw_samples(axes[0], ring.sample(1500), "#9ca3af", size=2)
angle = torch.linspace(0, 2 * math.pi, 100)
circle = 2 * torch.stack([angle.cos(), angle.sin()], dim=1)
drawn = {"late times": (seeking, plotting.MODEL), "early": (covering, plotting.DATA)}
for name, (found, color) in drawn.items():
    root = torch.linalg.cholesky(found.covariances[0])
    line = (found.means[0] + circle @ root.T).cpu()
    axes[0].plot(line[:, 0], line[:, 1], color=color, label=name)
for t, color in zip(valleys, ("#1d4ed8", "#60a5fa", "#f59e0b", "#b45309"), strict=True):
    curve = valleys[t] - valleys[t].min()
    axes[1].plot(places.cpu(), curve / curve.max(), color=color, label=f"t = {t}")
axes[1].set(xlabel="place of the student", yticks=[], ylim=(-0.05, 1.55))
axes[0].legend(fontsize=7, loc="lower center", ncols=2)
axes[1].legend(fontsize=7, loc="upper center", ncols=2)
plotting.show(
    figure,
    "match-modes",
    "Left: the ring of eleven clumps with two ellipses. The one of late times lies on "
    "a part of the ring; the one of early times is a circle around all of it. Right: "
    "divergence against the place of a student. With much noise one valley at the "
    "centre, with little noise one on each side of the ring.",
)

# %% [markdown]
# *Figure 10.22.* Left: where a Gaussian student ends (ellipses of two standard deviations) when it is trained at late or at early times. Right: the divergence of a narrow student along a line through a mode, scaled to the same height. With little noise it has a valley on each side.
#
# ## A generator, and the field of its samples
#
# Student and second network are two small networks. The exact field of the ring stands for a teacher that knows the data.


# %%
def make(network, n=256):
    """Sample in one step."""
    z = torch.randn(n, 2)
    return z + network(z, torch.zeros(n))


def learner():
    """Return a network that brings its optimizer along."""
    network = MLP(width=128)
    network.optimizer = torch.optim.Adam(network.parameters(), 3e-3, betas=(0.9, 0.99))
    return network


# %%
def learn(network, loss, left):
    """Make one update; the rate falls with the share of the training that is left."""
    optimizer = network.optimizer
    optimizer.param_groups[0]["lr"] = 3e-3 * math.sin(0.5 * math.pi * left) ** 2
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


# %%
def fresh():
    """Draw noise for 256 samples, and times."""
    return torch.randn(256, 2), 0.02 + 0.96 * torch.rand(256)


# %% tags=["quote-match-loop"]
def train_by_matching(steps, own_steps):
    student, own = learner(), learner()
    for i in range(steps):
        left = 1 - i / steps
        for _ in range(own_steps):
            x1 = make(student).detach()
            x0, t = fresh()
            loss = flow_matching_loss(own, path, x0, x1, t)
            learn(own, loss, left)
        x1 = make(student)
        x0, t = fresh()
        fields = own, exact, path
        loss = distribution_matching_loss(x1, *fields, t, x0)
        learn(student, loss, left)
    return student


# %%
matched = train_by_matching(400, own_steps=4)
lagging = train_by_matching(400, own_steps=1)

# %% [markdown]
# ## Without networks for the scores
#
# Two batches of points have scores too, if each point is blurred by a Gaussian of width $h$. The score of such a mixture is $(M(x)-x)/h^2$, with the mean $M(x)$ of the points weighted by a kernel. The difference of the two is a drift: towards the data nearby, away from the student's own samples nearby,
#
# $$V(x)=M_{\text{data}}(x)-M_{\text{own}}(x)=h^2\,\nabla\log\frac{p_h}{q_h}(x).$$


# %% tags=["quote-match-drift"]
def drift(x, data, own, h):
    def mean_near(points):
        gaps = x[:, None] - points
        squares = gaps.square().sum(dim=2)
        weight = (-squares / (2 * h**2)).softmax(1)
        return weight @ points

    return mean_near(data) - mean_near(own)


# %% [markdown]
# **Check 10.28** (the drift is a difference of scores). Against the package, and against the scores of the two mixtures, in double precision. And it is distribution matching: with $h=\sigma_t/\alpha_t$ it is $-g$ at $x_t=\alpha_tx$, when both fields are the exact ones of the two batches.

# %%
x, data, own = torch.randn(3, 200, 2, dtype=torch.float64)
data = 2 * data + 1
for h in (0.2, 1.0, 5.0):
    width = torch.full((200,), h**2, dtype=torch.float64)
    scores = [GaussianMixture(points, width).score(x) for points in (data, own)]
    wanted = h**2 * (scores[0] - scores[1])
    gap = (kernel_drift(x, data, own, h) - wanted).abs().max()
    assert gap < 1e-12 and (drift(x, data, own, h) - wanted).abs().max() < 1e-12

# %%
cosine, t = AffinePath(COSINE), torch.full((200,), 0.7, dtype=torch.float64)
alpha, sigma = COSINE.alpha(t)[:, None], COSINE.sigma(t)[:, None]
batches = [
    ExactField(cosine, points).posterior_mean(alpha * x, t) for points in (data, own)
]
gap = batches[0] - batches[1] - drift(x, data, own, (sigma / alpha)[0])
print(
    "the drift is h² times the difference of two scores:",
    gap.abs().max().item() < 1e-12,
)
assert gap.abs().max() < 1e-12

# %% [markdown]
# Training moves the samples along the drift: each is regressed on where the drift takes it. The width is drawn anew for each step, between a half and four: wide kernels reach from mode to mode, narrow ones shape the modes.


# %% tags=["quote-match-drifting"]
def train_by_drifting(steps):
    student = learner()
    for i in range(steps):
        x, own = make(student), make(student)
        h = 0.5 * 8 ** torch.rand(1).item()
        data = ring.sample(256)
        v = kernel_drift(x, data, own, h)
        goal = (x + v).detach()
        loss = 0.5 * mean_squared_norm(x - goal)
        learn(student, loss, 1 - i / steps)
    return student


# %%
drifted = train_by_drifting(600)

# %% [markdown]
# **Check 10.29** (one step). Each generator must make all eleven modes, none less often than half its share. The energy distance to the data of the first and the last must be below a tenth of that of the noise they start from, and fewer than a third of their samples may stray more than 2.5 from every centre. Fresh data set the floor.

# %% tags=["nbval-ignore-output"]
with torch.no_grad():
    made = {"noise": torch.randn(3000, 2), "fresh data": ring.sample(3000)}
    made |= {"four to one": make(matched, 3000), "one to one": make(lagging, 3000)}
    made["drifting"] = make(drifted, 3000)
found = {}
for name, x in made.items():
    distance = energy_distance(x, ring.sample(3000))
    stray = (torch.cdist(x, ring.means).min(dim=1).values > 2.5).float().mean().item()
    share = 11 * mode_shares(x, ring.means).min().item()
    found[name] = distance, stray, share
    print(f"{name:11s}: distance {distance:.2f}, strays {100 * stray:3.0f} %,", end=" ")
    print(f"rarest mode {share:.2f} of its share")
    key = name.replace(" ", "-")
    record(f"match-distance-{key}", f"{distance:.2f}")
    record(f"match-strays-{key}", round(100 * stray))

# %%
for name in ("four to one", "drifting"):
    distance, stray, share = found[name]
    assert distance < 0.1 * found["noise"][0] and stray < 1 / 3 and share > 0.5
assert found["one to one"][1] > 0.9 * found["four to one"][1]
print("no mode is left out")

# %% tags=["hide-input"]
titles = ["fresh data", "four to one", "one to one", "drifting"]
figure, axes = plotting.panels(titles, extent=13, rows=2)
for ax, name in zip(axes, titles, strict=True):
    color = plotting.DATA if name == "fresh data" else plotting.MODEL
    plotting.draw_samples(ax, made[name][:2000], color, size=2)
plotting.show(
    figure,
    "match-samples",
    "Four panels of two thousand points. Fresh data are eleven round clumps on a ring. "
    "The first generator and drifting fill a band of the right radius without clumps, "
    "with some points inside; the generator whose own field was trained once for each "
    "of its steps has a band that is too thin on one side, and more points inside.",
)

# %% [markdown]
# *Figure 10.23.* One step from noise. Data, two generators trained by distribution matching, whose own field had four updates or one for each of theirs, and one trained by drifting. After a few seconds of training the ring is there and each mode has its share, but the gaps are not yet empty: there the map is steepest, as in Figure 6.4.
#
# ## Questions
#
# 1. In Check 10.22, leave out the student's own field (put $D_q=x_1$). What does the generator do then?
# 2. Train the Gaussian student at all times at once. Where does it end, and why?
# 3. In `train_by_drifting`, let `own` be the samples $x$ themselves. What changes for narrow kernels?
# 4. Draw the width between 0.5 and 1 only, and start from noise. Which modes are found?
