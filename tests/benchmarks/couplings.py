"""Independent and optimal pairing: quality against steps, and warm-up.

Trains 33 small networks; chapter 4 shows the results. Run from the repository's root:

    .venv/bin/python tests/benchmarks/couplings.py
"""

import statistics
import time

import torch
from provenance import save

from fmtutorial.couplings import exact_ot, independent
from fmtutorial.distributions import (
    Gaussian,
    eight_gaussians,
    ring_of_gaussians,
    s_curve,
    two_moons,
)
from fmtutorial.losses import flow_matching_loss, uniform_times
from fmtutorial.metrics import wasserstein
from fmtutorial.networks import MLP
from fmtutorial.paths import LINEAR, AffinePath
from fmtutorial.reflow import path_energy, straightness
from fmtutorial.solvers import euler, solve
from fmtutorial.training import EMA, train

NOISE = Gaussian(torch.zeros(2))
TASKS = {
    "noise to ring": (NOISE, ring_of_gaussians()),
    "noise to moons": (NOISE, two_moons()),
    "moons to eight Gaussians": (two_moons(), eight_gaussians()),
    "noise to S-curve": (NOISE, s_curve()),
}
COUPLINGS = {"independent": independent, "optimal": exact_ot}
SEEDS = [0, 1, 2]
EULER_STEPS = [1, 2, 5, 10, 50, 100]
BATCH, TRAINING_STEPS, POINTS = 128, 2000, 1000
WARM_UP_TASK = "moons to eight Gaussians"
WARM_UPS = {  # first coupling, its share of the steps, second coupling
    "20 % independent, then optimal": (independent, 0.2, exact_ot),
    "50 % independent, then optimal": (independent, 0.5, exact_ot),
    "20 % optimal, then independent": (exact_ot, 0.2, independent),
}


def trained(task, coupling, seed, steps=TRAINING_STEPS):
    """Train a field; coupling(number) is the one to use in that step."""
    source, target = TASKS[task]
    torch.manual_seed(seed)
    network, path = MLP(width=128), AffinePath(LINEAR)
    ema = EMA(network, decay=0.99)
    number = 0

    def loss():
        nonlocal number
        x0, x1 = source.sample(BATCH), target.sample(BATCH)
        x0 = coupling(number)(x0, x1)
        number += 1
        return flow_matching_loss(network, path, x0, x1, uniform_times(BATCH))

    for _ in train(network, loss, steps, learning_rate=3e-3, ema=ema):
        pass
    return ema.network


@torch.no_grad()
def measured(field, task, seed):
    """Return distances to fresh data by number of Euler steps, and the energy of the paths."""
    source, target = TASKS[task]
    torch.manual_seed(1000 + seed)
    start, fresh = source.sample(POINTS), target.sample(POINTS)
    row = {}
    for steps in EULER_STEPS:
        solution = solve(field, start, torch.linspace(0, 1, steps + 1), euler)
        row[str(steps)] = wasserstein(solution.last, fresh)
    row["energy"] = path_energy(solution)  # of the finest grid
    row["straightness"] = straightness(solution)
    return row


def summary(rows):
    """Return mean and standard deviation of each entry over the seeds."""
    return {
        key: [statistics.mean(r[key] for r in rows), statistics.stdev(r[key] for r in rows)]
        for key in rows[0]
    }


def scale_of(task):
    """Return the distance of fresh data to fresh data, and W₂² from source to target."""
    source, target = TASKS[task]
    torch.manual_seed(2000)
    fresh, square = [], []
    for _ in range(8):
        fresh.append(wasserstein(target.sample(POINTS), target.sample(POINTS)))
        square.append(wasserstein(source.sample(POINTS), target.sample(POINTS)) ** 2)
    pairs = (source.sample(200_000) - target.sample(200_000)).square().sum(dim=1)
    return {
        "fresh": [statistics.mean(fresh), statistics.stdev(fresh)],
        "w2_squared": [statistics.mean(square), statistics.stdev(square)],
        "independent_cost": pairs.mean().item(),
    }


def main():
    """Run everything and write the results."""
    started = time.perf_counter()
    torch.set_num_threads(1)
    tasks, warm_up = {}, {}
    for task in TASKS:
        tasks[task] = scale_of(task)
        for name, coupling in COUPLINGS.items():
            rows = [measured(trained(task, lambda _, c=coupling: c, s), task, s) for s in SEEDS]
            tasks[task][name] = summary(rows)
            print(task, name, tasks[task][name], flush=True)
    for name, (first, share, second) in WARM_UPS.items():

        def coupling(number, first=first, share=share, second=second):
            return first if number < share * TRAINING_STEPS else second

        rows = [measured(trained(WARM_UP_TASK, coupling, s), WARM_UP_TASK, s) for s in SEEDS]
        warm_up[name] = summary(rows)
        print(name, warm_up[name], flush=True)
    results = {
        "training": {"batch": BATCH, "steps": TRAINING_STEPS, "points": POINTS},
        "euler_steps": EULER_STEPS,
        "tasks": tasks,
        "warm_up_task": WARM_UP_TASK,
        "warm_up": warm_up,
    }
    save("couplings", results, SEEDS, started)


if __name__ == "__main__":
    main()
