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

SEED, COUNT, BATCH = 0, 1000, 100
SAMPLERS = {
    "one step": ("mnist-one-step", "euler", 1),
    "Heun 5": ("mnist", "heun", 5),
    "Euler 50": ("mnist", "euler", 50),
    "Heun 25": ("mnist", "heun", 25),
    "DPM-Solver++ 10": ("mnist", "dpm", 10),
    "DDPM 50": ("mnist", "ddpm", 50),
}


def main():
    torch.set_num_threads(1)
    started = time.perf_counter()
    labels, shipped = torch.arange(COUNT) % 10, small_digits("train").images / 127.5 - 1
    results = {"digits": COUNT, "batch": BATCH, "samplers": {}}
    for name, (weights, method, steps) in SAMPLERS.items():
        network = load_weights(weights).network.to(memory_format=torch.channels_last)
        parts = sample_digits(network, labels, method, steps, seed=SEED, batch=BATCH)
        images, seconds, before = [], [], time.process_time()
        for part in parts:
            images.append(part)
            now = time.process_time()
            seconds.append(now - before)
            before = now
        images = torch.cat(images)
        scores = score_digits(images, labels)
        results["samplers"][name] = {
            "evaluations": evaluations(method, steps),
            "milliseconds": 1000 * statistics.median(seconds) / BATCH,
            "frechet": scores.frechet,
            "accuracy": scores.accuracy,
            "least_spread": min(scores.class_spread),
            "pixels": energy_distance(images / 127.5 - 1, shipped),
        }
        print(name, results["samplers"][name], flush=True)
    results["few_seeds_because"] = (
        "a time needs no seed; mnist_samplers.py has three of the quality"
    )
    save("mnist_time", results, [SEED], started)


if __name__ == "__main__":
    main()
