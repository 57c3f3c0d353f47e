# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lab: MNIST
#
# You build a flow for images out of the parts of the earlier chapters, train it for a moment on whatever device is at hand, and then load weights that were trained for longer. You look at digits, guide them, watch one form, and measure them with a floor beside every figure.
#
# After this lab you can
#
# - turn bytes into numbers that have a density, and back,
# - train a U-Net on images with the loss of chapter 3, and resume the training where it stopped,
# - hold a network for images against closed forms, at the two places where they exist,
# - sample with any solver, with labels and guidance, and watch a digit form,
# - measure quality and likelihood, and say what the numbers cannot tell.

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
import math
import warnings
import zlib
from functools import partial

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from fmtutorial import plotting
from fmtutorial.distributions import Gaussian
from fmtutorial.exact import ExactField
from fmtutorial.fields import expand_time

# %%
from fmtutorial.guidance import guided
from fmtutorial.images.batches import digit_batch, digit_loss
from fmtutorial.images.bits import bits_per_dimension, digit_bits
from fmtutorial.images.classifier import digit_classifier, score_digits
from fmtutorial.images.data import Digits, dequantise, mnist, small_digits, to_pixels
from fmtutorial.images.devices import fast_precision
from fmtutorial.images.pictures import show_pixels, tile
from fmtutorial.images.run import Run, Settings
from fmtutorial.images.sampling import image_field, sample, sample_digits
from fmtutorial.images.weights import load_weights

# %%
from fmtutorial.labs import default_device, record, stored_results
from fmtutorial.likelihood import divergence, rademacher_like
from fmtutorial.metrics import energy_distance, frechet_distance
from fmtutorial.networks import DiT, UNet
from fmtutorial.paths import LINEAR, AffinePath

# %%
device = default_device()
generator = torch.Generator(device).manual_seed(0)
torch.manual_seed(0)  # the networks' first weights
torch.backends.cudnn.allow_tf32 = False  # the checks below are of single precision

# %% [markdown]
# ## Bytes and numbers
#
# The package carries 1000 training and 1000 test digits of MNIST, 100 of each class, so that nothing has to be downloaded here.

# %%
train_digits, test_digits = (Digits(*(part.to(device) for part in small_digits(split)))
                             for split in ("train", "test"))  # fmt: skip
print(train_digits.images.shape, train_digits.images.dtype)
print("of each class:", train_digits.labels.bincount().tolist())

# %% tags=["hide-input"]
order = train_digits.labels.argsort(stable=True).reshape(10, 100)
sheet = tile(train_digits.images[order[:, :20].flatten()], 20)
show_pixels(
    sheet[None],
    "data",
    "Handwritten digits from MNIST, a row of twenty for each class from 0 to 9.",
)

# %% [markdown]
# *Figure 8.1.* Digits of MNIST, white on black.
#
# A pixel is one of 256 values. A flow has a density, and a density on 256 points can be made infinite. So each pixel gets uniform noise of its own width: $x=(\text{pixel}+u)/128-1$ with $u$ uniform in $[0,1)$.
#
# **Check 8.1** (there and back). Dequantising and cutting off again must return every pixel of every digit exactly, for the values 0 to 255 and whatever $u$ is. All numbers must lie in $[-1,1)$, and $u$ must have the mean of a uniform number within five standard errors, and its standard deviation of 0.29.

# %%
x = dequantise(train_digits.images, generator)
every = torch.arange(256, dtype=torch.uint8, device=device).expand(1000, 1, 256)
noisy = dequantise(every, generator)
pairs = ((x, train_digits.images), (noisy, every))
returned = all(torch.equal(to_pixels(real), pixels) for real, pixels in pairs)
u = (noisy + 1) * 128 - every.unsqueeze(1)
error = math.sqrt(1 / 12 / u.numel())  # the standard error of its mean
centred = bool(abs(u.mean() - 0.5) < 5 * error and u.std() > 0.28)
print(f"shape {tuple(x.shape)}, all pixels return: {returned}, u is uniform: {centred}")
assert returned and centred and -1 <= noisy.min() and noisy.max() < 1

# %% [markdown]
# **Check 8.2** (the bound). The bits of a density, averaged over $u$, are at least those of the probability of the pixel. One pixel, a normal density of standard deviation $\tfrac1{20}$ around $0$: the probability of each of the 256 values is a difference of error functions, the average a sum over 2000 midpoints. The bound must hold for all values, and not be an equality.

# %%
k, u = torch.arange(256).double(), (torch.arange(2000).double() + 0.5) / 2000
x, spread = (k[:, None] + u) / 128 - 1, 0.05
log_density = -0.5 * (x / spread) ** 2 - math.log(spread * math.sqrt(2 * math.pi))
average = bits_per_dimension(log_density.flatten(), (1,)).reshape(256, 2000).mean(dim=1)
edges = torch.arange(257).double() / 128 - 1
cube = torch.special.ndtr(edges / spread).diff()
inside = cube > 1e-12  # farther out the difference of two numbers near 1 is rounding
gap = average[inside] + cube[inside].log2()
print("bits of the density at least those of the pixel:", bool((gap > -1e-6).all()))
assert (gap > -1e-6).all() and gap.max() > 1e-3

# %% [markdown]
# ## A network for images
#
# The U-Net folds patches of 2×2 pixels into channels, works at 14×14 and 7×7 pixels, and unfolds. The output starts at zero, and time and label enter every block.
#
# **Check 8.3** (shapes and strangers). About one million parameters; the velocity has the shape of the image; an image's velocity does not depend on who else is in the batch (to the rounding of some hundred sums in float32, below $10^{-4}$), and depends on its own time and label. A missing label is the same as label 10, "no label". The transformer `DiT` can stand in its place.

# %%
unet, dit = (kind(labels=10).to(device) for kind in (UNet, DiT))
x = dequantise(train_digits.images[:5], generator)
label = torch.arange(5, device=device)
t = torch.linspace(0.1, 0.9, 5, device=device)
for network in (unet, dit):
    assert network(x, t, label).shape == x.shape and not network(x, t, label).any()
    with torch.no_grad():
        for parameter in network.parameters():  # away from the zeros
            parameter.add_(0.02 * torch.randn(parameter.shape, device=device))
    v = network(x, t, label)
    assert (network(x[:1], t[:1], label[:1]) - v[:1]).abs().max() < 1e-4 * v.abs().max()
    for other in (network(x, t.flip(0), label), network(x, t, label.flip(0))):
        assert (other - v).abs().max() > 1e-3 * v.abs().max()
    assert torch.equal(network(x, t), network(x, t, torch.full_like(label, 10)))

# %%
for network in (unet, dit):
    count = sum(p.numel() for p in network.parameters())
    print(f"{type(network).__name__}: {count / 1e6:.2f} million parameters")
record("parameters", f"{sum(p.numel() for p in unet.parameters()) / 1e6:.2f}")
for name, part in unet.named_children():
    size = sum(p.numel() for p in part.parameters())
    record(f"size_{name}", f"{size:,}".replace(",", "\u00a0"))

# %% [markdown]
# How do time and label get in? Each becomes a vector of 128 numbers, and the sum of both tells every residual block by how much to stretch and to shift each of its channels. Attention is a weighted mean over all places, with weights from products.
#
# **Check 8.19** (time, label and attention by hand). The network's own weights, but the operations written out. Vector, block and attention must agree with the package's to the rounding of float32.


