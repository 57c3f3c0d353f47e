"""Digits in one step by distribution matching, and in two and four by mending them. Chapter 10.

    .venv/bin/python tests/benchmarks/mnist_few_steps.py

Starts from the published one-step weights. The published flow is the teacher and the start of the
second network, which follows the student's own digits. A classifier on the second network's
features tells real digits from the student's, both under noise: its log-odds are a second estimate
of the same difference of scores. Writes fmtutorial/data/mnist-matched.safetensors. After the first
step, noise is put on and the published flow takes the others.
"""

import copy
import math
import time

import torch
from provenance import RESULTS, save
from torch import nn
from torch.nn import functional as F

from fmtutorial.distribution_matching import distribution_matching_loss
from fmtutorial.images.batches import CLASSES
from fmtutorial.images.classifier import score_digits
from fmtutorial.images.data import Digits, dequantise, mnist
from fmtutorial.images.devices import autocast, fast_precision, in_precision
from fmtutorial.images.sampling import sample_digits
from fmtutorial.images.weights import load_weights, save_weights
from fmtutorial.labs import default_device, hardware
from fmtutorial.losses import flow_matching_loss
from fmtutorial.networks import UNet
from fmtutorial.paths import LINEAR, AffinePath
from fmtutorial.training import EMA

UPDATES, FOLLOWED, WARM, BATCH = 60, 3, 50, 96
RATES = {"student": 2e-4, "second": 2e-4, "odds": 2e-4}
WEIGHTS = {"teacher": 0.002, "odds": 0.5}
"""Of the two estimates, whose gradients are about as long with them."""
SEED = 0
DEVICE = default_device()
PRECISION = fast_precision(DEVICE)
PATH = AffinePath(LINEAR)


class Odds(nn.Module):
    """The log-odds that noised images are real, from what a U-Net sees of them."""

    def __init__(self, channels: int, width: int = 64) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, stride=2, padding=1)
        self.second = nn.Conv2d(width, width, 4)
        self.modulate, self.last = nn.Linear(channels, width), nn.Linear(width, 1)

    def forward(self, h, e):
        """Return (B,) for features (B, C, 7, 7) and what is known of time and label, (B, C)."""
        h = F.silu(self.first(F.group_norm(h, 1)))
        h = F.silu(self.second(h)).flatten(1)
        return self.last(h)[:, 0] + (h * self.modulate(e)).sum(dim=1) / h.shape[1] ** 0.5


class Second(nn.Module):
    """The velocity field of the student's digits, and the odds beside it, in one run."""

    def __init__(self, teacher: UNet) -> None:
        super().__init__()
        self.unet = copy.deepcopy(teacher).requires_grad_(True)
        self.unet.coarse_out.register_forward_hook(self._keep)
        self.odds = Odds(self.unet.attention.norm.num_channels)

    def _keep(self, block, inputs, output):
        self.seen = output, inputs[1]

    def forward(self, x, t, label):
        """Return the velocity, shape of x, and the log-odds, (B,), in single precision."""
        with autocast(x.device, PRECISION):
            v = self.unet(x.contiguous(memory_format=torch.channels_last), t, label)
        return v.float(), self.odds(*(part.float() for part in self.seen))


