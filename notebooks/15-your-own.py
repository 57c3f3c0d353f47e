# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lab: Your own
#
# A table of numbers, then a set of small colour images: read, looked at, trained, sampled, and measured. Put your own file in the place of ours and run it again. The first half has a table whose true density is known, so that every measurement can be held against the truth. The second half has images, where nothing is known, and no classifier helps.
#
# After this lab you can
#
# - read a table, split it, and train on it without letting the test rows in,
# - state a log-likelihood in the units of your file, with its standard error,
# - say how many solver steps are enough,
# - compute the mass of a density beyond two dimensions, and see when not to believe it,
# - compare samples with fresh data, and tell samples from copies,
# - train on colour images, measure them without a classifier, and see overfitting,
# - count what a training will cost before it begins.

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
import base64
import csv
import io
import math
import tempfile
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from PIL import Image

# %%
from fmtutorial import plotting, tables
from fmtutorial.distributions import Gaussian, GaussianMixture
from fmtutorial.exact import ExactField
from fmtutorial.images.cost import training_cost
from fmtutorial.images.data import ImageSet, dequantise, to_pixels
from fmtutorial.images.measures import held_out_loss, nearest_ratio, pixel_scores
from fmtutorial.images.pictures import pixels as pixels_of
from fmtutorial.images.pictures import show_pixels, tile
from fmtutorial.images.sampling import image_field, sample
from fmtutorial.images.settings import Settings, fitted
from fmtutorial.images.sources import read_images
from fmtutorial.images.weights import load_weights
from fmtutorial.labs import record, stored_results, use_default_device
from fmtutorial.losses import flow_matching_loss
from fmtutorial.metrics import two_sample_test

# %%
from fmtutorial.networks import MLP, UNet
from fmtutorial.paths import LINEAR, AffinePath
from fmtutorial.solvers import heun, rk4, solve
from fmtutorial.training import EMA, train

device = use_default_device()
torch.manual_seed(0)  # first weights, and draws without a generator
generator = torch.Generator(device).manual_seed(0)
path = AffinePath(LINEAR)


# %% [markdown]
# ## A table whose truth is known
#
# Fish of two ages: their length in metres, their mass in grams, and the temperature of the water that they were caught in. The length has one of two log-normal laws, one for each age. The mass grows like the cube of the length, and the temperature goes up and down with it. All of it is made of normal laws, so the density is known, by a change of variables.

# %%
MIDDLE, WIDTH = torch.tensor([0.35, 0.6]).log(), torch.tensor([0.15, 0.12])
ages = GaussianMixture(MIDDLE[:, None].double(), WIDTH.double() ** 2)


def means(a):
    """Return the mean log-mass and the mean temperature at a log-length."""
    return math.log(12_000) + 3 * a, 12 + 4 * torch.sin(6 * a)


def draw_fish(n):
    a = ages.sample(n, generator)[:, 0]
    noise = torch.randn(2, n, generator=generator, dtype=a.dtype)
    log_mass, warm = means(a)
    mass = (log_mass + 0.25 * noise[0]).exp()
    return torch.stack([a.exp(), mass, warm + 1.5 * noise[1]], dim=1).cpu()


# %%
def log_normal(x, mean, std):
    return -0.5 * ((x - mean) / std) ** 2 - math.log(std * math.sqrt(2 * math.pi))


def true_log_density(fish):
    """Return log p in 1/(m g °C): each logarithm in it costs its derivative."""
    length, mass, warm = fish.clamp(min=1e-9).T
    a = length.log()
    log_mass, mean = means(a)
    value = ages.log_prob(a[:, None]) + log_normal(mass.log(), log_mass, 0.25)
    value = value + log_normal(warm, mean, 1.5) - length.log() - mass.log()
    return torch.where((fish > 0).all(dim=1), value, -math.inf)


# %% [markdown]
# Write 3000 of them to a file, as you would find it, and forget where it came from.