# %%
frequencies = torch.logspace(0, 2, 32, device=device)


# %% tags=["quote-time-and-label"]
def embedding(t, label):
    """Shapes (B,) and (B,) → (B, 128)."""
    angle = t[:, None] * frequencies  # 1 to 100
    waves = torch.cat([angle.sin(), angle.cos()], dim=1)
    of_time = unet.embed.time(waves)  # two layers
    return F.silu(of_time + unet.embed.label(label))


def block(part, h, e):
    """Scale and shift come from e."""
    ab = part.modulate(e)[:, :, None, None]
    a, b = ab.chunk(2, dim=1)  # (B, C, 1, 1)
    f = part.norm(part.first(h))
    g = part.second(F.silu((1 + a) * f + b))
    return part.skip(h) + g


# %%
def attention(part, h):
    """Every place takes a mean over all places; h has shape (B, C, H, W)."""
    places = part.norm(h).flatten(2).transpose(1, 2)  # (B, H·W, C)
    three = F.linear(places, part.enter.weight.flatten(1), part.enter.bias)
    q, k, value = three.chunk(3, dim=2)
    weights = (q @ k.transpose(1, 2) / math.sqrt(k.shape[2])).softmax(dim=2)
    mean = (weights @ value).transpose(1, 2).reshape(h.shape)
    return h + part.leave(mean)


# %%
e, by_hand = embedding(t, label), torch.Generator(device).manual_seed(1)
fine = torch.randn(5, 64, 14, 14, generator=by_hand, device=device)
coarse = torch.randn(5, 128, 7, 7, generator=by_hand, device=device)
both = (
    (e, F.silu(unet.embed(x, t, label))),
    (block(unet.fine_down, fine, e), unet.fine_down(fine, e)),
    (attention(unet.attention, coarse), unet.attention(coarse)),
)
for name, (ours, theirs) in zip(("vector", "block", "attention"), both, strict=True):
    print(
        f"{name}: as the package:", torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4)
    )
    assert torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4)

# %% [markdown]
# **Check 8.4** (the time of an image). A time of shape $(B,)$ does not multiply images of shape $(B,1,28,28)$: PyTorch lines shapes up from the right. With 28 images it would not even complain. `expand_time` does it right.

# %%
images = dequantise(train_digits.images[:28], generator)
times = torch.linspace(0, 1, 28, device=device)
silent = times * images  # the 28 times fall on the 28 columns
right = expand_time(times, images) * images
print("the accident and the right product agree:", torch.allclose(silent, right))
assert torch.equal(right[7], times[7] * images[7]) and not torch.allclose(silent, right)

# %% [markdown]
# ## Training
#
# The loss is that of chapter 3, divided by the number of pixels. Before any training the network says zero, and the loss is known: $\mathbb E\lVert x_1-x_0\rVert^2/d=1+\mathbb E\lVert x_1\rVert^2/d$.
#
# **Check 8.5** (the first loss). It must agree with the closed form within five standard errors.

# %%
fresh = UNet(labels=10).to(device)
batches = [digit_batch(train_digits, step, size=100, seed=0) for step in range(10)]
with torch.no_grad():
    loss = digit_loss(fresh, lambda step: batches[step])
    found = torch.stack([loss() for _ in batches])
expected = torch.stack([1 + batch.x1.square().mean() for batch in batches]).mean()
gap, error = (found.mean() - expected).abs(), found.std() / math.sqrt(len(batches))
near = bool(gap < 5 * error)
print(f"first loss {found.mean():.1f}, within five standard errors: {near}")
assert near

# %% [markdown]
# One label in ten is dropped: in its place stands label 10, "no label". So one network learns the field of each class and that of all digits.
#
# **Check 8.20** (a step by hand). Label dropping and loss in plain PyTorch, on the noise, digits and times of one batch. The loss must be the package's to rounding. And of the labels of ten batches of 1000 the package must drop a tenth, within five standard errors, and change no other.

# %%
batch = digit_batch(train_digits, step=7, size=64, seed=1, label_dropout=0.0)
x0, x1, t, label = batch
chance = torch.rand(64, generator=by_hand, device=device)

# %% tags=["quote-label-dropout"]
label = torch.where(chance < 0.1, 10, label)  # 10: no label
s = t[:, None, None, None]  # (B, 1, 1, 1)
x_t = (1 - s) * x0 + s * x1
error = unet(x_t, t, label) - (x1 - x0)
loss = error.square().mean()

# %%
with torch.no_grad():
    theirs = digit_loss(unet, lambda step: batch._replace(label=label))()
same = torch.allclose(loss.detach(), theirs, rtol=1e-4)
labels = {p: [] for p in (0.0, 0.1)}
for p, found in labels.items():
    for n in range(10):
        found.append(digit_batch(train_digits, n, 1000, 0, label_dropout=p).label)
whole, left = (torch.cat(found) for found in labels.values())
changed = whole != left
share = abs(changed.float().mean() - 0.1) < 5 * math.sqrt(0.1 * 0.9 / 10_000)
print(f"loss as the package: {same}; a tenth is dropped: {bool(share)}")
assert same and share and bool((left[changed] == 10).all())

# %% [markdown]
# A batch is a function of the seed and the number of the step, and of nothing else. So a run that was killed goes on with the very batches it would have had, and two devices that take half of each batch do together what one would do alone.
#
# **Check 8.6** (shares). The mean of the gradients of two shares must be the gradient of the whole, to the rounding of sums over 64 images.


# %%
def gradient(shard):
    """The gradient of the loss of one share of the eighth batch, as one vector."""
    batches = partial(digit_batch, train_digits, size=64, seed=1)
    loss = digit_loss(unet, batches, done=7, shard=shard)
    parts = torch.autograd.grad(loss(), list(unet.parameters()))
    return torch.cat([part.flatten() for part in parts])


# %%
whole, shares = gradient((0, 1)), [gradient((rank, 2)) for rank in range(2)]
error = ((shares[0] + shares[1]) / 2 - whole).norm() / whole.norm()
apart = (shares[0] - shares[1]).norm() / whole.norm()
print(f"two shares average to the whole: {error < 1e-4}; alike: {apart < 0.01}")
assert error < 1e-4 < 0.01 < apart

# %% [markdown]
# Now a run. On a GPU it is the full one: all of MNIST, which is downloaded once, and 12 000 steps. On a CPU it is a network of a quarter of the size, on the 1000 digits above, for some ten seconds. Pictures are taken on the way.

# %%
full = device.type == "cuda"  # False: the short run
digits = Digits(*(part.to(device) for part in mnist("train"))) if full else train_digits
small = {"width": 32, "steps": 300, "batch": 32, "warm_up": 20, "ema_decay": 0.98}
precision = str(fast_precision(device)).removeprefix("torch.")
settings = Settings(precision=precision, **({} if full else small))
run = Run(settings, device)
label = torch.arange(10, device=device)
noise = torch.randn(10, 1, 28, 28, generator=generator, device=device)


# %%
@torch.no_grad()
def now():
    """Digits of the run's averaged weights, always from the same noise."""
    field = image_field(run.ema.network, label)
    return to_pixels(sample(field, noise, "heun", 10).last)


