# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lab: Other people's models
#
# A model from elsewhere has its own words for time, noise and what it predicts. Behind them is a velocity field. Here a small model is trained as the tutorials of the library diffusers train one, with its network, its scheduler and its loss. Then it goes through this book's solvers, gets a likelihood, and is guided. Afterwards the book's digits go the other way: into a pipeline of diffusers, into flow_matching, and into ONNX.
#
# After this lab you can
#
# - turn a network of diffusers and its scheduler into a velocity field in one line,
# - reproduce its samplers number by number, and see when you have misread it,
# - sample it with fewer evaluations, and compute what its library has no function for,
# - hand a network of yours to diffusers, flow_matching or onnxruntime.

# %%
# On Colab this cell installs the book's package; elsewhere it does nothing.
import sys

if "google.colab" in sys.modules:
    print("Installing the book's package")
    # this lab's own version where it is released, else the newest there is
    home, v = "https://github.com/fmtutorial/fmtutorial", "0.1.0"
    wheel = f"{home}/releases/download/v{v}/fmtutorial-{v}-py3-none-any.whl"
    # %pip install -q {wheel} 2> /dev/null || pip install -q git+{home}
    # %pip install -q diffusers flow_matching onnx onnxruntime onnxscript

# %%
import tempfile
from pathlib import Path

import torch
from torch import nn

from fmtutorial import plotting
from fmtutorial.conventions import at_levels
from fmtutorial.diffusion import as_velocity, ddim
from fmtutorial.distributions import Gaussian, ring_of_gaussians

# %%
from fmtutorial.images.data import to_pixels
from fmtutorial.images.pictures import show_pixels, tile
from fmtutorial.images.weights import load_weights
from fmtutorial.labs import record, use_default_device
from fmtutorial.likelihood import log_likelihood
from fmtutorial.metrics import energy_distance
from fmtutorial.other_models import (
    from_diffusers_model,
    scheduler_grid,
    to_diffusers_pipeline,
    to_flow_matching,
    to_onnx,
)

# %%
from fmtutorial.solvers import (
    dpm_solver,
    level_grid,
    log_snr_grid,
    midpoint,
    rk4,
    solve,
)

device = use_default_device()
generator = torch.Generator(device).manual_seed(0)

# %%
import diffusers
from flow_matching.solver import ODESolver

diffusers.utils.logging.set_verbosity_error()
diffusers.utils.logging.disable_progress_bar()

# %% [markdown]
# ## A model of diffusers
#
# The data are six Gaussians on a ring, and each has a label. To diffusers a point of the plane is an image of one pixel with two channels. The network is a small `UNet2DModel` with seven classes: the seventh means "no label", and a fifth of the time it is what the network is told.

# %%
target = ring_of_gaussians(6, 1.4, 0.25)
centres = target.means.to(device)
with torch.device("cpu"):  # where a scheduler has its levels
    scheduler = diffusers.DDPMScheduler(clip_sample=False)

# %%
torch.manual_seed(0)
model = diffusers.UNet2DModel(
    sample_size=1,
    in_channels=2,
    out_channels=2,
    block_out_channels=(32,),
    layers_per_block=1,
    down_block_types=("DownBlock2D",),
    up_block_types=("UpBlock2D",),
    mid_block_type=None,
    norm_num_groups=1,
    num_class_embeds=7,
).to(device)

# %% [markdown]
# Training is the recipe of diffusers' tutorials: a random timestep, `add_noise`, and the squared error of the predicted noise.


# %% tags=["quote-recipe"]
def their_loss(model, scheduler, x, label):
    noise = torch.randn_like(x)
    k = torch.randint(1000, (len(x),))
    noisy = scheduler.add_noise(x, noise, k)
    answer = model(noisy, k, class_labels=label)
    return nn.functional.mse_loss(answer.sample, noise)


# %%
steps = 1000
optimizer = torch.optim.Adam(model.parameters(), 1e-3)
rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
for _ in range(steps):
    label = torch.randint(6, (256,))
    x = centres[label] + 0.25 * torch.randn(256, 2)
    label[torch.rand(256) < 0.2] = 6
    loss = their_loss(model, scheduler, x[..., None, None], label)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    rate.step()
