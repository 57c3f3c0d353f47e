"""What a pairing costs: time by size of the batch, and one batch shared by two devices.

    OMP_NUM_THREADS=1 .venv/bin/python tests/benchmarks/pairing_costs.py

Processor time of an exact pairing, of the same by SciPy's solver alone, of Sinkhorn's iterations
and of a training step, on one thread.

Then two processes, joined by gloo, hold half of a batch each and pair it in three ways: each its
own half; all points gathered on both, which then solve the same problem; or each computes the
costs of its own data, and the first solves for both. Given are the processor time of the busier
one, the bytes that both send, and what the pairs cost. The points are Gaussian, so that the least
cost is known. The variance that the target of the regression keeps around its best linear
prediction is exact for independent pairs and a bound for others. Chapter 4 shows the results.
"""

import math
import statistics
import tempfile
import time

import torch
import torch.distributed as dist
from provenance import save
from scipy.optimize import linear_sum_assignment

from fmtutorial.assignment import assignment, cost_matrix
from fmtutorial.couplings import exact_ot, sinkhorn_log, squared_distances
from fmtutorial.distributions import Gaussian, two_moons
from fmtutorial.losses import flow_matching_loss, uniform_times
from fmtutorial.networks import MLP
from fmtutorial.paths import LINEAR, AffinePath

SEEDS = [0, 1, 2]
SIZES = [64, 128, 256, 512, 1024, 2048]
DEVICES, DIMENSIONS, SHARED_SIZES = 2, [2, 32, 784], [128, 512, 2048]
SPREAD = 0.5  # standard deviation of the data
PAIRS = 8192  # for each seed, dimension and size
sent = 0


def milliseconds(turns, **functions):
    """Return the least processor time of each function, by its name."""
    least = dict.fromkeys(functions, math.inf)
    for turn in range(turns + 1):
        for name, function in functions.items():
            started = time.process_time()
            function()
            if turn:  # the first one warms up
                least[name] = min(least[name], 1000 * (time.process_time() - started))
    return {name: round(value, 3) for name, value in least.items()}