# %%
folder = Path(tempfile.mkdtemp())
with (folder / "fish.csv").open("w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["length (m)", "mass (g)", "water (°C)"])
    writer.writerows([f"{x:.9g}" for x in row] for row in draw_fish(3000).tolist())
table = tables.read_table(folder / "fish.csv")
for name, column in zip(table.names, table.rows.T, strict=True):
    print(f"{name}: mean {column.mean():.2g}, spread {column.std():.2g}")
print(f"{len(table.rows)} rows, {table.duplicates} of them copies")

# %% [markdown]
# **Check 15.1** (bad files). A table with a hole, a word or no names is refused, in a line that says where. Nothing is filled in silently.

# %%
text = (folder / "fish.csv").read_text().splitlines()
broken = {
    "hole": [*text[:5], "0.4,,12.1", *text[5:]],
    "word": [*text[:7], "0.4,heavy,12.1", *text[7:]],
    "names": text[1:],
}
for name, lines in broken.items():
    (folder / f"{name}.csv").write_text("\n".join(lines))
    try:
        tables.read_table(folder / f"{name}.csv")
        raise AssertionError("a broken file was read")
    except ValueError as error:
        print(str(error).split(": ", 1)[-1][:80])

# %% [markdown]
# ## Split, and standardise
#
# A fifth is held out. Shift and scale of each column come from the other rows alone, and go with the network for ever.

# %% tags=["quote-split"]
split = tables.split_rows(table.rows, 0.2, generator)
units = split.units
x_train = units.standardise(split.train).float()
x_test = units.standardise(split.held_out).float()

# %%
x_train, x_test = x_train.to(device), x_test.to(device)
print(f"{len(x_train)} rows to train with, {len(x_test)} held out")
print("means are 0:", x_train.mean(dim=0).abs().max().item() < 1e-5)
print(
    "those held out are near it, not at it:",
    x_test.mean(dim=0).abs().max().item() > 1e-3,
)


# %% [markdown]
# A network sees $x=(r-m)/s$ in the place of a row $r$. Its density is one per unit of $x$. In the units of the file each column costs $\log s$:


# %% tags=["quote-units"]
def in_file_units(log_p, s):
    return log_p - s.log().sum()


# %% [markdown]
# **Check 15.2** (units). A normal law in metres, grams and degrees, and its exact field in standardised units. The likelihood of the flow, put into the file's units, is that of the law, to $10^{-6}$ in double precision. Without the correction it is off by $\sum\log s$, with the wrong sign by twice that.

# %%
gaussian = Gaussian(table.rows.mean(dim=0), table.rows.T.cov())
scaled = table.rows.T.cov() / units.scale / units.scale[:, None]
field = ExactField(path, Gaussian(units.standardise(gaussian.mean[None])[0], scaled))
rows = split.held_out[:100]
found = tables.log_density(field, units.standardise(rows), units, steps=64)
truth = gaussian.log_prob(rows)
standard = found + units.log_volume  # what the network's side knows
by_hand = in_file_units(standard, units.scale)
print("the law's:", (found - truth).abs().max().item() < 1e-6)
print(f"without Σ log s it is off by {(standard - truth).mean():.2f} nats")
assert (found - truth).abs().max() < 1e-6 and (by_hand - truth).abs().max() < 1e-6

# %% [markdown]
# ## Train
#
# Chapter 3's loss and loop, with a perceptron of three hidden layers, for some seconds.

# %%
network = MLP((3,), width=128, depth=3)
ema = EMA(network, decay=0.995)


def loss():
    x1 = x_train[torch.randint(len(x_train), (512,), generator=generator)]
    x0 = torch.randn(x1.shape, generator=generator)
    t = torch.rand(512, generator=generator)
    return flow_matching_loss(network, path, x0, x1, t)


losses = [step.loss for step in train(network, loss, 1800, 3e-3, ema)]

# %%
flow = ema.network
first, last = sum(losses[:20]) / 20, sum(losses[-500:]) / 500
print("the loss falls:", last < 0.8 * first)
assert last < 0.8 * first

# %% [markdown]
# **Check 15.3** (enough steps). Double the steps of the solver until the mean log-likelihood changes by less than a tenth of its own standard error. What is left of the solver's error is then hidden by that of the sample. With four times as many steps it moves by less than a tenth of the error, too.


# %%
def held_out_density(steps):
    return tables.log_density(flow, x_test, units, steps)


search = tables.enough_steps(held_out_density, start=2)
steps = search[-1].steps
more = held_out_density(4 * steps).double().mean().item()
print("found:", steps <= 64)
print("settled:", abs(more - search[-1].value) < 0.1 * search[-1].error)
assert steps <= 64 and abs(more - search[-1].value) < 0.1 * search[-1].error

# %% tags=["nbval-ignore-output"]
for row in search:
    print(f"{row.steps:3d} steps: {row.value:.4f} ± {row.error:.4f}", end="")
    print(f", change {row.change:+.4f}" if row.change == row.change else "")
record("enough_steps", steps)
record("steps_change", f"{abs(search[-1].change):.4f}")
record("steps_error", f"{search[-1].error:.3f}")

# %% [markdown]
# **Check 15.4** (held-out likelihood). In nats per row, in units of the file, with a standard error; and the truth for the same rows. The truth must be better on average, by the KL divergence of chapter 1. The estimate may fall below 0 by chance, by some standard errors at most. Its error is smaller than that of either mean, since both are averaged over the same rows.

# %%
of_flow = held_out_density(steps).cpu().double()
of_truth = true_log_density(split.held_out)
ours, theirs = tables.estimate(of_flow), tables.estimate(of_truth)
gap = tables.estimate(of_truth - of_flow)
print("the flow is within 0.2 nats of the truth:", gap.value < 0.2)
print("and not better:", gap.value > -3 * gap.error)
print("the gap is known better than the means:", gap.error < ours.error)
assert -3 * gap.error < gap.value < 0.2 and gap.error < ours.error

# %% tags=["nbval-ignore-output"]
for name, found in [("flow", ours), ("truth", theirs), ("gap", gap)]:
    print(f"{name}: {found.value:.3f} ± {found.error:.3f} nats")
    record(f"nats_{name}", f"{found.value:.2f} ± {found.error:.2f}".replace("-", "−"))
record("log_volume", f"{units.log_volume:.2f}")

# %% [markdown]
# ## Mass
#
# In the plane one adds up a density over a grid. In three columns or ten one draws from a law $q$ that covers it, and averages $p/q$.


# %% tags=["quote-mass"]
def mass_by_weights(log_p, q, n):
    x = q.sample(n)
    w = (log_p(x) - q.log_prob(x)).exp()
    error = w.std() / n**0.5
    equal = w.sum() ** 2 / (w**2).sum()
    return w.mean(), error, equal


# %% [markdown]
# **Check 15.5** (mass). The truth and the flow, in units of the file, each with mass 1 within four standard errors: $q$ is half a wide Gaussian, half bumps on training rows. With a $q$ that is too narrow few draws carry all the weight. It says so, and is not believed.


# %%
def flow_density(rows):
    x = units.standardise(rows).float().to(device)
    return tables.log_density(flow, x, units, steps)


q = tables.covering(split.train, 300, generator)
chance = torch.Generator().manual_seed(0)  # of the draws, on the CPU
for name, density in [("truth", true_log_density), ("flow", flow_density)]:
    mass = tables.total_mass(density, q, 4000, chance)
    one = abs(mass.value - 1) < 4 * mass.error < 0.2
    print(f"{name}: mass is 1 within its error: {one}; believed: {mass.trusted}")
    record(f"mass_{name}", f"{mass.value:.2f} ± {mass.error:.2f}")
    record(f"effective_{name}", int(round(mass.effective, -2)))
    assert one and mass.trusted

# %%
narrow = GaussianMixture(q.means[:1], q.covariances[:1] / 36)  # a third of the spread
mass = tables.total_mass(true_log_density, narrow, 4000, chance)
print("too narrow: believed:", mass.trusted)
ours = mass_by_weights(true_log_density, q, 4000)
print("by hand, mass is 1:", abs(ours[0].item() - 1) < 4 * ours[1].item())
assert not mass.trusted and abs(ours[0] - 1) < 4 * ours[1]

# %% [markdown]
# ## Samples against fresh data
#
# Noise through the solver, and back into the file's units. `two_sample_test` gives the energy distance to rows that the training has not seen, and what random splits of the same points have, the **floor**.
#
# **Check 15.6** (samples, and the scale of columns). The test runs on standardised columns. It lets data pass, and it sees rows whose lengths have been shuffled. In the file's units it would not: there a distance is grams and nothing else.

# %%
x0 = torch.randn(600, 3, generator=generator)
with torch.no_grad():
    made = solve(flow, x0, torch.linspace(0, 1, steps + 1), rk4, last_only=True).last
samples = units.restore(made)
fresh, other = draw_fish(600), split.held_out
shuffled = fresh.clone()
shuffled[:, 0] = fresh[torch.randperm(600, generator=generator).cpu(), 0]
tests = {}
for name, rows in [("flow", samples), ("data", fresh), ("shuffled", shuffled)]:
    for scale, by in [("standardised", units.standardise), ("file", lambda r: r)]:
        tests[name, scale] = two_sample_test(by(rows), by(other), 499, chance)


# %%
def seen(scale):
    """By how much shuffled lengths change the distance, relative to that of data."""
    return tests["shuffled", scale].distance / tests["data", scale].distance - 1


flow_test = tests["flow", "standardised"]
print("data pass:", tests["data", "standardised"].p_value > 0.005)
print("shuffled rows do not:", tests["shuffled", "standardised"].p_value < 0.005)
print("in the file's units the distance does not move:", abs(seen("file")) < 0.01)
print("the flow is within 2.5 floors:", flow_test.distance < 2.5 * flow_test.floor)
assert (
    tests["shuffled", "standardised"].p_value < 0.005 < tests["data", "standardised"][1]
)
assert abs(seen("file")) < 0.01 and flow_test.distance < 2.5 * flow_test.floor

# %% tags=["nbval-ignore-output"]
for (name, scale), found in tests.items():
    print(f"{name}, {scale}: {found.distance:.3g}, floor {found.floor:.3g}", end="")
    print(f", p = {found.p_value:.3f}")
    record(f"p_{name}_{scale}", f"{found.p_value:.3f}")
    record(f"distance_{name}_{scale}", f"{found.distance:.3f}")
    record(f"floor_{name}_{scale}", f"{found.floor:.3f}")

# %% [markdown]
# **Check 15.7** (copies). A "model" that returns training rows, each moved a little, passes the same test: its distance is that of data. The distance to the nearest training row tells. Rows held out give a ratio of 1, samples of the flow about as much, copies a small part of it. The last number is the share of samples that are nearer to a training row than 99 % of the held-out rows. The noise of 0.01 moves copies about as far as that limit, so that it counts only a part of them; exact copies it counts all.

# %%
copies = x_train[torch.randperm(len(x_train), generator=generator)[:600]]
copies = copies + 0.01 * torch.randn(600, 3, generator=generator)
passes = two_sample_test(copies, x_test, 499, chance).p_value
new = units.standardise(draw_fish(600)).float().to(device)
ratios = {}
for name, x in [("fresh data", new), ("flow", made), ("copies", copies)]:
    ratios[name] = tables.nearest_ratio(x, x_train, x_test)
print("copies pass the test of samples:", passes > 0.01)
print("and are found by their neighbours:", ratios["copies"].value < 0.4)
for name in ("fresh data", "flow"):
    print(f"{name}: about 1", abs(ratios[name].value - 1) < 0.25)
    assert abs(ratios[name].value - 1) < 0.25
assert passes > 0.01 and ratios["copies"].value < 0.4

# %% tags=["nbval-ignore-output"]
for name, found in ratios.items():
    print(f"{name}: {found.value:.2f} ± {found.error:.2f}, near {found.close:.1%}")
    key = name.split()[0]
    record(f"nearest_{key}", f"{found.value:.2f} ± {found.error:.2f}")
    record(f"close_{key}", round(100 * found.close))
record("p_copies", f"{passes:.2f}")

# %% tags=["hide-input"]
figure, axes = plotting.panels(["held-out rows", "samples of the flow"], rows=1)
for ax, rows in zip(axes, [split.held_out, samples], strict=True):
    dots = ax.scatter(*rows[:, :2].T, c=rows[:, 2], s=4, cmap="plasma", vmin=6, vmax=18)
    ax.set(xlabel="length (m)", xlim=(0.1, 1), ylim=(0, 7000))
axes[0].set(ylabel="mass (g)")
bar = figure.colorbar(dots, ax=axes, shrink=0.8)
bar.set_label("water (°C)")
plotting.show(
    figure,
    "fish",
    "Two clouds of points over length and mass, coloured by the temperature of the "
    "water: 600 rows held out and 600 samples of the flow. Both have a dense knot of "
    "small fish at 0.35 metres and a wide fan of large ones around 0.6 metres, with "
    "the same colours in the same places.",
)

# %% [markdown]
# *Figure 15.1.* Rows that the training has not seen, and samples of the flow, in the units of the file.

# %% [markdown]
# ## Images
#
# 1892 emoji in colour come with the package, 32×32 pixels on white (Noto Emoji, Apache License 2.0). Every tenth is held out. For your own colour pictures write `read_images("folder", size=32)` in the next cell, with "test" as second argument for those held out, and the name of your folder in the place of "emoji" further down.

# %%
images = ImageSet(*(part.to(device) for part in read_images("emoji")))
held_out = ImageSet(*(part.to(device) for part in read_images("emoji", "test")))
print(
    f"{len(images.images)} images of shape {tuple(images.images.shape[1:])}, ", end=""
)
print(f"{len(held_out.images)} held out")
record("emoji_count", len(images.images))
record("emoji_held_out", len(held_out.images))

# %%
show_pixels(
    tile(images.images[:48].cpu(), columns=16)[None],
    "emoji",
    "48 emoji in three rows, in full colour on white: faces, flags, animals, food and "
    "signs.",
    zoom=1,
)

# %% [markdown]
# *Figure 15.2.* Look at your data before anything else: the first 48 images that will be trained with.
#
# **Check 15.8** (a baseline). A loss of 0.6 means nothing by itself. If all pixels were independent normal numbers with variances $v$, the best possible field would have a loss of $\frac\pi2\sqrt v$ for each. Hold that against `target_variance`, and then against the network after 80 steps: it must be lower.

# %%
x = images.images.float() / 127.5 - 1
variance = x.var(dim=0).flatten()
baseline = (math.pi / 2 * variance.sqrt()).mean().item()
noise = torch.randn(4000, 1, generator=generator)
one = Gaussian(torch.zeros(1), variance.mean().item())
t = torch.rand(4000, generator=generator)
on_path = path.sample(noise, one.sample(4000, generator), t).x_t
floor = ExactField(path, one).target_variance(on_path, t).mean().item()
formula = math.pi / 2 * variance.mean().sqrt().item()
print("the formula is the floor of the exact field:", abs(floor / formula - 1) < 0.05)
assert abs(floor / formula - 1) < 0.05


# %%
def per_pixel_loss(network, some, batch):
    """Return the loss of a batch drawn from some images, divided by their numbers."""
    rows = torch.randint(len(some.images), (batch,), generator=generator)
    x1 = dequantise(some.images[rows], generator)
    x0 = torch.randn(x1.shape, generator=generator)
    t = torch.rand(batch, generator=generator)
    return flow_matching_loss(network, path, x0, x1, t) / x1[0].numel()


# %%
unet = UNet((3, 32, 32), width=24, levels=3)
average = EMA(unet, decay=0.95)
steps_of = train(unet, lambda: per_pixel_loss(unet, images, 32), 80, 3e-3, average)
losses = [step.loss for step in steps_of]
beginning, end = sum(losses[:5]) / 5, sum(losses[-20:]) / 20
print("above the baseline at first:", beginning > baseline)
print("below it at the end:", end < 0.9 * baseline)
assert beginning > baseline and end < 0.9 * baseline
record("baseline", f"{baseline:.2f}")

# %% [markdown]
# Ten seconds are not enough for emoji. They are enough to see that something is learned: a white ground, and blobs of strong colour in the middle.

# %%
x0 = torch.randn(48, 3, 32, 32, generator=generator)
with torch.no_grad():
    end_states = solve(
        average.network, x0, torch.linspace(0, 1, 11), heun, last_only=True
    )
made_images = to_pixels(end_states.last)

# %% tags=["nbval-ignore-output"]
show_pixels(
    tile(made_images.cpu(), columns=16)[None],
    "young-emoji",
    "48 images in three rows: soft blobs of colour in the middle of a light ground. "
    "None is an emoji yet.",
    zoom=1,
)

# %% [markdown]
# *Figure 15.3.* Samples after ten seconds of training.
#
# **Check 15.9** (measured without a classifier). The energy distance of pixels to images held out, with the floor from training images; the distance to the nearest training image, where images held out give 1; the loss on training and on held-out images. This network is far from the data, copies nothing, and has not overfitted.

# %%
pixels = pixel_scores(made_images, images.images, held_out.images)
nearest = nearest_ratio(made_images, images.images, held_out.images)
both = held_out_loss(average.network, images, held_out, most=96, draws=2)
print("far above the floor:", pixels.distance > 1.3 * pixels.floor)
print("no copies:", nearest.copies <= nearest.floor)
print("no overfitting:", both.gap < 4 * both.gap_error)
assert pixels.distance > 1.3 * pixels.floor and nearest.copies <= nearest.floor
assert both.gap < 4 * both.gap_error

# %% tags=["nbval-ignore-output"]
print(
    f"distance {pixels.distance:.2f}, floor {pixels.floor:.2f} ({pixels.count} images)"
)
print(f"nearest image: {nearest.ratio:.2f} ± {nearest.error:.2f}")
print(f"loss: {both.training:.3f}, held out {both.held_out:.3f}", end="")
print(f", gap {both.gap:.3f} ± {both.gap_error:.3f}")
record("young_distance", f"{pixels.distance:.1f}")
record("young_floor", f"{pixels.floor:.1f}")
record("young_nearest", f"{nearest.ratio:.2f} ± {nearest.error:.2f}")
record("young_gap", f"{both.gap:.3f} ± {both.gap_error:.3f}".replace("-", "−"))

# %% [markdown]
# ## Overfitting, on purpose
#
# **Check 15.10** (the loss held out turns). Train on 16 images only, 16 pixels wide, and watch both losses at the same noise and times. The one on the sixteen goes on falling. The one on images held out stops, and turns.

# %%
small = [read_images("emoji", split, size=16) for split in ("train", "test")]
few, others = (ImageSet(*(part.to(device) for part in some)) for some in small)
few = ImageSet(*(part[:16] for part in few))
watched = ImageSet(few.images.repeat(6, 1, 1, 1), few.labels.repeat(6))
learner, curve = UNet((3, 16, 16), width=32), []
slow = train(learner, lambda: per_pixel_loss(learner, few, 24), 900, 4e-3)
for step in islice(slow, 200):  # before the learning rate has fallen
    if step.number % 20 == 0:
        found = held_out_loss(learner, watched, others, draws=2)
        curve.append((step.number, found.training, found.held_out, found.gap_error))

# %%
best = min(curve, key=lambda row: row[2])
last = curve[-1]
print("held out, it turns before the end:", last[2] > 1.03 * best[2])
print("while that of the sixteen still falls:", last[1] < best[1])
print("and the gap is clear:", last[2] - last[1] > 3 * last[3])
assert last[2] > 1.03 * best[2] and last[1] < best[1]
assert last[2] - last[1] > 3 * last[3]

# %% tags=["hide-input"]
figure, axes = plotting.panels(["16 images, trained for long"], width=4.2)
number, training, outside, _ = zip(*curve, strict=True)
axes[0].plot(number, training, color=plotting.MODEL, label="the sixteen")
axes[0].plot(number, outside, color=plotting.DATA, label="held out")
axes[0].axvline(best[0], color="#9ca3af", lw=0.8, ls=":")
axes[0].set(xlabel="steps", ylabel="loss per number", xlim=(0, None))
axes[0].legend(frameon=False)
plotting.show(
    figure,
    "overfitting",
    "Two losses over 200 steps. Both fall steeply together at first. Then the one on "
    "the sixteen images goes on falling, while that on images held out flattens and "
    "rises clearly after a dotted line.",
)
record("few_training", f"{last[1]:.2f}")
record("few_held_out", f"{last[2]:.2f}")
record("few_gap", f"{last[2] - last[1]:.2f} ± {last[3]:.2f}")

# %% [markdown]
# *Figure 15.4.* Overfitting. The dotted line is where to stop.
#
# ## What it costs
#
# **Check 15.11** (counted before it is paid). One step on a device that computes nothing: operations and bytes. Twice the width costs about four times the operations, twice the side of the images about four times the operations and the activations. And the number of parameters is that of the network which has been trained.

# %%
base = fitted(Settings(data="emoji", width=32, levels=3, batch=32), images)
rows = {"as it is": base, "twice the width": replace(base, width=64)}
rows["twice the side"] = replace(base, image_shape=(3, 64, 64))
costs = {name: training_cost(settings) for name, settings in rows.items()}
small, wide, large = costs.values()
print(f"twice the width: {wide.flops_per_image / small.flops_per_image:.1f} times")
print(
    f"twice the side: {large.flops_per_image / small.flops_per_image:.1f} times", end=""
)
print(f", activations {large.activation_bytes / small.activation_bytes:.1f} times")
assert 3 < wide.flops_per_image / small.flops_per_image < 4.5
assert 3 < large.flops_per_image / small.flops_per_image < 5.5
assert 3.8 < large.activation_bytes / small.activation_bytes < 4.2
counted = training_cost(replace(base, width=24, classes=0)).parameters
assert counted == sum(p.numel() for p in unet.parameters())

# %%
for name, cost in costs.items():
    key = name.split()[-1]
    print(f"{name}: {cost.parameters / 1e6:.2f} million parameters, ", end="")
    print(f"{cost.flops_per_image / 1e9:.2f} GFLOP an image, ", end="")
    print(f"{cost.bytes / 1e6:.0f} MB")
    record(f"parameters_{key}", f"{cost.parameters / 1e6:.1f}")
    record(f"gflop_{key}", f"{cost.flops_per_image / 1e9:.2f}")
    record(f"megabytes_{key}", f"{cost.bytes / 1e6:.0f}")

# %% [markdown]
# ## Longer
#
# The same data with the command of chapter 8, `python -m fmtutorial.images train --data emoji`, and with the nine categories as labels, on one thread of a processor. The script `tests/benchmarks/your_own.py` ran it and measured it.

# %%
long = stored_results("your_own")
training, measured = long["training"], long["measured"]
record("long_command", long["command"])
record("long_steps", training["steps"])
record("long_minutes", round(training["processor_minutes"]))
record("long_clock", round(training["minutes"]))
record("long_gflops", round(training["gflop_per_second"]))
record("long_shown", ", ".join(str(n) for n in long["shown_steps"][:2]))
record("long_peak", round(training["peak_bytes"] / 1e6))
record("long_floor", f"{measured['pixels']['floor']:.1f}")
record("long_copies_floor", f"{100 * measured['nearest']['floor']:.0f}")


# %%
def record_run(run, found, made):
    """Store for the chapter what was measured of a run, and how many images it saw."""
    far, near, off = found["pixels"], found["nearest"], found["loss"]
    shown = made["settings"]["steps"] * made["settings"]["batch"]
    record(f"{run}_images", f"{shown:,}".replace(",", " "))
    record(f"{run}_distance", f"{far['distance']:.1f}")
    record(f"{run}_p", f"{far['p_value']:.3f}")
    record(f"{run}_nearest", f"{near['ratio']:.2f} ± {near['error']:.2f}")
    record(f"{run}_copies", f"{100 * near['copies']:.0f}")
    record(f"{run}_training", f"{off['training']:.3f}")
    record(f"{run}_held_out", f"{off['held_out']:.3f}")
    gap = f"{off['gap']:.3f} ± {off['gap_error']:.3f}"
    record(f"{run}_gap", gap.replace("-", "−"))


# %%
record_run("long", measured, long["made"])
cost = long["cost"]
print(f"{training['steps']} steps, {cost['gflop_per_image']:.2f} GFLOP an image")
assert abs(cost["gflop_per_image"] * 1e9 / small.flops_per_image - 1) < 0.01


# %%
def stored_picture(encoded):
    """Return a picture that a script stored as text, as pixels."""
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
        return pixels_of(picture, grey=False, size=None)[None]


# %%
show_pixels(
    stored_picture(long["picture"]),
    "older-emoji",
    "Three blocks of small pictures, nine rows of four each. In the first they are "
    "noise with stains. In the second there are blobs of clean colour on white. In the "
    "third the smileys are round and yellow, the flags are broad with straight "
    "borders, and no other row can be named.",
    zoom=1,
)

# %% [markdown]
# *Figure 15.5.* Four samples for each category (activities, animals, flags, food, objects, people, smileys, symbols, travel) after 50, 300 and all 1200 steps.
#
# ## On a GPU
#
# The same network and data on an H100, `--batch 128` and 6000 steps: twenty times as many images. The script `tests/benchmarks/gpu.py` ran and measured it. Its weights come with the package, under the name `emoji`.

# %%
gpu = stored_results("gpu")
again = gpu["emoji"]
record("gpu_device", gpu["provenance"]["device"])
record("gpu_command", again["command"])
record("gpu_minutes", f"{again['minutes']:.0f}")
record_run("gpu", again, load_weights("emoji").provenance)
better = again["loss"]["held_out"] < measured["loss"]["held_out"]
print("better held out than the shorter run:", better)
assert better

# %%
taken = gpu["training"]
for key, name in (
    ("float32", "float32, 128"),
    ("bfloat16", "bfloat16, 128"),
    ("large", "float32, 1024"),
    ("large_half", "bfloat16, 1024"),
    ("compiled", "bfloat16, 1024, compiled"),
):
    record(f"peak_{key}", f"{taken[name]['peak_bytes'] / 1e6:.0f}")
record("counted_small", f"{taken['float32, 128']['counted_bytes'] / 1e6:.0f}")
record("counted_large", f"{taken['float32, 1024']['counted_bytes'] / 1e6:.0f}")

# %%
single = [row for name, row in taken.items() if name.startswith("float32")]
worst = max(row["peak_bytes"] / row["counted_bytes"] for row in single)
print(f"single precision takes at most {worst:.1f} times what is counted")
assert worst < 1.7

# %% tags=["hide-input"]
show_pixels(
    stored_picture(again["picture"]),
    "gpu-emoji",
    "Three blocks of small pictures, nine rows of four each, from the same noise. In "
    "the first, coloured stains on white, among them flags and yellow discs. In the "
    "second, faces have eyes and mouths, and persons have hair. In the third, "
    "fireworks, flags that one can name, a person with brown hair, smileys, coloured "
    "squares and a car are clean; food and animals are still blobs.",
    zoom=1,
)

# %% [markdown]
# *Figure 15.6.* Four samples for each category after 375, 1500 and all 6000 steps on a GPU.
#
# **Check 15.12** (it has begun to know its images). On both sets the loss of these weights, at the same noise and times. The gap must be more than three times its standard error: what is learned last holds for the training images only.

# %%
flow = load_weights("emoji").network.to(device)
apart = held_out_loss(flow, images, held_out, most=189, draws=2)
print("the losses part:", apart.gap > 3 * apart.gap_error)
assert apart.gap > 3 * apart.gap_error

# %%
label = torch.arange(9).repeat(2)
noise = torch.randn(18, 3, 32, 32, generator=generator.manual_seed(1))
with torch.no_grad():
    ends = sample(image_field(flow, label), noise, "heun", 15, last_only=True).last
drawn = to_pixels(ends)
between = torch.cdist(drawn.flatten(1).float(), images.images.flatten(1).float())
twins = images.images[between.argmin(dim=1)]

# %% tags=["hide-input", "nbval-ignore-output"]
rows = torch.stack([drawn.unflatten(0, (2, 9)), twins.unflatten(0, (2, 9))], dim=1)
show_pixels(
    tile(rows.flatten(0, 2).cpu(), columns=9)[None],
    "neighbours",
    "Four rows of nine small pictures. The first and the third are samples, two of "
    "each category. Below each is the training image nearest to it: for two signs, a "
    "heart and a flag nearly the same picture, for a green flag with a fish another "
    "green flag, for most only something of like colours and outline.",
)

# %% [markdown]
# *Figure 15.7.* Samples, two of each category, and below each the training image that is nearest in pixels.
#
# ## Summary
#
# - Split before you compute anything, standardise by the training rows, and keep shift and scale with the network.
# - In a file's units the log-density is that of the network less $\sum\log s$. A likelihood without units and a standard error is no result.
# - Enough steps are those after which the mean moves by less than a tenth of its error. Beyond two dimensions the mass is a mean of weights, and the effective number of draws says whether to believe it.
# - Distances need a floor beside them and columns of one scale. Copies pass every test of likeness, so ask for the nearest neighbours.
# - For images: a baseline, the loss held out, the floor, the neighbours, and your eyes.
# - Count operations and bytes before you train.
#
# ## Questions
#
# 1. Train on the logarithm of the mass in the place of the mass. Which term comes to the log-density in the file's units, and what becomes of the gap in Check 15.4?
# 2. Round the masses to whole hundreds of grams and train again. What happens to the log-likelihood, and why is it worthless?
# 3. In the cell that splits, put `units = tables.Units(table.rows.mean(dim=0), table.rows.std(dim=0))` and train again. How much does the held-out likelihood of Check 15.4 move, beside its standard error?
# 4. In Check 15.7 mix 5 % of copies into the flow's samples. Which of the two numbers sees them?
# 5. Double the sixteen images of Check 15.10 by their mirror images. Where does the loss turn now?
