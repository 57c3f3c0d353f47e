"""The airports as data; and our globe beside geoopt's and flow_matching's: digits and seconds.

    PYTHONPATH=. python tests/benchmarks/manifolds.py
    PYTHONPATH=. python tests/benchmarks/manifolds.py airports  # fmtutorial/data/airports.npz

Seconds are medians over repetitions that take turns, on one thread, for the same work: the point
and the velocity of the path of as many pairs, the same steps of the same method for the same
field. Errors are relative to the angle, or to its distance from π. Chapter 14.
"""

import math
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from provenance import save

import fmtutorial
from fmtutorial.manifolds import Sphere, geodesic, staying
from fmtutorial.solvers import midpoint, solve

DATA = Path(fmtutorial.__file__).parent / "data"
SEEDS = [0, 1, 2]
PAIRS, REPEATS, STEPS = 4096, 15, 20
ANGLES = {"1e-2": 1e-2, "1e-5": 1e-5, "1e-8": 1e-8}
GLOBE = Sphere(2)


def write_airports():
    """Store latitude and longitude of all airports with a code of IATA, in 2^15ths of 180°."""
    import airportsdata

    found = airportsdata.load("IATA")
    degrees = np.array([(found[code]["lat"], found[code]["lon"]) for code in sorted(found)])
    angles = np.round(degrees * 2**15 / 180).clip(-(2**15), 2**15 - 1).astype(np.int16)
    shuffled = np.random.default_rng(0).permutation(angles)
    np.savez_compressed(DATA / "airports.npz", angles=shuffled)
    print(f"{len(angles)} airports, {(DATA / 'airports.npz').stat().st_size} bytes")


def spaces():
    """Return log and exp of each library by name."""
    import geoopt
    from flow_matching.utils.manifolds import Sphere as TheirSphere

    theirs, geo = TheirSphere(), geoopt.SphereExact()
    return {
        "ours": (GLOBE.log, GLOBE.exp),
        "flow_matching": (theirs.logmap, theirs.expmap),
        "geoopt": (geo.logmap, geo.expmap),
    }


def errors(seed, angle, cut):
    """Return the largest relative error of log for pairs an angle apart, or so near antipodes."""
    torch.manual_seed(seed)
    x = GLOBE.project(GLOBE.uniform(1000).double())
    v = GLOBE.tangent(x, torch.randn(1000, 3, dtype=torch.float64))
    v = v / v.norm(dim=1, keepdim=True)
    length = math.pi - angle if cut else angle
    y = GLOBE.project(math.cos(length) * x + math.sin(length) * v)
    found = {}
    for name, (log, _) in spaces().items():
        off = (log(x, y).norm(dim=1) - length).abs().nan_to_num(length) / angle
        found[name] = off.max().item()
    return found


def field(x, t):
    """Up, on a globe."""
    return torch.tensor([0.0, 0.0, 1.0]) - x[:, 2:] * x


def tasks(seed):
    """Return the same work for each library: a path of pairs, and steps of a solver."""
    from flow_matching.path import GeodesicProbPath
    from flow_matching.path.scheduler import CondOTScheduler
    from flow_matching.solver import RiemannianODESolver
    from flow_matching.utils import ModelWrapper
    from flow_matching.utils.manifolds import Sphere as TheirSphere

    class Wrapped(ModelWrapper):
        def forward(self, x, t, **extras):
            return field(x, t)

    torch.manual_seed(seed)
    x0, x1, t = GLOBE.uniform(PAIRS), GLOBE.uniform(PAIRS), torch.rand(PAIRS)
    path = GeodesicProbPath(CondOTScheduler(), TheirSphere())
    solver = RiemannianODESolver(TheirSphere(), Wrapped(field))
    grid, step = torch.linspace(0, 1, STEPS + 1), staying(GLOBE, midpoint)
    return {
        "path": {
            "ours": lambda: geodesic(GLOBE, x0, x1, t).x_t,
            "flow_matching": lambda: path.sample(x_0=x0, x_1=x1, t=t).x_t,
        },
        "solver": {
            "ours": lambda: solve(field, x0, grid, step, last_only=True).last,
            "flow_matching": lambda: solver.sample(x0, 1 / STEPS, method="midpoint"),
        },
    }


def seconds(work):
    """Return the median of each, the libraries taking turns; and how far results are apart."""
    taken, found = {name: [] for name in work}, {}
    for _ in range(REPEATS):
        for name, job in work.items():
            started = time.perf_counter()
            found[name] = job()
            taken[name].append(time.perf_counter() - started)
    apart = (found["ours"] - found["flow_matching"]).abs().max().item()
    return {name: statistics.median(times) for name, times in taken.items()}, apart


def main():
    started = time.perf_counter()
    results = {
        "settings": {"pairs": PAIRS, "repeats": REPEATS, "steps": STEPS},
        "versions": {name: version(name) for name in ("geoopt", "flow_matching")},
    }
    for cut in (False, True):
        rows = {}
        for name, angle in ANGLES.items():
            runs = [errors(seed, angle, cut) for seed in SEEDS]
            rows[name] = {key: max(run[key] for run in runs) for key in runs[0]}
        results["near the cut" if cut else "near zero"] = rows
    for name in ("path", "solver"):
        runs = [seconds(tasks(seed)[name]) for seed in SEEDS]
        times = {key: statistics.median(run[0][key] for run in runs) for key in runs[0][0]}
        results[name] = {
            "milliseconds": {key: round(1000 * value, 3) for key, value in times.items()},
            "times_as_fast": round(times["flow_matching"] / times["ours"], 2),
            "apart": max(run[1] for run in runs),
        }
    print(results)
    save("manifolds", results, SEEDS, started)


if __name__ == "__main__":
    if sys.argv[1:] == ["airports"]:
        write_airports()
    else:
        torch.set_num_threads(1)
        main()