def times_by_size():
    """Time one pairing and one training step for several sizes of the batch."""
    torch.manual_seed(0)
    network, path = MLP(width=128), AffinePath(LINEAR)
    optimizer = torch.optim.AdamW(network.parameters())
    rows = {}
    for size in SIZES:
        x0, x1 = Gaussian(torch.zeros(2)).sample(size), two_moons().sample(size)
        cost = squared_distances(x0, x1)
        epsilon = 0.05 * cost.mean().item()

        def step(x0=x0, x1=x1, size=size):
            optimizer.zero_grad(set_to_none=True)
            flow_matching_loss(network, path, x0, x1, uniform_times(size)).backward()
            optimizer.step()

        rows[str(size)] = milliseconds(
            max(2, 2000 // size),
            exact=lambda x0=x0, x1=x1: exact_ot(x0, x1),
            without_prices=lambda x0=x0, x1=x1: linear_sum_assignment(cost_matrix(x0, x1)),
            sinkhorn=lambda cost=cost, epsilon=epsilon: sinkhorn_log(cost, epsilon, 100),
        ) | milliseconds(50, training=step)
        print(size, rows[str(size)], flush=True)
    return rows


def gathered(rows):
    """Return the rows of all devices, in order, and count the bytes that this one sends."""
    global sent
    sent += (DEVICES - 1) * rows.numel() * rows.element_size()
    parts = [torch.empty_like(rows) for _ in range(DEVICES)]
    dist.all_gather(parts, rows)
    return torch.cat(parts)


def own_share(x0, x1):
    """Pair the rows of this device."""
    return exact_ot(x0, x1)


def all_points(x0, x1):
    """Gather the points; every device pairs the whole batch and keeps its rows."""
    return exact_ot(gathered(x0), gathered(x1)).chunk(DEVICES)[dist.get_rank()]


def split_costs(x0, x1):
    """Gather the noise; every device computes its columns of the costs, the first one solves."""
    global sent
    noise, first = gathered(x0), dist.get_rank() == 0
    columns = squared_distances(noise, x1)
    parts = [torch.empty_like(columns) for _ in range(DEVICES)] if first else None
    dist.gather(columns, parts)
    order, orders = torch.empty(len(x1), dtype=torch.int64), None
    if first:
        orders = list(torch.from_numpy(assignment(torch.cat(parts, dim=1).numpy())).chunk(DEVICES))
        sent += (DEVICES - 1) * order.numel() * order.element_size()
    else:
        sent += columns.numel() * columns.element_size()
    dist.scatter(order, orders)
    return noise[order]


WAYS = {"own share": own_share, "all points": all_points, "split costs": split_costs}


def unexplained(x0, x1):
    """Return the mean over t of the variance of x₁ − x₀ that is not linear in x_t."""
    u = x1 - x0
    left = []
    for t in (torch.arange(20) + 0.5) / 20:
        x = (1 - t) * x0 + t * x1
        left.append((u * u).sum() - (u * x).sum() ** 2 / (x * x).sum())
    return (sum(left) / (20 * len(x0))).item()


def over_devices(value, operation):
    """Return the sum or the largest of the devices' numbers."""
    together = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(together, operation)
    return together.item()


def mean_over_devices(value):
    """Return the mean of the devices' numbers."""
    return over_devices(value, dist.ReduceOp.SUM) / DEVICES


def shared(dimension, size):
    """Pair batches of one size in every way; return times, bytes, costs and variances."""
    global sent
    share = size // DEVICES
    turns = PAIRS // size
    rows = {name: {"milliseconds": math.inf, "cost": [], "variance": []} for name in WAYS}
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(DEVICES * seed + dist.get_rank())
        pairs = {name: [] for name in WAYS}
        for _ in range(turns):
            x0, x1 = torch.randn(2, share, dimension, generator=generator)
            x1 = SPREAD * x1
            for name, way in WAYS.items():
                sent = 0
                dist.barrier()
                started = time.process_time()
                paired = way(x0, x1)
                busy = 1000 * (time.process_time() - started)
                busiest = over_devices(busy, dist.ReduceOp.MAX)
                rows[name]["milliseconds"] = min(rows[name]["milliseconds"], busiest)
                rows[name]["bytes"] = round(over_devices(sent, dist.ReduceOp.SUM))
                pairs[name].append((paired, x1))
        for name, parts in pairs.items():
            x0, x1 = (torch.cat(part) for part in zip(*parts, strict=True))
            cost = (x0 - x1).square().sum(dim=1).mean().item()
            rows[name]["cost"].append(mean_over_devices(cost))
            rows[name]["variance"].append(mean_over_devices(unexplained(x0, x1)))
    most, least = dimension * (1 + SPREAD**2), dimension * (1 - SPREAD) ** 2
    floor = math.pi / 2 * dimension * SPREAD  # of independent pairs
    for row in rows.values():
        saving = [100 * (most - cost) / (most - least) for cost in row.pop("cost")]
        left = [100 * variance / floor for variance in row.pop("variance")]
        row["milliseconds"] = round(row["milliseconds"], 3)
        row["saving_percent"] = [statistics.mean(saving), statistics.stdev(saving)]
        row["variance_percent"] = [statistics.mean(left), statistics.stdev(left)]
    return rows


def device(rank, folder, answers):
    """Run one of the devices; the first one puts the results into the queue."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=DEVICES)
    rows = {}
    for dimension in DIMENSIONS:
        rows[str(dimension)] = {}
        for size in SHARED_SIZES:
            found = rows[str(dimension)][str(size)] = shared(dimension, size)
            if rank == 0:
                print(dimension, size, found, flush=True)
    if rank == 0:
        answers.put(rows)
    dist.barrier()
    dist.destroy_process_group()


def main():
    """Run everything and write the results."""
    started = time.perf_counter()
    torch.set_num_threads(1)
    results = {
        "unit": "milliseconds of processor time, the least of several turns",
        "by_size": times_by_size(),
        "devices": DEVICES,
        "pairs": PAIRS,
        "spread": SPREAD,
    }
    answers = torch.multiprocessing.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(device, (folder, answers), nprocs=DEVICES)
    results["shared"] = answers.get()
    save("pairing_costs", results, SEEDS, started)


if __name__ == "__main__":
    main()
