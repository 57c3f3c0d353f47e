"""A network trained for the likelihood of digits, and its bits per dimension. Chapter 8.

    .venv/bin/python tests/benchmarks/mnist_likelihood.py START MINUTES BATCH RATE

First from the published weights, START = mnist, with waves of the pixels as further inputs, whose
weights are 0; then on from its own, START = mnist-likelihood. Three of four times have 1 − t
log-uniform down to 0.001, the others are uniform. Takes the steps that fit into MINUTES, of BATCH
digits and with a rate that falls from RATE to 0. Writes
fmtutorial/data/mnist-likelihood.safetensors, with how it was made, twice trained or once. Bits of
test digits, as many of each class.
"""

import copy
import sys
import time
from functools import partial
from itertools import islice

import torch
from provenance import RESULTS, save
from torch.amp import GradScaler

from fmtutorial.images.batches import CLASSES, digit_batch, digit_loss
from fmtutorial.images.bits import digit_bits
from fmtutorial.images.data import Digits, mnist, small_digits
from fmtutorial.images.devices import fast_precision
from fmtutorial.images.weights import load_weights, save_weights
from fmtutorial.labs import default_device, hardware
from fmtutorial.losses import likelihood_times
from fmtutorial.networks import UNet
from fmtutorial.training import EMA, train

FREQUENCIES, CLOSEST = (5, 6, 7), 0.001
SEED = 3
DEVICE = default_device()
PRECISION = fast_precision(DEVICE)
PATH = RESULTS.parent / "data" / "mnist-likelihood.safetensors"
ARGUMENTS = {"labels": CLASSES, "frequencies": FREQUENCIES}


def with_waves(network):
    """The same function of x, with inputs beside it that a training may use."""
    new, state = UNet(**ARGUMENTS), network.state_dict()
    entering = torch.zeros_like(new.enter.weight)
    entering[:, : state["enter.weight"].shape[1]] = state["enter.weight"]
    new.load_state_dict(state | {"enter.weight": entering})
    return new


def batches(digits, size, step):
    """A batch of the training loop, with other times."""
    batch, generator = digit_batch(digits, step, size, SEED), torch.Generator(DEVICE)
    generator.manual_seed(2**30 + step)
    late = likelihood_times(size, CLOSEST, generator)
    early = torch.rand(size, generator=generator, device=DEVICE)
    chosen = torch.rand(size, generator=generator, device=DEVICE) < 0.75
    return batch._replace(t=torch.where(chosen, late, early))


def steps_of(network, digits, size, rate, steps, ema=None):
    """The training; on a GPU the network is compiled, which pays for large batches."""
    field = torch.compile(network) if DEVICE.type == "cuda" else network
    loss = digit_loss(field, partial(batches, digits, size), PRECISION)
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=0.0, fused=True)
    scaler = GradScaler(DEVICE.type, enabled=PRECISION == torch.float16)
    return train(network, loss, steps, None, ema, 100, 1.0, optimizer, scaler)


def steps_within(network, digits, size, rate, minutes):
    """How many steps fit: a copy takes thirty, of which the last twenty count."""
    marks = []
    for _ in islice(steps_of(copy.deepcopy(network), digits, size, rate, 1000), 30):
        marks.append(time.perf_counter())
    return max(int(60 * minutes * 20 / (marks[-1] - marks[9])), 1)


def main(start, minutes, size, rate):
    torch.manual_seed(SEED)
    started, digits = time.perf_counter(), Digits(*(part.to(DEVICE) for part in mnist("train")))
    network, before = load_weights(start)
    if start == "mnist":
        network, before = with_waves(network), {}
    network = network.to(DEVICE, memory_format=torch.channels_last).requires_grad_(True).train()
    steps = steps_within(network, digits, size, rate, minutes)
    ema, mean = EMA(network, 0.999), 0.0
    for step in steps_of(network, digits, size, rate, steps, ema):
        mean += (step.loss - mean) / min(step.number, 500)
        if step.number % 500 == 0:
            print(step.number, steps, round(mean, 5), flush=True)
    made = {
        "script": f"tests/benchmarks/mnist_likelihood.py {start} {minutes} {size} {rate}",
        "seed": SEED,
        "steps": steps,
        "minutes": (time.perf_counter() - started) / 60,
        "before": before,
    }
    save_weights(PATH, ema.network.eval(), "unet", ARGUMENTS, made | hardware(DEVICE))
    measure()


def measure():
    """Of the weights as they are published, in half precision; it computes in single precision.

    500 test digits, 50 of each class, and 100 of them with other numbers of steps.
    """
    torch.backends.cudnn.allow_tf32 = False
    started, (network, made) = time.perf_counter(), load_weights(PATH)
    network = network.to(DEVICE)
    test = Digits(*(part.to(DEVICE) for part in small_digits("test")))
    results, truth = {"made": made, "digits": {}}, None
    for steps, some in ((200, 2), (50, 10), (100, 10), (400, 10)):
        few = Digits(test.images[::some], test.labels[::some])
        bits = digit_bits(network, few, steps, batch=1000 if DEVICE.type == "cuda" else 100)
        truth = bits if truth is None else truth
        row, n = {"n": len(bits)}, len(bits) ** 0.5
        for name, value in (("bits", bits), ("less_200", bits - truth[:: some // 2])):
            row[name], row[f"{name}_error"] = value.mean().item(), (value.std() / n).item()
        results["digits"][str(steps)] = row
        print(steps, row, flush=True)
    results["few_seeds_because"] = "one training is measured; the error is that of the digits"
    save("mnist_likelihood", results, [SEED], started, DEVICE)


if __name__ == "__main__":
    torch.set_num_threads(2)
    if sys.argv[1:] == ["measure"]:
        measure()
    else:
        main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
