"""Pairings and distributions of the time, trained on MNIST and sampled in few steps. Chapter 8.

    .venv/bin/python tests/benchmarks/mnist_training.py

A quarter of the published network's size and a fraction of its training, three seeds: a
comparison, not a best result. 1000 digits by Euler's method, 100 of each class.
"""

import dataclasses
import time
from statistics import mean

import torch
from mnist_samplers import DEVICE, SEEDS, scores, summary
from provenance import save

from fmtutorial.images.data import Digits, mnist
from fmtutorial.images.devices import fast_precision
from fmtutorial.images.run import Run, Settings
from fmtutorial.metrics import relative_error

BASE = Settings(width=32, steps=2000, batch=64, warm_up=100, ema_decay=0.998,
                precision=str(fast_precision(DEVICE)).removeprefix("torch."))  # fmt: skip
RUNS = {
    "independent, logit-normal": {},
    "optimal, logit-normal": {"pairing": "optimal"},
    "optimal per class, logit-normal": {"pairing": "optimal-per-class"},
    "independent, uniform": {"times": "uniform"},
    "independent, logit-normal 0.5": {"times": "logit-normal-0.5"},
}
STEPS = (1, 2, 5, 10, 50)


def trained(digits, changes, seed):
    run = Run(dataclasses.replace(BASE, seed=seed, **changes), DEVICE)
    for _ in run.steps(digits):
        pass
    return run.ema.network, run.seconds


@torch.no_grad()
def start_error(network, digits):
    """Relative error of v + x at t = 0, which should be the mean digit of the label."""
    generator = torch.Generator(DEVICE).manual_seed(99)
    answers, truth = [], []
    for c in range(10):
        x = torch.randn(50, 1, 28, 28, generator=generator, device=DEVICE)
        label = torch.full((50,), c, device=DEVICE)
        answers.append(network(x, x.new_zeros(50), label) + x)
        own = digits.images[digits.labels == c].float().mean(dim=0)
        truth.append(((own + 0.5) / 128 - 1).expand(50, 1, 28, 28))
    return relative_error(torch.cat(answers), torch.cat(truth))


def main():
    started = time.perf_counter()
    digits = Digits(*(part.to(DEVICE) for part in mnist("train")))
    results = {"settings": dataclasses.asdict(BASE), "runs": {}}
    found = {name: {steps: [] for steps in STEPS} for name in RUNS}
    seconds, starts = ({name: [] for name in RUNS} for _ in range(2))
    for seed in SEEDS:  # seeds outside: stopped early, every run has as many
        for name, changes in RUNS.items():
            network, took = trained(digits, changes, seed)
            seconds[name].append(took)
            starts[name].append(start_error(network, digits))
            for steps in STEPS:
                one = scores(network, seed, method="euler", steps=steps)
                found[name][steps].append(one)
                print(seed, name, steps, one.frechet, one.accuracy, round(took), flush=True)
    for name in RUNS:
        results["runs"][name] = {str(steps): summary(rows) for steps, rows in found[name].items()}
        results["runs"][name]["seconds"] = mean(seconds[name])
        results["runs"][name]["start_error"] = mean(starts[name])
    save("mnist_training", results, SEEDS, started, DEVICE)


if __name__ == "__main__":
    main()
