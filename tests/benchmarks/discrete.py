"""Tokens by the package and by flow_matching: one law, one posterior, equal evaluations.

    PYTHONPATH=. python tests/benchmarks/discrete.py

Both sample three positions from the linear path, with the exact posterior, and the law of what they
make is compared with the exact one. flow_matching's sampler draws x₁ and jumps there with the
probability 1 − e^(−hν); in its last step it keeps x₁. Chapter 12.
"""

import time
from functools import partial
from importlib.metadata import version

import torch
from flow_matching.path import MixtureDiscreteProbPath
from flow_matching.path.scheduler import CondOTScheduler
from flow_matching.solver import MixtureDiscreteEulerSolver
from flow_matching.utils import ModelWrapper
from provenance import save, summarise
from torch.nn import functional

from fmtutorial.discrete import (
    ExactRate,
    all_states,
    draw_tokens,
    gillespie,
    leap_step,
    masking_path,
    simulate,
    uniform_path,
)

SEEDS = [0, 1, 2]
SAMPLES, STEPS = 100_000, (4, 8, 16, 32)
PLACES = 3


def agreeing_law():
    """Three tokens that tend to agree with their neighbour."""
    a, b, c = all_states(3, PLACES).T
    law = (1.5 * (a == b) + 1.0 * (b == c) + 0.3 * a).exp().reshape(3, 3, 3)
    return law / law.sum()


def exact_for(source):
    path, law = (masking_path if source == "masks" else uniform_path)(3), agreeing_law()
    return ExactRate(path, functional.pad(law, PLACES * (0, 1)) if source == "masks" else law)


class Table(ModelWrapper):
    """The exact posterior, from a table of all states at the time of a step."""

    def __init__(self, exact):
        super().__init__(None)
        self.exact = exact
        self.states = all_states(exact.path.size, PLACES)
        self.place = exact.path.size ** torch.arange(PLACES - 1, -1, -1)

    def forward(self, x, t):
        time_of = t[:1].clamp(min=1e-3).expand(len(self.states))
        return self.exact.posterior(self.states, time_of)[x @ self.place]


def ours(exact, model, x, n):
    return simulate(partial(exact.path.step, model), x, torch.linspace(0, 1, n + 1))


def theirs(exact, model, x, n):
    path = MixtureDiscreteProbPath(scheduler=CondOTScheduler())
    solver = MixtureDiscreteEulerSolver(model, path, exact.path.size)
    return solver.sample(x, step_size=None, time_grid=torch.linspace(0, 1, n + 1))


def leaps(exact, model, x, n):
    """As the package leaps, to 1 − 1/n, and at the end the path's step."""
    grid = torch.linspace(0, 1, n + 1)
    rate = lambda x, t: exact.path.rate(model(x, t), x, t)  # noqa: E731
    x = simulate(partial(leap_step, rate), x, grid[:-1])
    return simulate(partial(exact.path.step, model), x, grid[-2:])


def measure(exact, model, sample):
    """Return the total variation between the samples' law and the exact one, and seconds."""
    noise = exact.path.source.expand(SAMPLES, PLACES, -1)
    x = draw_tokens(noise)
    started = time.process_time()
    x = sample(x)
    seconds = time.process_time() - started
    seen = torch.bincount(x @ model.place, minlength=exact.law.numel()) / SAMPLES
    return {"error": 0.5 * (seen - exact.law.flatten()).abs().sum().item(), "seconds": seconds}


def run(seed):
    torch.manual_seed(seed)
    rows = {}
    for source in ("masks", "uniform noise"):
        exact = exact_for(source)
        model = Table(exact)
        for n in STEPS:
            ways = {"path's step": ours, "flow_matching": theirs, "leaps": leaps}
            for name, way in ways.items():
                sample = partial(way, exact, model, n=n)
                rows[f"{source}, {n}, {name}"] = measure(exact, model, sample)
        rows[f"{source}, data"] = measure(
            exact,
            model,
            lambda x, e=exact, m=model: m.states[draw_tokens(e.law.flatten().expand(len(x), -1))],
        )
    exact = exact_for("masks")
    model = Table(exact)
    bells = lambda x: gillespie(model, exact.path, x, 0.0, 1.0)  # noqa: E731
    rows["masks, bells"] = measure(exact, model, bells)
    return rows


def main():
    started, runs = time.perf_counter(), [run(seed) for seed in SEEDS]
    settings = {"samples": SAMPLES, "positions": PLACES, "tokens": 3}
    rows = summarise(runs)
    ratio = [
        rows[f"{source}, {n}, flow_matching"]["seconds"][0]
        / rows[f"{source}, {n}, path's step"]["seconds"][0]
        for source in ("masks", "uniform noise")
        for n in STEPS
    ]
    results = {
        "settings": settings,
        "versions": {"flow_matching": version("flow_matching")},
        "times_as_fast": [round(r, 2) for r in ratio],
        "rows": rows,
        "runs": runs,
    }
    save("discrete", results, SEEDS, started)
    for name, row in rows.items():
        print(name, row)
    print(results["times_as_fast"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