model.eval().requires_grad_(False)
print("trained")

# %% [markdown]
# ## One line
#
# `from_diffusers_model` reads the scheduler: what the network predicts, and which noise belongs to which timestep. It returns a velocity field and the path to which the field belongs.

# %% tags=["quote-one-line"]
field, path = from_diffusers_model(model, scheduler, null=6)

# %% [markdown]
# What is in that line? Their timestep $j$ counts from 0, with one step of noise, to 999. So $t=1-(j+1)/1000$. The noise is what the model predicts, and `as_velocity` turns it into the velocity. By hand:


# %% tags=["quote-by-hand"]
def noise_at_index(x, j):
    none = torch.full((len(x),), 6)
    return model(x, j, class_labels=none).sample


def noise_at_time(x, t):
    return noise_at_index(x, 1000 * (1 - t) - 1)


by_hand = as_velocity(noise_at_time, path, "noise")

# %% [markdown]
# **Check 16.1** (the same field). By hand and by the package it is one field, to $10^{-3}$ of its size: single precision rounds $t$, and a thousand timesteps make that $10^{-4}$ of one. The weights $\alpha$ and $\sigma$ of the path at the levels are the scheduler's own, to $10^{-6}$.

# %%
x = torch.randn(500, 2, 1, 1, generator=generator)
t = 1 - torch.randint(1, 1001, (500,)) / 1000
miss = (field(x, t) - by_hand(x, t)).norm() / field(x, t).norm()
print("one field:", miss.item() < 1e-3)
bars = scheduler.alphas_cumprod.to(device)
level = 1 - torch.arange(1, 1001) / 1000
off = (path.schedule.alpha(level) - bars.sqrt()).abs().max()
off = max(off, (path.schedule.sigma(level) - (1 - bars).sqrt()).abs().max())
print("the scheduler's levels:", off.item() < 1e-6)
assert miss < 1e-3 and off < 1e-6

# %% [markdown]
# ## Their samplers, and ours
#
# The loop that every pipeline of diffusers has:


# %% tags=["quote-loop"]
@torch.no_grad()
def their_samples(scheduler, call, steps, x):
    scheduler.set_timesteps(steps)
    for k in scheduler.timesteps:
        x = scheduler.step(call(x, k), k, x)
        x = x.prev_sample
    return x


# %% [markdown]
# **Check 16.2** (the same samples). `DDIMScheduler` with 50 steps, and `ddim` on the times at which it evaluates, from the same noise. `DPMSolverMultistepScheduler` with 20, and `dpm_solver`. Every number agrees to $10^{-3}$: both do the same arithmetic in single precision, in another order.

# %%
x0 = torch.randn(1000, 2, 1, 1, generator=generator)
with torch.device("cpu"):
    theirs = diffusers.DDIMScheduler.from_config(scheduler.config)
    solver = diffusers.DPMSolverMultistepScheduler.from_config(scheduler.config)
with torch.no_grad():
    grid = scheduler_grid(theirs, 50).float()
    ours = solve(field, x0, grid, ddim(path), last_only=True).last
    ours_20 = dpm_solver(field, x0, scheduler_grid(solver, 20).float(), path).last
for name, miss in {
    "DDIM": ours - their_samples(theirs, noise_at_index, 50, x0),
    "DPM-Solver": ours_20 - their_samples(solver, noise_at_index, 20, x0),
}.items():
    print(f"{name}: the same samples", miss.abs().max().item() < 1e-3)
    assert miss.abs().max() < 1e-3

# %% [markdown]
# **Check 16.3** (misread). Read the index off by one, forget the sign, or take the prediction for data instead of noise: how far are the samples from those of Check 16.2, on average? The first mistake is off by less than 0.1, where a mode is 0.25 wide, so nobody sees it in a picture. But it is more than the $10^{-3}$ of Check 16.2. The other two are off by more than 0.5, two widths.