class Match:
    """The three networks and the draws of their training."""

    def __init__(self, digits, generator):
        def copy_of(name):
            network = load_weights(name).network
            return network.to(DEVICE, memory_format=torch.channels_last)

        self.generator = generator
        self.student = copy_of("mnist-one-step").requires_grad_(True).train()
        self.average, teacher = EMA(self.student, 0.9), copy_of("mnist")
        self.second = Second(teacher).to(DEVICE, memory_format=torch.channels_last).train()
        self.field, self.teacher = (in_precision(n, PRECISION) for n in (self.student, teacher))
        self.by_class = [digits.images[digits.labels == c] for c in range(CLASSES)]
        betas = {"betas": (0.0, 0.99), "weight_decay": 0.0, "fused": True}
        self.of_student = torch.optim.AdamW(self.student.parameters(), RATES["student"], **betas)
        parts = {"second": self.second.unet.parameters(), "odds": self.second.odds.parameters()}
        groups = [{"params": part, "lr": RATES[name]} for name, part in parts.items()]
        self.of_second = torch.optim.AdamW(groups, **betas)

    def normal(self):
        return torch.randn(BATCH, 1, 28, 28, generator=self.generator, device=DEVICE)

    def times(self):
        u = torch.rand(BATCH, generator=self.generator, device=DEVICE)
        return 0.02 + 0.96 * u

    def integers(self, most, n):
        return torch.randint(most, (n,), generator=self.generator, device=DEVICE)

    def samples(self):
        """The student's digits and their labels; what is blacker than black is black."""
        label, x0 = self.integers(CLASSES, BATCH), self.normal()
        x0 = x0.contiguous(memory_format=torch.channels_last)
        v = self.field(x0, torch.zeros(BATCH, device=DEVICE), label)
        return (x0 + v).clamp(-1, 1), label

    def real(self, label):
        """Digits of the data with these labels."""
        rows = [self.integers(len(self.by_class[c]), 1) for c in label.tolist()]
        images = [self.by_class[c][row] for c, row in zip(label.tolist(), rows, strict=True)]
        return dequantise(torch.cat(images), self.generator)

    def follow(self):
        """One step of the second network, on samples of the student and on as many digits."""
        with torch.no_grad():
            x1, label = self.samples()
        t, odds = self.times(), []

        def field(x, t):
            v, found = self.second(x, t, label)
            odds.append(found)
            return v

        loss = flow_matching_loss(field, PATH, self.normal(), x1, t) / x1[0].numel()
        x_t = PATH.sample(self.normal(), self.real(label), t).x_t
        _, of_real = self.second(x_t, t, label)
        loss = loss + 0.1 * (F.softplus(odds[0]) + F.softplus(-of_real)).mean()
        stepped(self.of_second, loss, self.second)
        return loss.item()

    def move(self):
        """One step of the student along both estimates of the difference of scores."""
        x1, label = self.samples()

        def own(x, t):
            return self.second(x, t, label)[0]

        def target(x, t):
            return self.teacher(x.contiguous(memory_format=torch.channels_last), t, label)

        t, noise = self.times(), self.normal()
        loss = WEIGHTS["teacher"] * distribution_matching_loss(x1, own, target, PATH, t, noise)
        self.second.requires_grad_(False)
        t, noise = self.times(), self.normal()
        _, odds = self.second(PATH.sample(noise, x1, t).x_t, t, label)
        self.second.requires_grad_(True)
        stepped(self.of_student, loss - WEIGHTS["odds"] * odds.mean(), self.student)
        self.average.update(self.student)


def stepped(optimizer, loss, network):
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()


def mended(student, flow):
    """v(x, t, label): the student's at t = 0, and the flow's after it."""
    return lambda x, t, label: (student if float(t[0]) == 0 else flow)(x, t, label)


def measured(network, labels, steps):
    """Scores of digits with these labels; the noise is none that the training has seen."""
    made = list(sample_digits(network, labels, "renoise", steps, seed=99))
    return score_digits(torch.cat(made), labels)


def fitted(digits, labels):
    match = Match(digits, torch.Generator(DEVICE).manual_seed(SEED))
    for _ in range(WARM):
        match.follow()
    for update in range(1, UPDATES + 1):
        rate = 0.5 * (1 + math.cos(math.pi * (update - 1) / UPDATES))
        match.of_student.param_groups[0]["lr"] = RATES["student"] * rate
        for _ in range(FOLLOWED):
            loss = match.follow()
        match.move()
        if update % 15 == 0:
            now = measured(match.average.network, labels[::2], 1)
            print(update, round(loss, 3), said(now), flush=True)
    return match.average.network.eval()


def said(scores):
    """What one looks at while it trains."""
    spread = min(scores.class_spread)
    return f"{scores.frechet:.2f}, {scores.accuracy:.2%} right, least spread {spread:.2f}"


def main():
    started = time.perf_counter()
    torch.manual_seed(SEED)
    digits = Digits(*(part.to(DEVICE) for part in mnist("train")))
    labels = mnist("test").labels.to(DEVICE)
    network = fitted(digits, labels)
    minutes = (time.perf_counter() - started) / 60
    made = {"script": "tests/benchmarks/mnist_few_steps.py", "seed": SEED, "minutes": minutes}
    path = RESULTS.parent / "data" / "mnist-matched.safetensors"
    save_weights(path, network, "unet", {"labels": CLASSES}, made | hardware(DEVICE))
    student = load_weights(path).network.to(DEVICE)  # as it is published, in half precision
    network = mended(student, load_weights("mnist").network.to(DEVICE))
    results = {"updates": UPDATES, "batch": BATCH, "training_minutes": minutes, "steps": {}}
    for steps in (1, 2, 4):
        began = time.perf_counter()
        scores = measured(network, labels, steps)
        took = (time.perf_counter() - began) / len(labels)
        results["steps"][str(steps)] = scores._asdict() | {"milliseconds": 1000 * took}
        print(steps, said(scores), flush=True)
    results["few_seeds_because"] = "one training; few_steps.py has three seeds of each method"
    save("mnist_few_steps", results, [SEED, 99], started, DEVICE)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
