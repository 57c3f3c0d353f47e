"""Every sampler on the published weights, at equal numbers of evaluations. Chapter 8.

    .venv/bin/python tests/benchmarks/mnist_samplers.py

1000 digits, 100 of each class, for each of three seeds; without guidance, then guidance at one
setting. The floor is that of 1000 test digits, 100 of each class too, eight sets of them.
"""

import time
from statistics import mean, stdev

import torch
from provenance import save

from fmtutorial.classifier import score_digits
from fmtutorial.devices import fast_precision
from fmtutorial.images import mnist
from fmtutorial.labs import default_device
from fmtutorial.samplers import COSTS, sample_digits
from fmtutorial.weights import load_weights

SEEDS = [0, 1, 2]
COUNT = 1000
EVALUATIONS = (5, 10, 20, 50)
METHODS = {"Euler": "euler", "Midpoint": "midpoint", "Heun": "heun", "DPM-Solver++": "dpm",
           "DDPM": "ddpm", "SDE, w = 1": "sde"}  # fmt: skip
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


def steps_for(method, evaluations):
    """Steps that need so many evaluations, or one less with Heun's method; None if none do."""
    if method == "heun":
        return (evaluations + 1) // 2
    steps, rest = divmod(evaluations, COSTS[method])
    return None if rest else steps


def floors():
    """Scores of eight sets of 1000 test digits, 100 of each class."""
    test = mnist("test")
    rows = torch.stack([(test.labels == c).nonzero()[:800, 0] for c in range(10)]).view(10, 8, 100)
    sets = [rows[:, i].flatten() for i in range(8)]
    return [score_digits(test.images[i], test.labels[i]) for i in sets]


def main():
    started = time.perf_counter()
    network = load_weights("mnist").network.to(DEVICE, memory_format=torch.channels_last)
    results = {"methods": {}, "guidance": {}}
    for name, method in METHODS.items():
        results["methods"][name] = {}
        for evaluations in EVALUATIONS:
            steps = steps_for(method, evaluations)
            if steps:
                found = [scores(network, seed, method=method, steps=steps) for seed in SEEDS]
                results["methods"][name][str(evaluations)] = summary(found)
                print(name, evaluations, results["methods"][name][str(evaluations)], flush=True)
    for scale in SCALES:
        found = [scores(network, seed, method="heun", steps=10, scale=scale) for seed in SEEDS]
        results["guidance"][str(scale)] = summary(found)
        print("guidance", scale, results["guidance"][str(scale)], flush=True)
    results["floor"] = summary(floors())
    save("mnist_samplers", results, SEEDS, started, DEVICE)


if __name__ == "__main__":
    main()