# %%
def shifted(x, t):
    return noise_at_index(x, 1000 * (1 - t))


wrong = {
    "index off by one": as_velocity(shifted, path, "noise"),
    "sign": lambda x, t: -field(x, t),
    "data for noise": as_velocity(at_levels(noise_at_index, 1000), path, "data"),
}

# %%
misread = {}
for name, other in wrong.items():
    with torch.no_grad():
        last = solve(other, x0, grid, ddim(path), last_only=True).last
    miss = (last - ours).abs().mean().item()
    misread[name] = miss
    print(f"{name}: off by", "less than 0.1" if miss < 0.1 else "more than 0.5")
    assert 1e-3 < miss < 0.1 if name == "index off by one" else miss > 0.5

# %% [markdown]
# **Check 16.4** (fewer evaluations). Energy distances to fresh data, where other fresh data have the floor. DPM-Solver with 10 evaluations on this book's `level_grid`, from $t=0$ to 1, is at most 0.03 farther than their DDIM with 50, and more than 0.03 nearer than DDIM with 5. That margin is about half of the floor.

# %%
data, fresh = (target.sample(1000, generator.manual_seed(s)) for s in (1, 2))
floor = energy_distance(fresh, data)
distance, drawn = {}, {}
for n in (5, 10, 50):
    drawn[f"DDIM, {n}"] = their_samples(theirs, noise_at_index, n, x0)
    with torch.no_grad():
        drawn[f"DPM, {n}"] = dpm_solver(field, x0, level_grid(1000, n), path).last
for name, x in drawn.items():
    distance[name] = energy_distance(x[..., 0, 0], data)

# %% tags=["nbval-ignore-output"]
print(f"fresh data: {floor:.2f}")
record("floor", f"{floor:.2f}")
for name, value in distance.items():
    print(f"{name} evaluations: {value:.2f}")
    record(name.replace(", ", "_"), f"{value:.2f}")
record("wrong_index", f"{misread['index off by one']:.1g}")

# %%
level_with = distance["DPM, 10"] < distance["DDIM, 50"] + 0.03
print("10 evaluations do for 50:", level_with)
print("DDIM with 5 is worse:", distance["DDIM, 5"] > distance["DPM, 10"] + 0.03)
assert level_with and distance["DDIM, 5"] > distance["DPM, 10"] + 0.03

# %% [markdown]
# ## A likelihood
#
# diffusers has no function for it. With the field it is `log_likelihood`, on a grid that is even in $\log(\alpha/\sigma)$, and that starts at the cleanest level the network knows, $t=0.999$. There the data have noise of standard deviation 0.01 on them, which these data do not notice.
#
# **Check 16.5** (likelihood). 200 points: twice the steps change the mean by less than 0.05 nats. It is below that of the true density at the same points, by 0.1 to 1 nats: that much this short training has left.

# %%
points = data[:200, :, None, None]
base = Gaussian(torch.zeros(2, 1, 1))
with torch.no_grad():
    coarse, fine = (
        log_likelihood(
            field,
            points,
            base,
            log_snr_grid(path.schedule, 0.999, 0.0, n),
            rk4,
        ).mean()
        for n in (15, 30)
    )
truth = target.log_prob(data[:200]).mean()

# %%
print("the solver's error:", (coarse - fine).abs().item() < 0.05)
print("below the truth:", 0.1 < (truth - fine).item() < 1)
assert (coarse - fine).abs() < 0.05 and 0.1 < truth - fine < 1

# %% tags=["nbval-ignore-output"]
print(f"model: {fine.item():.2f} nats, truth: {truth.item():.2f}")
record("model_nats", f"{fine.item():.2f}".replace("-", "−"))
record("true_nats", f"{truth.item():.2f}".replace("-", "−"))

# %% [markdown]
# ## Labels and guidance
#
# Their `guidance_scale` is the $s$ of this book. Label and scale are arguments of the same line.

# %% tags=["quote-guided"]
label = torch.arange(600) % 6
guided, _ = from_diffusers_model(model, scheduler, label, scale=3.0, null=6)


