"""Digits in one, two and four steps, by distribution matching. Chapter 10.

    .venv/bin/python tests/benchmarks/mnist_few_steps.py

Starts from the published one-step weights; the published flow is the teacher and the start of the
second network, which follows the student's own digits, for each of the student's times apart. A
classifier on the second network's features tells real digits from the student's, both under
noise: its log-odds are a second estimate of the same difference of scores. Writes
fmtutorial/data/mnist-few-steps.safetensors.
"""

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

STARTS = (0.0, 0.4375, 0.75, 0.9375)
"""Those of four steps of the sampler; the first and the third are those of two."""
UPDATES, FOLLOWED, WARM, BATCH = 350, 3, 100, 64
RATES = {"student": 3e-4, "second": 2e-4, "labels": 5e-3, "odds": 2e-4}
"""Of Adam. The second network's labels begin alike for all times of the student, and have to part
before it can tell them apart."""
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
    """The velocity field of the student's digits, and the odds beside it, in one run.

    Labels 0 to 10 are for what the student makes from t = 0, 11 to 21 from its second time …
    """

    def __init__(self, teacher: UNet) -> None:
        super().__init__()
        self.unet = UNet(labels=len(STARTS) * (CLASSES + 1) - 1)
        table = teacher.embed.label.weight.repeat(len(STARTS), 1)
        self.unet.load_state_dict(teacher.state_dict() | {"embed.label.weight": table})
        self.unet.coarse_out.register_forward_hook(self._keep)
        self.odds = Odds(self.unet.attention.norm.num_channels)

    def _keep(self, block, inputs, output):
        self.seen = output, inputs[1]

    def forward(self, x, t, code):
        """Return the velocity, shape of x, and the log-odds, (B,), in single precision."""
        with autocast(x.device, PRECISION):
            v = self.unet(x.contiguous(memory_format=torch.channels_last), t, code)
        return v.float(), self.odds(*(part.float() for part in self.seen))


class Match:
    """The three networks and the draws of their training."""

    def __init__(self, digits, generator):
        def copy_of(name):
            network = load_weights(name).network
            return network.to(DEVICE, memory_format=torch.channels_last)

        self.generator = generator
        self.student = copy_of("mnist-one-step").requires_grad_(True).train()
        self.average, teacher = EMA(self.student, 0.95), copy_of("mnist")
        self.second = Second(teacher).to(DEVICE, memory_format=torch.channels_last).train()
        self.field, self.teacher = (in_precision(n, PRECISION) for n in (self.student, teacher))
        self.by_class = [digits.images[digits.labels == c] for c in range(CLASSES)]
        betas = {"betas": (0.0, 0.99), "weight_decay": 0.0, "fused": True}
        self.of_student = torch.optim.AdamW(self.student.parameters(), RATES["student"], **betas)
        labels = self.second.unet.embed.label.weight
        others = [p for p in self.second.unet.parameters() if p is not labels]
        groups = {"second": others, "labels": [labels], "odds": self.second.odds.parameters()}
        parts = [{"params": part, "lr": RATES[name]} for name, part in groups.items()]
        self.of_second = torch.optim.AdamW(parts, **betas)

    def normal(self, n):
        return torch.randn(n, 1, 28, 28, generator=self.generator, device=DEVICE)

    def uniform(self, n, low=0.0, high=1.0):
        u = torch.rand(n, generator=self.generator, device=DEVICE)
        return low + (high - low) * u

    def integers(self, most, n):
        return torch.randint(most, (n,), generator=self.generator, device=DEVICE)

    def jumped(self, x, t, label):
        """Where the student jumps to; what is blacker than black is black, as in a picture."""
        x = x.contiguous(memory_format=torch.channels_last)
        v = self.field(x, t, label)
        return PATH.convert(v, x, t, "velocity", "data").clamp(-1, 1)

    def samples(self):
        """Digits as the student's sampler makes them, from each of its times, with their labels.

        Half of them from t = 0; the others from its own digits with new noise, after one jump or
        two.
        """
        label, first = self.integers(CLASSES, BATCH), BATCH // 2
        starts = torch.tensor(STARTS, device=DEVICE)
        which, n = torch.zeros_like(label), BATCH - first
        which[first:] = 1 + self.integers(len(STARTS) - 1, n)
        t, x, own = starts[which], self.normal(BATCH), label[first:]
        with torch.no_grad():
            made = self.jumped(x[first:], torch.zeros(n, device=DEVICE), own)
            before = starts[which[first:] - 1]  # t = 0 would make a new digit
            again = self.jumped(PATH.sample(self.normal(n), made, before).x_t, before, own)
            twice = (before > 0) & (self.uniform(n) < 0.5)
            made = torch.where(twice[:, None, None, None], again, made)
            x[first:] = PATH.sample(self.normal(n), made, t[first:]).x_t
        return self.jumped(x, t, label), label, label + (CLASSES + 1) * which

    def real(self, label):
        """Digits of the data with these labels."""
        rows = [self.integers(len(self.by_class[c]), 1) for c in label.tolist()]
        images = [self.by_class[c][row] for c, row in zip(label.tolist(), rows, strict=True)]
        return dequantise(torch.cat(images), self.generator)

    def follow(self):
        """One step of the second network, on samples of the student and on as many digits."""
        with torch.no_grad():
            x1, label, code = self.samples()
        t, odds = self.uniform(BATCH, 0.02, 0.98), []

        def field(x, t):
            v, found = self.second(x, t, code)
            odds.append(found)
            return v

        loss = flow_matching_loss(field, PATH, self.normal(BATCH), x1, t) / x1[0].numel()
        x_t = PATH.sample(self.normal(BATCH), self.real(label), t).x_t
        _, of_real = self.second(x_t, t, code)
        loss = loss + 0.1 * (F.softplus(odds[0]) + F.softplus(-of_real)).mean()
        stepped(self.of_second, loss, self.second)
        return loss.item()

    def move(self):
        """One step of the student along both estimates of the difference of scores."""
        x1, label, code = self.samples()

        def own(x, t):
            return self.second(x, t, code)[0]

        def target(x, t):
            return self.teacher(x.contiguous(memory_format=torch.channels_last), t, label)

        t, noise = self.uniform(BATCH, 0.02, 0.98), self.normal(BATCH)
        loss = WEIGHTS["teacher"] * distribution_matching_loss(x1, own, target, PATH, t, noise)
        self.second.requires_grad_(False)
        t, noise = self.uniform(BATCH, 0.02, 0.98), self.normal(BATCH)
        _, odds = self.second(PATH.sample(noise, x1, t).x_t, t, code)
        self.second.requires_grad_(True)
        stepped(self.of_student, loss - WEIGHTS["odds"] * odds.mean(), self.student)
        self.average.update(self.student)


def stepped(optimizer, loss, network):
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()


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
        if update % 50 == 0:
            for steps in (1, 2, 4):
                now = measured(match.average.network, labels[::5], steps)
                print(update, round(loss, 3), steps, said(now), flush=True)
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
    path = RESULTS.parent / "data" / "mnist-few-steps.safetensors"
    save_weights(path, network, "unet", {"labels": CLASSES}, made | hardware(DEVICE))
    network = load_weights(path).network.to(DEVICE)  # as it is published, in half precision
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
    main()
