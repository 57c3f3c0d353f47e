"""Ways to guide digits, with equal numbers of evaluations of the network. Chapter 11.

    .venv/bin/python tests/benchmarks/mnist_steering.py

500 digits, 50 of each class, for each of three seeds: Euler's method with 20 evaluations. The worse
model of autoguidance is a U-Net of a third of the width, trained here for 1000 steps; nothing of
it is kept. The last row has as many test digits, drawn without replacement.
"""

import time
from functools import partial
from statistics import mean, stdev

import torch
from provenance import save

from fmtutorial.guidance import autoguided, guided, rescaled
from fmtutorial.images.batches import CLASSES, digit_batch
from fmtutorial.images.classifier import score_digits
from fmtutorial.images.data import Digits, mnist, to_pixels
from fmtutorial.images.devices import fast_precision, in_precision
from fmtutorial.images.sampling import noise_generators, sample
from fmtutorial.images.weights import load_weights
from fmtutorial.labs import default_device
from fmtutorial.losses import mean_squared_norm
from fmtutorial.networks import UNet
from fmtutorial.paths import LINEAR, AffinePath
from fmtutorial.training import EMA, train

SEEDS, COUNT, BUDGET = [0, 1, 2], 500, 20
INTERVAL, REST = (0.25, 0.7), 0.05
WIDTH, STEPS, BATCH = 20, 1000, 64
DEVICE = default_device()
PRECISION = fast_precision(DEVICE)
LABELS = torch.arange(COUNT, device=DEVICE) % CLASSES


class Counted:
    """A network, and how often it has been asked."""

    def __init__(self, network):
        self.field, self.asked = in_precision(network.to(DEVICE), PRECISION), 0

    def __call__(self, x, t, label=None):
        self.asked += 1
        return self.field(x.contiguous(memory_format=torch.channels_last), t, label)


def worse_network():
    """A small U-Net after a short training, with labels dropped as always."""
    torch.manual_seed(0)
    digits, done = Digits(*(part.to(DEVICE) for part in mnist("train"))), 0
    network = UNet(width=WIDTH, labels=CLASSES).to(DEVICE, memory_format=torch.channels_last)
    path, ema = AffinePath(LINEAR), EMA(network, 0.99)

    def loss():
        nonlocal done
        x0, x1, t, label = digit_batch(digits, done, BATCH, 0)
        at, done = path.sample(x0, x1, t), done + 1
        x = at.x_t.contiguous(memory_format=torch.channels_last)
        return mean_squared_norm(network(x, t, label) - at.velocity) / x1[0].numel()

    for step in train(network, loss, STEPS, 1e-3, ema, warm_up=50):
        if step.number % 250 == 0:
            print("worse", step.number, round(step.loss, 3), flush=True)
    return ema.network.eval()


def ways(flow, trained, worse):
    """By name: a field for given labels, its steps, and the networks that it asks."""
    found = {"label": (partial(guided, flow, scale=1.0), 20, [flow])}
    found["trained in 1.15"] = partial(guided, trained, scale=1.0), 20, [trained]
    for scale in (1.15, 1.5, 2.0):
        found[f"guided {scale}"] = partial(guided, flow, scale=scale), 10, [flow]
    for scale in (1.5, 2.0, 3.0):
        field = partial(guided, flow, scale=scale, during=INTERVAL)
        found[f"interval {scale}"] = field, 14, [flow]
    for scale in (1.15, 1.5, 2.0):
        field = partial(rescaled, flow, scale=scale, rest=REST)
        found[f"rescaled {scale}"] = field, 11, [flow]

    def auto(label, scale):
        return autoguided(guided(flow, label), guided(worse, label), scale)

    for scale in (1.15, 1.5, 2.0):
        found[f"autoguided {scale}"] = partial(auto, scale=scale), 10, [flow, worse]
    found["worse alone"] = partial(guided, worse, scale=1.0), 20, [worse]
    return found


@torch.no_grad()
def scores(make, steps, networks, seed):
    start, _ = noise_generators(seed, DEVICE)
    x0 = torch.randn(COUNT, 1, 28, 28, generator=start).to(DEVICE)
    before = sum(network.asked for network in networks)
    made = sample(make(label=LABELS), x0, "euler", steps)
    assert sum(network.asked for network in networks) - before == BUDGET
    return score_digits(to_pixels(made.last), LABELS)


def test_digits(seed):
    digits, generator = mnist("test"), torch.Generator().manual_seed(seed)
    rows = torch.stack([torch.where(digits.labels == c)[0][:892] for c in range(CLASSES)])
    chosen = rows[:, torch.randperm(892, generator=generator)[: COUNT // CLASSES]].T.flatten()
    return score_digits(digits.images[chosen].to(DEVICE), LABELS)


def summary(found):
    """Mean and standard deviation over the seeds; the spread is the mean of the classes'."""
    row = {}
    for key in ("accuracy", "frechet"):
        values = [getattr(one, key) for one in found]
        row |= {key: mean(values), f"{key}_sd": stdev(values)}
    spreads = [mean(one.class_spread) for one in found]
    return row | {"spread": mean(spreads), "spread_sd": stdev(spreads)}


def main():
    started = time.perf_counter()
    flow, trained = (Counted(load_weights(name).network) for name in ("mnist", "mnist-guided"))
    results = {"evaluations": BUDGET, "digits": COUNT, "interval": INTERVAL, "rest": REST}
    results |= {"worse": {"width": WIDTH, "steps": STEPS, "batch": BATCH}, "ways": {}}
    for name, (make, steps, networks) in ways(flow, trained, Counted(worse_network())).items():
        found = [scores(make, steps, networks, seed) for seed in SEEDS]
        results["ways"][name] = {"steps": steps, **summary(found)}
        print(name, results["ways"][name], flush=True)
    results["test digits"] = summary([test_digits(seed) for seed in SEEDS])
    save("mnist_steering", results, SEEDS, started, DEVICE)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