# %% [markdown]
# **Check 16.6** (guidance). The loop of their pipelines computes $e_\varnothing+s\,(e_y-e_\varnothing)$ of the two predictions of noise. The field does that with velocities, and it is the same, to $10^{-3}$: from noise to velocity is an affine map, and the weights $1-s$ and $s$ sum to one. Nearly all samples are nearest to the mode of their own label, and with $s=3$ they lie farther out than the data, whose mean radius is 1.42.


# %%
def both(x, k):
    none = noise_at_index(x, k)
    return none + 3.0 * (model(x, k, class_labels=label).sample - none)


# %%
start = torch.randn(600, 2, 1, 1, generator=generator)
with torch.no_grad():
    grid = scheduler_grid(theirs, 20).float()
    ends = solve(guided, start, grid, ddim(path), last_only=True).last
miss = (ends - their_samples(theirs, both, 20, start)).abs().max().item()
ends = ends[..., 0, 0]
own = (torch.cdist(ends, centres).argmin(1) == label).float().mean().item()
out = ends.norm(dim=1).mean().item()
print("as their loop:", miss < 1e-3, "| own mode:", own > 0.95)
print("farther out:", out > 1.5)
assert miss < 1e-3 and own > 0.95 and out > 1.5

# %% tags=["nbval-ignore-output"]
print(f"{own:.0%} at their own mode, mean radius {out:.2f}")
record("guided_own", round(100 * own))
record("guided_radius", f"{out:.1f}")

# %% tags=["hide-input"]
shown = {
    "data": data,
    "their DDIM, 5 evaluations": drawn["DDIM, 5"][..., 0, 0],
    "DPM-Solver, 10": drawn["DPM, 10"][..., 0, 0],
    "guided, $s=3$": ends,
}
figure, axes = plotting.panels(list(shown), rows=2)
for ax, (name, x) in zip(axes, shown.items(), strict=True):
    color = plotting.DATA if name == "data" else plotting.MODEL
    plotting.draw_samples(ax, x.cpu(), color)
    ax.set(xlim=(-2.4, 2.4), ylim=(-2.4, 2.4), aspect="equal")
plotting.show(
    figure,
    "their-model",
    "Four clouds of points. The data are six round clumps on a ring. DDIM with five "
    "evaluations shows a thin ring, DPM-Solver with ten a ring as wide as the data's, "
    "and the guided ones are six thin streaks that point outwards.",
)

# %% [markdown]
# *Figure 16.1.* One model of diffusers: the data, its own sampler with five evaluations, this book's DPM-Solver with ten, and guidance. Without a label this small model has learned the ring better than its six clumps.
#
# ## The way back: diffusers
#
# `to_diffusers_pipeline` makes a pipeline of the book's weights, with a `FlowMatchEulerDiscreteScheduler`. Its `unet` is called as theirs are.

# %%
network = load_weights("mnist").network.to(device)
pipeline = to_diffusers_pipeline("mnist")
unet = pipeline.unet.to(device)
digits = torch.arange(10)
x0 = torch.randn(10, 1, 28, 28, generator=generator.manual_seed(3))


# %% tags=["quote-back"]
def noise_minus_data(x, k):
    return unet(x, k, class_labels=digits).sample


def velocity(x, t):
    return network(x, t, digits)


# %% [markdown]
# **Check 16.7** (the same digits). Their scheduler's loop in 20 steps, and `euler` on the times $1-$ `sigmas`: the same to $10^{-3}$, and at most one pixel in a thousand differs, by one grey level. Written to a folder and read again, the pipeline answers the same. No code is in that folder, only the name of a class of this package.

# %%
theirs = pipeline.scheduler
by_diffusers = their_samples(theirs, noise_minus_data, 20, x0)
with torch.no_grad():
    grid = scheduler_grid(theirs, 20).float()
    by_book = solve(velocity, x0, grid, last_only=True).last
    with tempfile.TemporaryDirectory() as folder:
        pipeline.save_pretrained(folder)
        again = diffusers.DDPMPipeline.from_pretrained(folder).unet.to(device)
    same = torch.equal(again(x0, 500).sample, unet(x0, 500).sample)
