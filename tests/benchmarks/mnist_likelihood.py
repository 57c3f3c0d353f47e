"""A network trained for the likelihood of digits, and its bits per dimension. Chapter 8.

    .venv/bin/python tests/benchmarks/mnist_likelihood.py

Starts from the published weights, with waves of the pixels as further inputs, whose weights are 0.
Three of four times have 1 − t log-uniform down to 0.001, the others are uniform. Writes
fmtutorial/data/mnist-likelihood.safetensors. One training; 200 test digits, 20 of each class.
"""

import time
from functools import partial

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
STEPS, BATCH, RATE, SEED = 14_000, 64, 1e-3, 3
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


def batches(digits, step):
    """A batch of the training loop, with other times."""
    batch, generator = digit_batch(digits, step, BATCH, SEED), torch.Generator(DEVICE)
    generator.manual_seed(2**30 + step)
    late = likelihood_times(BATCH, CLOSEST, generator)
    early = torch.rand(BATCH, generator=generator, device=DEVICE)
    chosen = torch.rand(BATCH, generator=generator, device=DEVICE) < 0.75
    return batch._replace(t=torch.where(chosen, late, early))


def fitted(network, digits):
    ema = EMA(network, 0.999)
    loss = digit_loss(network, partial(batches, digits), PRECISION)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=0.0, fused=True)
    scaler = GradScaler(DEVICE.type, enabled=PRECISION == torch.float16)
    mean = 0.0
    for step in train(network, loss, STEPS, None, ema, 100, 1.0, optimizer, scaler):
        mean += (step.loss - mean) / min(step.number, 500)
        if step.number % 500 == 0:
            print(step.number, round(mean, 5), flush=True)
        if step.number % 3500 == 0:
            few = Digits(*(part[::10].to(DEVICE) for part in small_digits("test")))
            bits = digit_bits(ema.network, few, 60)
            print("bits of 100 digits", bits.mean(), bits.std() / 10, flush=True)
    return ema.network.eval()


def main():
    torch.manual_seed(SEED)
    started, digits = time.perf_counter(), Digits(*(part.to(DEVICE) for part in mnist("train")))
    network = with_waves(load_weights("mnist").network)
    network = network.to(DEVICE, memory_format=torch.channels_last).requires_grad_(True).train()
    network = fitted(network, digits)
    minutes = (time.perf_counter() - started) / 60
    made = {"script": "tests/benchmarks/mnist_likelihood.py", "seed": SEED, "minutes": minutes}
    save_weights(PATH, network, "unet", ARGUMENTS, made | hardware(DEVICE))
    measure()


def measure():
    """Of the weights as they are published, in half precision."""
    started, (network, made) = time.perf_counter(), load_weights(PATH)
    network = network.to(DEVICE)
    test = Digits(*(part.to(DEVICE) for part in small_digits("test")))
    results = {"training_minutes": made["minutes"], "digits": {}}
    for steps, some in ((50, 10), (200, 10), (100, 5)):
        bits = digit_bits(network, Digits(test.images[::some], test.labels[::some]), steps)
        n = len(bits)
        row = {"n": n, "bits": bits.mean().item(), "standard_error": (bits.std() / n**0.5).item()}
        results["digits"][str(steps)] = row
        print(steps, row, flush=True)
    results["few_seeds_because"] = "one training takes an hour; the error is that of the digits"
    save("mnist_likelihood", results, [SEED], started, DEVICE)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
