"""Every sampler on the published weights, with equal budgets of evaluations. Chapter 8.

    .venv/bin/python tests/benchmarks/mnist_samplers.py

1000 digits, 100 of each class, for each of three seeds; without guidance, then guidance at one
setting. What 1000 digits of MNIST score is in mnist_floors.py.
"""

import time
from statistics import mean, stdev

import torch
from provenance import save

from fmtutorial.images.classifier import score_digits
from fmtutorial.images.devices import fast_precision
from fmtutorial.images.sampling import evaluations, sample_digits
from fmtutorial.images.weights import load_weights
from fmtutorial.labs import default_device

SEEDS = [0, 1, 2]
COUNT = 1000
BUDGETS = (5, 10, 20, 50)
METHODS = {"Euler": "euler", "Midpoint": "midpoint", "Heun": "heun", "DPM-Solver++": "dpm",
           "DDPM": "ddpm", "SDE": "sde"}  # fmt: skip
SCALES = (1.5, 2.0, 3.0)
DEVICE = default_device()
LABELS = torch.arange(COUNT, device=DEVICE) % 10


def scores(network, seed, **options):
    """Make and measure digits, in the precision of the training."""
    parts = sample_digits(network, LABELS, seed=seed, precision=fast_precision(DEVICE), **options)
    return score_digits(torch.cat(list(parts)), LABELS)


def summary(found):
    """Mean and standard deviation over the seeds, and the worst class of all."""
    frechet, accuracy = ([getattr(f, name) for f in found] for name in ("frechet", "accuracy"))
    return {
        "frechet": mean(frechet),
        "frechet_sd": stdev(frechet),
        "accuracy": mean(accuracy),
        "accuracy_sd": stdev(accuracy),
        "least_spread": min(min(f.class_spread) for f in found),
    }


def steps_within(budget, method):
    """Return the most steps that evaluate the field at most so often."""
    return max(n for n in range(1, budget + 1) if evaluations(method, n) <= budget)


def main():
    started = time.perf_counter()
    network = load_weights("mnist").network.to(DEVICE, memory_format=torch.channels_last)
    results = {"methods": {}, "guidance": {}}
    for name, method in METHODS.items():
        results["methods"][name] = {}
        for budget in BUDGETS:
            steps = steps_within(budget, method)
            found = [scores(network, seed, method=method, steps=steps) for seed in SEEDS]
            one = {"evaluations": evaluations(method, steps), **summary(found)}
            results["methods"][name][str(budget)] = one
            print(name, one, flush=True)
    for scale in SCALES:
        found = [scores(network, seed, method="heun", steps=10, scale=scale) for seed in SEEDS]
        results["guidance"][str(scale)] = summary(found)
        print("guidance", scale, results["guidance"][str(scale)], flush=True)
    save("mnist_samplers", results, SEEDS, started, DEVICE)


if __name__ == "__main__":
    main()
