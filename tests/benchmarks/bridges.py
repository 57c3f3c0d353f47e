"""Batches for a Schrödinger bridge: ours against torchcfm's, on one thread in one run.

    .venv/bin/python -m pip install --group test
    OMP_NUM_THREADS=1 .venv/bin/python tests/benchmarks/bridges.py

Both draw two batches in the plane, find the entropic plan with the regularisation 2σ², draw as
many pairs from it, and return x_t with the velocity (ours with the score too). torchcfm's class
takes Sinkhorn's plan when asked for it (its default is exact transport); POT's solver stops when
the marginals are right to 1e-9, and ours gets the iterations that it needs for that, counted
first; it scales the kernel as POT does, or adds logarithms. Ours and theirs take turns; the least
processor time of several turns counts.

Source: torchcfm, torchcfm/conditional_flow_matching.py.
"""

import importlib.metadata
import time

import torch
from provenance import save
from torchcfm.conditional_flow_matching import SchrodingerBridgeConditionalFlowMatcher

from fmtutorial.bridges import Bridge, draw_pairs
from fmtutorial.couplings import sinkhorn_kernel, sinkhorn_log, squared_distances
from fmtutorial.distributions import eight_gaussians, two_moons

SIZES, SIGMA, REPEATS = (64, 128, 256, 512), 1.0, 9
SEED, ENOUGH = 0, 1e-9


def iterations_for(x0, x1):
    """Return the first multiple of 10 after which the rows are right to ENOUGH."""
    cost, n = squared_distances(x0, x1), 10
    while True:
        plan = sinkhorn_log(cost, 2 * SIGMA**2, n)
        if (plan.sum(dim=1) - 1 / len(plan)).norm() < ENOUGH or n >= 1000:
            return n
        n += 10


def main():
    torch.manual_seed(SEED)
    started, batches = time.perf_counter(), {}
    theirs, bridge = SchrodingerBridgeConditionalFlowMatcher(SIGMA, "sinkhorn"), Bridge(SIGMA)
    for size in SIZES:
        x0, x1 = eight_gaussians().sample(size), two_moons().sample(size)
        n = iterations_for(x0, x1)

        def ours(sinkhorn=sinkhorn_kernel, x0=x0, x1=x1, n=n):
            plan = sinkhorn(squared_distances(x0, x1), 2 * SIGMA**2, n)
            i, j = draw_pairs(plan, len(x0))
            t = 1e-3 + 0.998 * torch.rand(len(x0))
            return bridge.sample(x0[i], x1[j], t, torch.randn_like(x0))

        functions = {
            "ours": ours,
            "logarithms": lambda ours=ours: ours(sinkhorn_log),
            "torchcfm": lambda x0=x0, x1=x1: theirs.sample_location_and_conditional_flow(x0, x1),
        }
        least = dict.fromkeys(functions, float("inf"))
        for turn in range(REPEATS + 1):
            for name, function in functions.items():
                begun = time.process_time()
                function()
                if turn:  # the first one warms up
                    least[name] = min(least[name], 1000 * (time.process_time() - begun))
        row = {name: round(value, 3) for name, value in least.items()}
        row |= {"iterations": n, "times_as_fast": round(least["torchcfm"] / least["ours"], 2)}
        batches[str(size)] = row
        print(size, row, flush=True)
    versions = {name: importlib.metadata.version(name) for name in ("torchcfm", "pot", "numpy")}
    results = {
        "sigma": SIGMA,
        "few_seeds_because": "the least of several times is reported",
        "versions": versions,
        "batches": batches,
    }
    save("bridges", results, [SEED], started)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