# %%
stages, losses = {0: now()}, []
for step in run.steps(digits):
    losses.append(step.loss)
    if step.number in (settings.steps // 10, settings.steps // 4, settings.steps):
        stages[step.number] = now()

# %% [markdown]
# **Check 8.7** (it learns). The mean of the last fifty losses must be below a fifth of the first, which is that of answering zero, and above a hundredth of it: the floor of chapter 3 is not known here, but it is not zero.

# %%
last = sum(losses[-50:]) / 50
learned = last < losses[0] / 5
print(f"loss: first {losses[0]:.1f}, at the end below a fifth of it: {learned}")
assert losses[0] / 100 < last < losses[0] / 5

# %% tags=["hide-input"]
show_pixels(
    tile(torch.cat(list(stages.values())), 10)[None],
    "own_stages",
    "Four rows of ten digits from the same noise. The first is noise, the second "
    "blobs, the third rough strokes; in the last some can be read as digits.",
)

# %% [markdown]
# *Figure 8.2.* Ten digits from the same noise before training and after a tenth, a quarter and all of the short run.
#
# What would the full run take on another device? PyTorch counts the additions and multiplications in products and convolutions, and the rest is small beside them.
#
# **Check 8.23** (one forward, two backward). In the backward pass each of these layers takes a product for its input and one for its weights, so a step of training must cost three forward passes. A tenth less is allowed: the first layers need no gradient of their input.

# %%
operations = {}
for name in ("forward", "training"):
    with FlopCounterMode(display=False) as counter:
        loss = digit_loss(fresh, lambda step: batches[step])()
        if name == "training":
            loss.backward()
    operations[name] = counter.get_total_flops() / len(batches[0].x1)
ratio = operations["training"] / operations["forward"]
for name, count in operations.items():
    print(f"{name}: {count / 1e6:.0f} million operations an image")
    record(f"operations_{name}", f"{count / 1e6:.0f}")
assert 2.7 < ratio <= 3

# %% [markdown]
# A Tesla T4, which Colab lends, does at most 65 trillion operations a second in float16. No card comes near its peak with layers as small as these.

# %%
whole = Settings().steps * Settings().batch * operations["training"]
print(f"the full run: {whole / 1e12:.0f} trillion operations", end="")
print(f", {whole / 65e12:.0f} seconds at a T4's peak")
record("operations_run", f"{whole / 1e12:.0f}")
record("t4_seconds", f"{whole / 65e12:.0f}")

# %% [markdown]
# And on a GPU that was at hand for some minutes, by `tests/benchmarks/gpu.py`: steps of the full run in three precisions, with the batch of the run and with one eight times as large; then 1000 digits in one batch by six samplers, in `float32`. (On this card PyTorch computes convolutions of `float32` in TF32, with ten bits after the point, unless you forbid it.)
#
# **Check 8.24** (not the arithmetic). Eight times the digits are eight times the operations, but take less than twice as long, in each precision. So with the smaller batch most of the time is not spent on operations.

# %%
gpu = stored_results("gpu")
record("gpu_device", gpu["provenance"]["device"])
for name, row in gpu["training"].items():
    key = name.replace(", ", "_")
    print(f"{name:>24s}: {row['milliseconds']:.1f} ms a step")
    record(f"gpu_ms_{key}", f"{row['milliseconds']:.1f}")
steps = {n: row["milliseconds"] for n, row in gpu["training"].items()}
for name in ("float32", "bfloat16", "float16"):
    assert steps[f"{name}, 1024"] < 2 * steps[f"{name}, 128"]
    record(
        f"gpu_minutes_{name}", f"{steps[f'{name}, 128'] * Settings().steps / 6e4:.1f}"
    )

# %%
reached = gpu["training"]["bfloat16, 128"]["tflop_per_second"]
record("gpu_reached", f"{reached:.1f}")
record("gpu_share", f"{100 * reached / 989:.1f}")  # of an H100's peak in bfloat16
before, after = steps["bfloat16, 1024"], steps["bfloat16, 1024, compiled"]
record("gpu_compile_saves", f"{100 * (1 - after / before):.0f}")
for name, row in gpu["samplers"].items():
    print(f"{name:>16s}: {row['milliseconds']:.3f} ms a digit")

# %% [markdown]
# ## The published weights
#
# The package carries the weights of a longer run of the same command. Here is where they come from.

# %%
network, origin = load_weights("mnist")  # or run.ema.network, your own
network = network.to(device, memory_format=torch.channels_last)
print(origin["command"])
where = f"{origin['device']} ({origin['cpu']}, {origin['threads']} threads)"
print(f"{origin['minutes']} minutes, {where}")
record("command", origin["command"])
record("minutes", f"{origin['minutes']:.0f}")
record("threads", str(origin["threads"]))
made = origin["settings"]
record("images", f"{made['steps'] * made['batch'] / 1e6:.1f}")

# %%
label = torch.arange(10, device=device).repeat_interleave(16)
made = torch.cat(list(sample_digits(network, label, "heun", 8)))

# %% tags=["hide-input"]
show_pixels(
    tile(made, 16)[None],
    "digits",
    "Ten rows of generated digits, sixteen of each class from 0 to 9, varied in "
    "slant, width and style.",
)

# %% [markdown]
# *Figure 8.3.* Generated digits, sixteen of each class, by 15 evaluations each, not selected.
#
# ### Held against closed forms
#
# There are two places where the right answer is known. The first is $t=0$. The state is noise and says nothing about the digit, so the velocity must be $\mathbb E[x_1\mid\text{label}]-x$.
#
# **Check 8.8** (the field at the start). $v_0(x)+x$ should be the mean digit of its class for every $x$. The least loss at $t=0$ is the variance of the class, and an answer at a squared distance from the mean costs that much more. Averaged over the classes, the excess must be below a tenth of the variance. Not less, for two reasons: the means of these hundred digits are themselves off by a hundredth, and a logit-normal time is below 0.05 only once in six hundred, so that the network has seen little of the start. One that ignored its label would be at the mean of all digits, and beyond a quarter.

# %%
means, excess, blind = [], [], []
middle = dequantise(train_digits.images, generator).mean(dim=0)
for c in range(10):
    own = dequantise(train_digits.images[train_digits.labels == c], generator)
    mean, variance = own.mean(dim=0), own.var(dim=0).sum()
    x = torch.randn(100, 1, 28, 28, generator=generator, device=device)
    with torch.no_grad():
        answer = network(x, x.new_zeros(100), torch.full((100,), c, device=device)) + x
    excess.append((answer - mean).square().flatten(1).sum(dim=1).mean() / variance)
    blind.append((middle - mean).square().sum() / variance)
    means += [mean, answer.mean(dim=0)]

# %%
excess, blind = sum(excess).item() / 10, sum(blind).item() / 10
print(f"excess below a tenth: {excess < 0.1}; without labels a quarter: {blind > 0.25}")
assert excess < 0.1 and blind > 0.25, (excess, blind)
record("start_excess", f"{100 * excess:.0f}\u00a0%")
early = torch.special.ndtr(torch.logit(torch.tensor(0.05, dtype=torch.float64)))
record("early_times", f"{round(1 / early.item(), -2):.0f}")  # one of so many

# %% tags=["hide-input"]
show_pixels(
    tile(to_pixels(torch.stack(means[::2] + means[1::2])), 10)[None],
    "mean_digits",
    "Two rows of ten blurred digits that look alike: above the means of the data, "
    "below what the network predicts from pure noise.",
)

# %% [markdown]
# *Figure 8.4.* Above: the mean of 100 digits of each class. Below: the network's prediction of the data at $t=0$.
#
# The second place is the whole of training. For a finite data set the minimiser of the loss is known at every time: with a label, the `ExactField` of the training digits of that class, chapter 2. The network must come close to it where many digits explain a state. It must not come close where only one does, for the minimiser remembers: it takes all noise to digits of the training set. A script measured both on test digits, which neither has seen.

# %%
quality = stored_results("mnist_quality")
print("   t  loss of the network   loss of the exact field")
for row in quality["against_exact"]:
    print(f"{row['t']:4.2f}  {row['network_test']:19.3f}   {row['exact_test']:23.3f}")

# %% tags=["hide-input"]
figure, axes = plotting.panels(["loss on test digits", "distance of the two fields"])
rows = quality["against_exact"]
when = [row["t"] for row in rows]
for name, color, text in (
    ("network_test", plotting.MODEL, "network"),
    ("exact_test", plotting.TRUTH, "exact field of the training digits"),
):
    style = {"color": color, "label": text, "markersize": 3}
    axes[0].plot(when, [row[name] for row in rows], "o-", **style)
style = {"color": plotting.DATA, "markersize": 3}
axes[1].plot(when, [row["distance"] for row in rows], "o-", **style)
for ax in axes:
    ax.set(xlabel="t")
axes[0].set_yscale("log")
axes[0].legend(fontsize=7)
plotting.show(
    figure,
    "memory",
    "Left: the loss per pixel on test digits against time. The two curves agree for "
    "small t; from t = 0.3 on the loss of the exact field rises to many times that of "
    "the network. Right: the relative distance between network and exact field grows "
    "with t.",
)

# %% [markdown]
# *Figure 8.5.* The loss per pixel on test digits, and how far the network is from the minimiser of its own training loss.
#
# **Check 8.9** (one row again). The same measurement at $t=0.2$, against the exact field of the 1000 digits above: the network has seen sixty times as many, so its loss on test digits must be lower.

# %%
t = torch.full((200,), 0.2, device=device)
x1 = dequantise(test_digits.images[:200], generator)
x0 = torch.randn(x1.shape, generator=generator, device=device)
pair, label = AffinePath(LINEAR).sample(x0, x1, t), test_digits.labels[:200]
exact = torch.empty_like(x1)
with torch.no_grad():
    answers = {"network": network(pair.x_t, t, label), "exact": exact}
for c in range(10):
    own = dequantise(train_digits.images[train_digits.labels == c], generator)
    field, mine = ExactField(AffinePath(LINEAR), own), label == c
    exact[mine] = field(pair.x_t[mine], t[mine])
loss = {name: (v - pair.velocity).square().mean().item() for name, v in answers.items()}
print("network below the exact field of 1000 digits:", loss["network"] < loss["exact"])
assert loss["network"] < loss["exact"]

# %% [markdown]
# ## From noise to a digit
#
# Above the states on the way, below what the network predicts from each of them: $\hat x_1=x_t+(1-t)\,v$. The prediction starts at the mean digit and makes up its mind.

# %%
label = torch.tensor([2, 5, 8], device=device)
noise = torch.randn(3, 1, 28, 28, generator=generator, device=device)
field = image_field(network, label)
with torch.no_grad():
    way = sample(field, noise, "heun", 40)
    shown = list(range(0, 41, 5))
    states = way.states[shown]
    predictions = [
        x + (1 - t) * field(x, t.expand(3))
        for x, t in zip(states, way.times[shown], strict=True)
    ]

# %% tags=["hide-input"]
rows = torch.stack([states, torch.stack(predictions)], dim=1)  # (times, 2, digits, …)
sheet = tile(to_pixels(rows.transpose(0, 2).flatten(0, 2)), len(shown))
show_pixels(
    sheet[None],
    "forming",
    "Three digits, two rows each. Upper rows: noise that clears up to a 2, a 5 and an "
    "8. Lower rows: the predictions, from a blurred mean digit to the same sharp "
    "digit.",
)

# %% [markdown]
# *Figure 8.6.* Three digits forming, $t=0,\tfrac18,\dots,1$. Upper rows: states. Lower rows: predictions of the data.

# %% tags=["hide-input", "nbval-ignore-output"]
show_pixels(
    to_pixels(way.states[:, 1]),
    "film",
    "A film: noise clears up to a handwritten 5.",
    zoom=6,
)

# %% [markdown]
# *Film 8.1.* One digit forming.
#
# ## Measuring
#
# A small classifier, trained on real digits and shipped, has two uses. It says whether a digit is of the class it was made for. And its 64 features have a mean and a covariance, and the Fréchet distance between those of generated and of real digits is small if the two look alike to it. The distance depends on how many digits there are. So the distance of as many training digits to all others stands beside it: the floor. And that of as many test digits, which other people wrote.

# %%
classifier, floors = stored_results("classifier"), stored_results("mnist_floors")
print("test accuracy of the classifier:", *(f"{a:.4f}" for a in classifier["test"]))
print("10 000 digits    accuracy  worst class  Fréchet  least spread")
rows = {f"heun_{n}": quality["heun"][n] for n in ("5", "25")}
rows |= {"ddpm": quality["ddpm"]["50"], "test": floors["test digits"]["10000"]}
for name, row in rows.items():
    worst, spread = min(row["class_accuracy"]), min(row["class_spread"])
    right, frechet = row["accuracy"], row["frechet"]
    print(f"{name:15s}  {right:8.4f}  {worst:11.3f}  {frechet:7.2f}  {spread:12.2f}")
    record(f"accuracy_{name}", f"{100 * right:.1f}\u00a0%")
    record(f"worst_{name}", f"{100 * worst:.1f}\u00a0%")
    record(f"frechet_{name}", f"{frechet:.2f}")
    record(f"spread_{name}", f"{spread:.2f}")
record("classifier_accuracy", f"{100 * classifier['test'][0]:.1f}\u00a0%")

# %%
row = floors["training digits"]["10000"]
accuracy, frechet = row["accuracy"]["mean"], row["frechet"]["mean"]
print(f"training digits  {accuracy:8.4f}  {row['worst_class']:11.3f}", end="")
print(f"  {frechet:7.2f}  {row['least_spread']:12.2f}")
record("accuracy_train", f"{100 * accuracy:.1f}\u00a0%")
record("frechet_train", f"{frechet:.2f}")
record("spread_train", f"{row['least_spread']:.2f}")
for name, value in floors["5000 digits"].items():
    distance = value["mean"] if isinstance(value, dict) else value
    print(f"5000 digits, {name}: Fréchet distance {distance:.2f}")
    record(f"frechet_5000_{name.split()[0]}", f"{distance:.2f}")

# %% [markdown]
# A distance in pixels needs no classifier: the energy distance of chapter 7, here of 1000 digits to the 1000 training digits above.

# %%
times = stored_results("mnist_time")
row = {"heun_5": "Heun 5", "heun_25": "Heun 25", "ddpm": "DDPM 50"}
distances = {key: times["samplers"][name]["pixels"] for key, name in row.items()}
for key, name in (("train", "training digits"), ("test", "test digits")):
    distances[key] = floors[name]["1000"]["pixels"]["mean"]
for key, distance in distances.items():
    print(f"{key:8s} energy distance of the pixels {distance:.2f}")
    record(f"pixels_{key}", f"{distance:.2f}")
for name, key in (("samples", "samples"), ("test", "test digits")):
    record(f"nearest_{name}", f"{quality['nearest'][key]:.0f}")

# %% [markdown]
# **Check 8.10** (a part of it again). 500 digits by Heun's method with five steps. The share with the right class must agree with the stored one within four standard errors, and half a percent for what another precision changes. Their Fréchet distance may be at most one and a half times that of 500 test digits; noise must be twenty times farther than they are. (The package warns that noise is no set of digits; here that is the point.)

# %%
few_labels = torch.arange(500, device=device) % 10
few = torch.cat(list(sample_digits(network, few_labels, "heun", 5, seed=1)))
scores = score_digits(few, few_labels)
tested = score_digits(*(part[:500] for part in test_digits))
pure = to_pixels(torch.randn(500, 1, 28, 28, generator=generator, device=device))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    noise_score = score_digits(pure, few_labels)

# %%
share = quality["heun"]["5"]["accuracy"]
agree = abs(scores.accuracy - share) < 4 * math.sqrt(share * (1 - share) / 500) + 0.005
near = scores.frechet < 1.5 * tested.frechet
far = noise_score.frechet > 20 * scores.frechet
print(f"accuracy as stored: {agree}; near the data: {near}; noise far from it: {far}")
assert agree and near and far, (scores, tested, noise_score)
record("test_500", f"{tested.frechet:.1f}")

# %% [markdown]
# **Check 8.11** (the floor). The mean of $N$ perfect feature vectors is off by $\operatorname{tr}(C)/N$ in the mean square. 2000 sets of 100 normal vectors in 64 dimensions with standard deviations from 0.1 to 2: within five standard errors. And the Fréchet distance of two sets from the same distribution is never zero; it falls as the sets grow.

# %%
sizes = torch.linspace(0.1, 2, 64, device=device)
sets = sizes * torch.randn(2000, 100, 64, generator=generator, device=device)
off = sets.mean(dim=1).square().sum(dim=1)
known, error = (sizes**2).sum() / 100, off.std() / math.sqrt(2000)
held = bool((off.mean() - known).abs() < 5 * error)
a, b = (part.flatten(0, 1) for part in sets[:200].split(100))
between = [frechet_distance(a[:n], b[:n]) for n in (100, 1000, 10_000)]
fall = between[0] > between[1] > between[2] > 0
print(f"mean square = tr(C)/N: {held}; distances fall: {fall}")
assert held and fall

# %% [markdown]
# ## Labels and guidance
#
# Guidance with scale $s$ follows $(1-s)\,v(x,t)+s\,v(x,t,\text{label})$: for $s>1$ it exaggerates what tells the label from the rest.
#
# **Check 8.12** (guidance is a line). Three lines of code. The package's `guided` must be the field without and with a label at the scales 0 and 1, exactly; and at scale 3 the three lines, to rounding.


# %% tags=["quote-guidance"]
def guided_velocity(x, t, label, scale):
    free = network(x, t)  # no label
    own = network(x, t, label)
    return free + scale * (own - free)


# %%
label = torch.arange(10, device=device)
x = torch.randn(10, 1, 28, 28, generator=generator, device=device)
t = torch.full((10,), 0.5, device=device)
with torch.no_grad():
    none, own = network(x, t), network(x, t, label)
    at = [guided(network, label, scale)(x, t) for scale in (0.0, 1.0, 3.0)]
    by_hand = guided_velocity(x, t, label, 3.0)
ends = torch.equal(at[0], none) and torch.equal(at[1], own)
line = torch.allclose(at[2], by_hand, atol=1e-4)
print(f"scales 0 and 1 are the two fields: {ends}; scale 3 as by hand: {line}")
assert ends and line

# %% [markdown]
# **Check 8.13** (guidance in closed form). One number instead of 784: all data $\mathcal N(0,1)$, those with the label $\mathcal N(1,\tfrac14)$. The exercise of the chapter shows that guided samples have the variance $\tau^{2s}$. For $s=2$ that is $\tfrac1{16}$. The flow is affine, so two points tell its slope; with 200 steps of Heun's method it must agree to $10^{-4}$.

# %%
alone = ExactField(AffinePath(LINEAR), Gaussian(torch.zeros(1)))
labelled = ExactField(AffinePath(LINEAR), Gaussian(torch.ones(1), 0.25))
both = lambda x, t, label: (alone if label is None else labelled)(x, t)  # noqa: E731
field = guided(both, torch.zeros(2), 2.0)
ends = sample(field, torch.tensor([[-1.0], [1.0]]), "heun", 200).last
variance = ((ends[1] - ends[0]) / 2).square().item()
print(f"variance {variance:.4f}, closed form {0.25**2}")
assert abs(variance - 0.25**2) < 1e-4

# %%
label = torch.arange(10, device=device).repeat_interleave(2)
start = torch.randn(20, 1, 28, 28, generator=generator, device=device)
rows = []
with torch.no_grad():
    for scale in (0.0, 1.0, 2.0, 3.0):
        field = image_field(network, label, scale)
        rows.append(to_pixels(sample(field, start, "heun", 10).last))

# %% tags=["hide-input"]
show_pixels(
    tile(torch.cat(rows), 20)[None],
    "guidance",
    "Four rows of twenty digits from the same noise. Without a label any digit comes; "
    "with it the right one; with more guidance bolder and more alike.",
)

# %% [markdown]
# *Figure 8.7.* The same noise with guidance 0 (no label), 1, 2 and 3; two of each class.
#
# **Check 8.14** (what guidance does). The first 150 digits of Check 8.10 again, with guidance 3. More must be of the right class, and every class must vary less: the spread, averaged over the classes, must fall below 0.8 of what it was.

# %%
label = torch.arange(150, device=device) % 10
plain = score_digits(few[:150], label)
strong = torch.cat(list(sample_digits(network, label, "heun", 5, 3.0, seed=1)))
strong = score_digits(strong, label)
more = strong.accuracy > plain.accuracy
less = sum(strong.class_spread) < 0.8 * sum(plain.class_spread)
print(f"more of the right class: {more}, less variety: {less}, ", end="")
print(f"nearer to the data: {strong.frechet < plain.frechet}")
assert more and less, (plain, strong)

# %% [markdown]
# A script measured more: 1000 digits, 100 of each class, for each of three seeds; mean and standard deviation of the Fréchet distance. Beside them sets of 1000 training digits, the floor, and of 1000 test digits.

# %%
samplers = stored_results("mnist_samplers")
print("guidance  accuracy  Fréchet distance  least spread of a class")
rows = {"1.0": samplers["methods"]["Heun"]["20"], **samplers["guidance"]}
for scale, row in rows.items():
    distance = f"{row['frechet']:.2f} ± {row['frechet_sd']:.2f}"
    spread = f"{row['least_spread']:.2f}"
    print(f"{scale:>8s}  {row['accuracy']:8.3f}  {distance:>16s}  {spread:>23s}")
    record(f"guided_accuracy_{scale}", f"{100 * row['accuracy']:.1f}\u00a0%")
    record(f"guided_frechet_{scale}", distance)
    record(f"guided_spread_{scale}", spread)

# %%
for name in ("training digits", "test digits"):
    row, key = floors[name]["1000"], name.split()[0]
    distance = f"{row['frechet']['mean']:.2f} ± {row['frechet']['sd']:.2f}"
    accuracy, spread = row["accuracy"]["mean"], f"{row['least_spread']:.2f}"
    print(f"{name:15s}  accuracy {accuracy:.3f}  Fréchet {distance}  spread {spread}")
    record(f"{key}_1000", distance)
    record(f"{key}_1000_mean", f"{row['frechet']['mean']:.2f}")
    record(f"{key}_1000_spread", spread)
    record(f"{key}_1000_accuracy", f"{100 * accuracy:.1f}\u00a0%")

# %% [markdown]
# A little guidance can be trained into the field, with the guided velocity in the target. Then a step costs one evaluation again. 10 000 digits by DPM-Solver++.

# %%
trained = stored_results("mnist_guided")
print("weights        evaluations  scale  right    distance  least spread")
for row in trained["runs"]:
    name, count, scale = row["weights"], row["evaluations"], row["scale"]
    right, spread = f"{100 * row['accuracy']:.1f}\u00a0%", min(row["class_spread"])
    distance = f"{row['frechet']:.2f}"
    print(
        f"{name:13s} {count:12d} {scale:6.2f}  {right}  {distance:>8s} {spread:13.2f}"
    )
    for key, value in (("right", right), ("frechet", distance)):
        record(f"trained_{key}_{name}_{count}_{scale}", value)
    record(f"trained_spread_{name}_{count}_{scale}", f"{spread:.2f}")
record("trained_scale", trained["scale"])
record("trained_minutes", round(trained["training_minutes"]))

# %% [markdown]
# ## Solvers at equal evaluations
#
# The same weights and the same noise at the start, six samplers of chapters 5 and 7, in the precision of the training. 1000 digits and three seeds again. The last two add noise on the way, the SDE with the level $w_t=1-t$. Each takes the most steps that its budget of evaluations allows. Heun's method needs an odd number of evaluations, for its last step is Euler's.

# %%
counts = ["5", "10", "20", "50"]
print(f"{'budget':13s}", *(f"{n:>13s}" for n in counts))
for name, rows in samplers["methods"].items():
    cells = [f"{rows[n]['frechet']:.2f} ± {rows[n]['frechet_sd']:.2f}" for n in counts]
    print(f"{name:13s}", *(f"{cell:>13s}" for cell in cells))
    for n, cell in zip(counts, cells, strict=True):
        spread = f"{rows[n]['least_spread']:.2f}"
        record(f"spread_{name.split('-')[0]}_{n}", spread)
        record(f"solver_{name.split('-')[0]}_{n}", cell)
        record(
            f"right_{name.split('-')[0]}_{n}", f"{100 * rows[n]['accuracy']:.1f}\u00a0%"
        )

# %% tags=["hide-input"]
figure, axes = plotting.panels(["Fréchet distance", "share with the wrong class"])
keys = ("evaluations", "frechet", "frechet_sd")
for name, rows in samplers["methods"].items():
    n, middle, spread = ([row[key] for row in rows.values()] for key in keys)
    axes[0].errorbar(n, middle, spread, capsize=2, marker="o", ms=3, label=name)
    axes[1].plot(n, [1 - row["accuracy"] for row in rows.values()], marker="o", ms=3)
for name, line in (("training digits", "--"), ("test digits", ":")):
    row, style = floors[name]["1000"], {"color": plotting.NOISE, "linestyle": line}
    axes[0].axhline(row["frechet"]["mean"], label=name, **style)
    axes[1].axhline(1 - row["accuracy"]["mean"], label=name, **style)
for ax, ticks in zip(axes, ([2, 3, 5, 10, 20], [0.005, 0.01, 0.02, 0.03]), strict=True):
    ax.set(xscale="log", yscale="log", xlabel="evaluations")
    ax.minorticks_off()
    ax.set_xticks([5, 10, 20, 50], ["5", "10", "20", "50"])
    ax.set_yticks(ticks, [f"{y:g}" if y > 1 else f"{100 * y:g}\u00a0%" for y in ticks])
figure.set_figheight(3)
names = axes[0].get_legend_handles_labels()
figure.legend(*names, loc="outside lower center", ncols=4, fontsize=8)
alt = (
    "Left: Fréchet distance against evaluations for six samplers. It falls to a level "
    "above the lines of real digits; only that of DDPM falls on, below the test digits "
    "to the training digits. Right: the share of digits with the wrong class. It grows "
    "with the evaluations for every sampler, far above real digits, least for DDPM."
)
plotting.show(figure, "solvers", alt)

# %% [markdown]
# *Figure 8.8.* Samplers on the same weights. Dashed: training digits, the floor. Dotted: test digits.
#
# What does it cost in seconds? A script made 1000 digits with some of the samplers on one thread of a processor, and took the time.

# %%
made = times["provenance"]
print(f"{made['cpu']}, {made['threads']} thread, batches of {times['batch']}")
print("sampler          evaluations  ms per image  Fréchet  accuracy")
for name, row in times["samplers"].items():
    cost, count = f"{row['milliseconds']:.1f}", row["evaluations"]
    print(f"{name:15s}  {count:11d}  {cost:>12s}", end="")
    print(f"  {row['frechet']:7.2f}  {row['accuracy']:8.3f}")
    key = name.replace("-Solver++", "").replace(" ", "_")
    record(f"time_{key}", cost)
    record(f"time_frechet_{key}", f"{row['frechet']:.1f}")
    record(f"time_right_{key}", f"{100 * row['accuracy']:.1f}\u00a0%")
record("time_cpu", made["cpu"])

# %% [markdown]
# **Check 8.15** (a part of it again). 250 digits from the same noise with five evaluations: DPM-Solver++ must be nearer to the data than Euler's method.

# %%
label = torch.arange(250, device=device) % 10
five = {}
for name in ("euler", "dpm"):
    images = torch.cat(list(sample_digits(network, label, name, 5, seed=2)))
    five[name] = score_digits(images, label)
print("DPM-Solver++ nearer to the data:", five["dpm"].frechet < five["euler"].frechet)
assert five["dpm"].frechet < five["euler"].frechet, five

# %% [markdown]
# ## Straight to the digit
#
# Two rounds more, as in chapter 6: the published flow makes pairs of noise and digit, a second flow learns the straight lines between them, and a third learns one Euler step. How straight each is, and the Fréchet distance of 10 000 digits after Euler steps.

# %%
reflow = stored_results("mnist_reflow")
print("flow            S per pixel   1 step   2 steps   5 steps")
for name, row in reflow["flows"].items():
    cells = (f"{one['frechet']:8.2f}" for one in row["euler"].values())
    print(f"{name:15s} {row['straightness']:11.4f}", *cells)
    record(f"straight_{name}", f"{row['straightness']:.4f}")
    for n, one in row["euler"].items():
        record(f"euler_{name}_{n}", f"{one['frechet']:.1f}")
        record(f"euler_accuracy_{name}_{n}", f"{100 * one['accuracy']:.1f}\u00a0%")
record("pairs", f"{reflow['pairs']:,}".replace(",", "\u00a0"))
record("pair_evaluations", reflow["pair_evaluations"])
for name, steps in reflow["steps"].items():
    record(f"{name}_images", f"{steps * reflow['batch'] / 1e6:.1f}")

# %%
label = torch.arange(10, device=device).repeat(2)
start = torch.randn(20, 1, 28, 28, generator=generator, device=device)
rows = []
for name in ("mnist", "mnist-reflow", "mnist-one-step"):
    flow = load_weights(name).network.to(device)
    with torch.no_grad():
        rows.append(to_pixels(sample(image_field(flow, label), start, "euler", 1).last))

# %% tags=["hide-input"]
show_pixels(
    tile(torch.cat(rows), 20)[None],
    "one_step",
    "Three rows of twenty digits made in one Euler step. Before ReFlow: blurred mean "
    "digits, all alike. After ReFlow and after distillation: digits.",
)

# %% [markdown]
# *Figure 8.9.* One Euler step from the same noise: the published flow, after ReFlow, after distillation.
#
# **Check 8.16** (one step again). 500 digits in one step from the third flow: the share with the right class as stored, within four standard errors and half a percent for what another precision changes.

# %%
label = torch.arange(500, device=device) % 10
flow = load_weights("mnist-one-step").network.to(device)
images = torch.cat(list(sample_digits(flow, label, "euler", 1, seed=3)))
one = score_digits(images, label)
share = reflow["flows"]["mnist-one-step"]["euler"]["1"]["accuracy"]
error = 4 * math.sqrt(share * (1 - share) / 500) + 0.005
print("accuracy as stored:", abs(one.accuracy - share) < error)
assert abs(one.accuracy - share) < error, one.accuracy

# %% [markdown]
# ## Pairings and times
#
# Small networks, a quarter of the size, trained for a fraction of the time, three seeds each: which pairing, which distribution of the time? Fréchet distance of 1000 digits after so many Euler steps.

# %%
training = stored_results("mnist_training")
made = training["provenance"]
print(f"{made['script']}, seeds {made['seeds']}, {made['device']}, {made['cpu']}")
counts = ["1", "2", "5", "10", "50"]
print(f"{'Euler steps':32s}", *(f"{n:>14s}" for n in counts), "  error at t = 0")

# %%
for name, rows in training["runs"].items():
    cells = [f"{rows[n]['frechet']:.0f} ± {rows[n]['frechet_sd']:.0f}" for n in counts]
    print(f"{name:32s}", *(f"{cell:>14s}" for cell in cells), end="")
    print(f"{rows['start_error']:14.3f}")
    key = name.translate(str.maketrans({" ": "_", ",": None, ".": None}))
    for n, cell in zip(counts, cells, strict=True):
        record(f"{key}_{n}", cell)
    record(f"{key}_start", f"{100 * rows['start_error']:.0f}\u00a0%")
    record(f"{key}_accuracy", f"{100 * rows['50']['accuracy']:.1f}\u00a0%")
    record(f"{key}_wrong", f"{100 * (1 - rows['50']['accuracy']):.0f}\u00a0%")
    record(f"{key}_wrong_1", f"{100 * (1 - rows['1']['accuracy']):.0f}\u00a0%")

# %% [markdown]
# And against torchcfm's own example for MNIST: both trained for the same time by the clock on the same machine, both sampled with the same steps from the same noise.

# %%
versus = stored_results("mnist_torchcfm")
print(f"{'':9s} parameters  images/s   images  Fréchet  accuracy")
for name in ("torchcfm", "ours"):
    row = versus[name]
    rate, seen, right = row["images_per_second"], row["images"], row["accuracy"]
    print(f"{name:9s} {row['parameters']:10d}  {rate:8.1f}  {seen:7d}", end="")
    print(f"  {row['frechet']:7.1f}  {right:8.3f}")
    record(f"versus_{name}_images_per_second", f"{rate:.0f}")
    record(f"versus_{name}_frechet", f"{row['frechet']:.0f}")
    record(f"versus_{name}_accuracy", f"{100 * right:.0f}\u00a0%")
    record(f"versus_{name}_parameters", f"{row['parameters'] / 1e6:.2f} million")
    record(f"versus_{name}_images", f"{seen / 1000:.0f} thousand")
record("versus_torchcfm_updates", versus["torchcfm"]["images"] // 128)
record("versus_minutes", f"{versus['ours']['minutes']:.0f}")

# %% [markdown]
# ## Likelihood
#
# The flow has a density, and chapter 1 computes it: run the digit back to noise and add up the divergence. With 784 numbers the exact divergence costs 784 backward passes, and Hutchinson's estimate one.
#
# **Check 8.17** (two divergences). At one time, for two digits: the mean of 200 estimates must lie within five standard errors of the exact divergence.

# %%
x1 = dequantise(test_digits.images[:2], generator)
x0 = torch.randn(x1.shape, generator=generator, device=device)
t = torch.full((2,), 0.5, device=device)
pair = AffinePath(LINEAR).sample(x0, x1, t)
field = image_field(network, test_digits.labels[:2])
probes = [rademacher_like(pair.x_t, generator) for _ in range(200)]
with torch.no_grad():  # no second derivatives: they would keep every column's graph
    exactly = divergence(field, pair.x_t, t)
    many = [divergence(field, pair.x_t, t, "hutchinson", probe) for probe in probes]
many = torch.stack(many)
error = many.std(dim=0) / math.sqrt(len(probes))
within = bool(((many.mean(dim=0) - exactly).abs() < 5 * error).all())
print("mean of 200 estimates = exact divergence, within five standard errors:", within)
assert within

# %% [markdown]
# **Check 8.18** (bits before learning). A flow that does not move has the density of noise, and the bits per dimension of a digit are $7+\tfrac12\log_2(2\pi)+\lVert x\rVert^2/(2d\ln2)$. The function that measures the published weights must find just that. Then it measures a few digits with them.

# %%
sixteen = Digits(*(part[:16] for part in test_digits))
still = digit_bits(lambda x, t, label: 0 * x, sixteen, steps=2, seed=5)
same_noise = torch.Generator(device).manual_seed(5)
x = dequantise(sixteen.images, same_noise)
square = x.square().flatten(1).mean(dim=1).cpu()  # the mean over the pixels
known = 7 + math.log2(2 * math.pi) / 2 + square / (2 * math.log(2))
agree = torch.allclose(still.float(), known, atol=1e-4)
print("bits of a flow that does not move = closed form:", agree)
bits, before = digit_bits(network, sixteen, steps=20).mean(), known.mean()
print(f"16 digits: {before:.1f} bits before learning; fewer after: {bits < before}")
assert agree and bits < before

# %%
for steps in ("25", "50", "100"):
    row = quality["bits"][steps]
    figure = f"{row['mean']:.2f} ± {row['standard_error']:.2f}"
    print(f"{steps:>3s} steps: {figure} bits per dimension")
    record(f"bits_{steps}", figure)
record("bits_digits", quality["bits"]["digits"])

# %% [markdown]
# The weights `mnist-likelihood` were trained on for this number.

# %%
likelihood = stored_results("mnist_likelihood")
for steps, row in likelihood["digits"].items():
    figure = f"{row['bits']:.2f} ± {row['bits_error']:.2f}"
    less = f"{row['less_200']:+.3f} ± {row['less_200_error']:.3f}"
    print(
        f"{steps:>3s} steps: {figure} bits per dimension of {row['n']} digits", end=""
    )
    print(f", {less} beside 200 steps" if steps != "200" else "")
    record(f"likelihood_{steps}", figure)
    record(f"likelihood_less_{steps}", less.replace("-", "−"))
    record(f"likelihood_digits_{steps}", row["n"])
made = likelihood["made"]
record("likelihood_minutes", round(made["before"]["minutes"]))
record("likelihood_gpu_minutes", f"{made['minutes']:.0f}")
record("likelihood_gpu_digits", f"{made['steps'] * 1024 / 1e6:.0f}")

# %% [markdown]
# ## What the numbers do not see
#
# **Copies.** A network that copied its training digits would have the best distances. So look at the nearest training digits. This lab has 1000 of the 60 000 at hand; the script above looked through all, and found a median distance of as many grey levels as the chapter says.

# %%
own = train_digits.images.flatten(1).float()
median = {}
for name, images in (("generated", few), ("test", test_digits.images[:500])):
    apart = torch.cdist(images.flatten(1).float(), own) / 28  # root mean square
    least, nearest = apart.min(dim=1)
    median[name] = least.median().item()
    if name == "generated":
        shown, closest = nearest[:20], least.min().item()
for name in ("generated", "test"):
    record(f"near_{name}", f"{median[name]:.0f}")

# %% [markdown]
# **Check 8.21** (no copy among these). No generated digit may be a shipped training digit: the smallest distance of 500 must be above ten grey levels, root mean square over the pixels. And their median distance must be that of test digits, up to a fifth.

# %%
alike = abs(median["generated"] / median["test"] - 1) < 0.2
print(f"no copy: {closest > 10}; as near as test digits: {alike}")
assert closest > 10 and alike, (closest, median)

# %% tags=["hide-input"]
pairs = [x.view(2, 10, 28, 28) for x in (few[:20], train_digits.images[shown])]
pairs = torch.stack(pairs, dim=1)
show_pixels(
    tile(pairs.flatten(0, 2), 10)[None],
    "nearest",
    "Four rows of ten digits. Under each generated digit stands a training digit, "
    "nearly always of its class: alike in slant and width, with other strokes.",
)

# %% [markdown]
# *Figure 8.10.* First and third row: generated digits, two of each class. Below each its nearest of the 1000 training digits shipped, in pixels.
#
# **Wrong ones.** Of the 500 digits of Check 8.10, ten that the classifier takes for another class than they were made for.

# %%
with torch.no_grad():
    taken = digit_classifier()[0](few.cpu()).argmax(dim=1)
asked = few_labels.cpu()
wrong = (taken != asked).nonzero().squeeze(1)[:10].tolist()
assert wrong, "the classifier takes every digit for what it was made for"

# %% tags=["hide-input", "nbval-ignore-output"]
titles = [f"{asked[i]}, read as {taken[i]}" for i in wrong]
figure, axes = plotting.panels(titles, rows=2, width=4.5)
figure.set_figheight(2.4)
for ax, i in zip(axes, wrong, strict=False):
    ax.imshow(few[i].cpu(), cmap="gray_r", vmin=0, vmax=255)
for ax in axes:
    ax.set_axis_off()
plotting.show(
    figure,
    "wrong",
    "Ten generated digits, each with the class it was made for and the one it is read "
    "as. Some are legible, some are broken, some stand between two classes.",
)

# %% [markdown]
# *Figure 8.11.* Ten wrong digits: made for one class, read as another.
#
# **Early networks.** Far from the data the classifier's features mean little. A script trained two small networks for 300 steps. One is right. The other had its times multiplied into the images as in Check 8.4, so that they fell on the columns: it never saw a right state.

# %%
early = stored_results("mnist_early")
labels, digits = torch.arange(100) % 10, {}
print("network      Fréchet distance  pixels       loss on test digits  accuracy")
for name, row in early["networks"].items():
    raw = bytearray(zlib.decompress(base64.b64decode(row["hundred"])))
    digits[name] = torch.frombuffer(raw, dtype=torch.uint8).view(100, 28, 28)
    cells = []
    for key in ("frechet", "pixels", "loss", "accuracy"):
        form = {"frechet": ".0f", "loss": ".3f"}.get(key, ".2f")
        cell = f"{row[key]['mean']:{form}} ± {row[key]['sd']:{form}}"
        record(f"early_{name.split()[0]}_{key}", cell)
        cells.append(cell)
    print(f"{name:12s}", *(f"{cell:>15s}" for cell in cells))
record("early_steps", early["steps"])

# %% [markdown]
# **Check 8.22** (two measures, two orders). A hundred stored digits of each, measured again: the Fréchet distance must prefer the wrong network, and the pixels the right one.

# %%
found = {}
for name, images in digits.items():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package warns: too few, and too far
        frechet = score_digits(images, labels).frechet
    real = train_digits.images.cpu()[:100] / 127.5 - 1
    found[name] = (frechet, energy_distance(images / 127.5 - 1, real))
one, other = found["wrong times"], found["right times"]
print("the Fréchet distance prefers the wrong network:", one[0] < other[0])
print("the pixels prefer the right one:", other[1] < one[1])
assert one[0] < other[0] and other[1] < one[1], found

# %% tags=["hide-input"]
rows = torch.cat([digits[name][:10] for name in ("wrong times", "right times")])
show_pixels(
    tile(rows, 10)[None],
    "early",
    "Two rows of ten pictures. Above, of the wrong network: white strokes on a grainy "
    "background. Below, of the right one: strokes on clean black. Few are digits.",
)

# %% [markdown]
# *Figure 8.12.* After 300 steps, from the same noise. Above: the wrong network, grainy, with the better Fréchet distance. Below: the right one.
#
# ## Summary
#
# - Bytes get noise before they get a density, and lose it again without loss.
# - A batch that is a function of seed and step makes resuming and sharing exact.
# - At the start the learned field is the mean digit minus the noise. At the optimum of its loss it would copy the training set, and on test digits the network is better than that.
# - Guidance is a line through two fields.
# - Every number for quality has the count of samples and a floor beside it, and sees only what its features see.
#
# ## Questions
#
# 1. Run the training cell with `pairing="optimal"` and with `"optimal-per-class"`. What happens to the loss, and why does that say nothing about the samples?
# 2. In Check 8.8 the answers for different noise agree. Would they with `pairing="optimal"`?
# 3. Make digits with label 10, "no label". What accuracy would a perfect model have, and what does `score_digits` say?
# 4. Sample with `"sde"` and noise level 0, 1 and 5 at 20 and at 200 evaluations. Where does noise help?
# 5. Plot the Fréchet distance of 200, 500 and 1000 shipped test digits against $1/N$. Where does the line meet the axis, and why not at 0?
# 6. Train on other grey images of 28×28 pixels in ten classes: `Run(Settings(), device).steps(Digits(images, labels))`, with bytes of shape $(N,28,28)$. For another size or for colour, use `UNet(image_shape=(3, 32, 32), labels=…)` with the loop of chapter 3. Which of the measures of this lab can you still use?
