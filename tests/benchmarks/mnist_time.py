"""Time for an image of the samplers, beside the quality of what they make. Chapter 8.

    .venv/bin/python tests/benchmarks/mnist_time.py

1000 digits of each sampler, 100 of each class, on one thread in single precision, in batches of
100. The time is what the processor worked for a batch, the median of ten, so that what else the
machine does counts little.
"""

import statistics
import time

import torch
from provenance import save

from fmtutorial.images.classifier import score_digits
from fmtutorial.images.data import small_digits
from fmtutorial.images.sampling import evaluations, sample_digits
from fmtutorial.images.weights import load_weights
from fmtutorial.metrics import energy_distance

COUNT, BATCH = 1000, 100
SAMPLERS = {
    "one step": ("mnist-one-step", "euler", 1, 99),  # from noise that is in none of its pairs
    "Heun 5": ("mnist", "heun", 5, 0),
    "Euler 50": ("mnist", "euler", 50, 0),
    "Heun 25": ("mnist", "heun", 25, 0),
    "DPM-Solver++ 10": ("mnist", "dpm", 10, 0),
    "DDPM 50": ("mnist", "ddpm", 50, 0),
}


def measured(weights, method, steps, seed):
    """Make digits by one sampler; return their scores and the time for an image."""
    labels, shipped = torch.arange(COUNT) % 10, small_digits("train").images / 127.5 - 1
    network = load_weights(weights).network.to(memory_format=torch.channels_last)
    images, seconds, before = [], [], time.process_time()
    for part in sample_digits(network, labels, method, steps, seed=seed, batch=BATCH):
        images.append(part)
        now = time.process_time()
        seconds.append(now - before)
        before = now
    images = torch.cat(images)
    scores = score_digits(images, labels)
    return {
        "evaluations": evaluations(method, steps),
        "milliseconds": 1000 * statistics.median(seconds) / BATCH,
        "frechet": scores.frechet,
        "accuracy": scores.accuracy,
        "least_spread": min(scores.class_spread),
        "pixels": energy_distance(images / 127.5 - 1, shipped),
    }


def main():
    torch.set_num_threads(1)
    started = time.perf_counter()
    results = {"digits": COUNT, "batch": BATCH, "samplers": {}}
    for name, how in SAMPLERS.items():
        results["samplers"][name] = measured(*how)
        print(name, results["samplers"][name], flush=True)
    results["few_seeds_because"] = (
        "a time needs no seed; mnist_samplers.py has three of the quality"
    )
    save("mnist_time", results, [0, 99], started)


if __name__ == "__main__":
    main()