miss = (by_book - by_diffusers).abs().max().item()
moved = (to_pixels(by_book).int() - to_pixels(by_diffusers).int()).abs()
print("the same digits:", miss < 1e-3, "| the same after a folder:", same)
assert miss < 1e-3 and same
assert moved.max() <= 1 and moved.float().mean() < 1e-3

# %% [markdown]
# ## The way back: flow_matching
#
# **Check 16.8** (midpoint). Time, sign and letters are this book's. Only that their solver gives one time for the whole batch needs an adapter. Their midpoint method and ours, 5 steps: the same to $10^{-3}$.

# %%
sampler = ODESolver(to_flow_matching(network))
their_grid = torch.tensor([0.0, 1.0])
by_them = sampler.sample(
    x0, step_size=0.2, method="midpoint", time_grid=their_grid, label=digits
)
with torch.no_grad():
    by_us = solve(velocity, x0, torch.linspace(0, 1, 6), midpoint, last_only=True).last
miss = (by_us - by_them).abs().max().item()
print("the same digits:", miss < 1e-3)
assert miss < 1e-3

# %% [markdown]
# ## The way back: ONNX
#
# A file that runs without PyTorch: on a server, in a phone, in the page of chapter 8's digits. Inputs are `x`, `t` and `label`, and the batch may have any size.

# %%
import onnxruntime

folder = tempfile.TemporaryDirectory()
file = Path(folder.name) / "mnist.onnx"
to_onnx(load_weights("mnist").network, file, (1, 28, 28))
session = onnxruntime.InferenceSession(str(file))


# %% tags=["quote-onnx"]
def run(x, t):
    inputs = {
        "x": x.cpu().numpy(),
        "t": t.cpu().numpy(),
        "label": digits.cpu().numpy(),
    }
    (found,) = session.run(["velocity"], inputs)
    return torch.from_numpy(found).to(x)


# %% [markdown]
# **Check 16.9** (ONNX). The same 20 steps of Euler's method with onnxruntime's velocities: the same digits to $10^{-3}$. A field may be anything that answers, so `solve` does not notice.

# %%
by_onnx = solve(run, x0, grid, last_only=True).last
miss = (by_onnx - by_book).abs().max().item()
print("the same digits:", miss < 1e-3)
record("onnx_megabytes", f"{file.stat().st_size / 1e6:.1f}")
folder.cleanup()
assert miss < 1e-3

# %% tags=["hide-input"]
rows = torch.cat([by_book, by_diffusers, by_onnx]).cpu()
show_pixels(
    tile(to_pixels(rows), 10)[None],
    "same-digits",
    "Three equal rows of the digits 0 to 9 in white on black.",
)

# %% [markdown]
# *Figure 16.2.* The book's weights, the same noise, 20 steps of Euler's method: by this book, by diffusers' scheduler, by onnxruntime.
#
# ## Summary
#
# - A model, a scheduler, one line: a velocity field and its path.
# - The scheduler's configuration says what is predicted and at which noise. The choice of steps is no part of the model.
# - Reproduce their sampler first, on their times. If the numbers agree, you have read the model right. An index that is off by one shows nowhere else.
# - Then use what fields have: other solvers, a likelihood, guidance.
# - The way back needs no more than the sign, the direction of time, and its unit.
#
# ## Questions
#
# 1. Their DDIM begins at index 980 with 50 steps ("leading"), and ours from `level_grid` at 999. What does theirs assume of the noise at 980?
# 2. Why does the likelihood start at $t=0.999$ and not at 1?
# 3. Set `clip_sample=True`. Which check fails, and why can no velocity field do what their sampler does?
# 4. Take `prediction_type="v_prediction"` and train again with `scheduler.get_velocity` as the target. Which cells change?
# 5. Check 16.6 says that guiding noise is guiding velocities. Is guiding the data prediction the same too?
