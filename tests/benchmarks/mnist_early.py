"""Two networks at the beginning of their training, one of them taught wrongly. Chapter 8.

    .venv/bin/python tests/benchmarks/mnist_early.py

Both take 300 steps on the 1000 digits shipped, with batches of 28. The wrong one multiplies the
28 times into the images without ``expand_time``, so that they fall on the 28 columns. Both are
sampled alike, from the same noise. The classifier's Fréchet distance, a distance of the pixels
and the loss on test digits say which is better; they do not agree. The first hundred digits of
the first seed are stored with the results, for the lab to look at and to measure again.
"""

import base64
import time
import warnings
import zlib
from functools import partial
from statistics import mean, stdev

import torch
from provenance import save

from fmtutorial.images.batches import digit_batch, digit_loss
from fmtutorial.images.classifier import score_digits
from fmtutorial.images.data import small_digits
from fmtutorial.images.sampling import sample_digits
from fmtutorial.metrics import energy_distance
from fmtutorial.networks import UNet
from fmtutorial.training import EMA, train

SEEDS, STEPS, BATCH, WIDTH, COUNT = [0, 1, 2], 300, 28, 32, 1000


def wrong_loss(network, batches):
    """The loss of chapter 8 with times that fall on the columns."""
    step = 0

    def loss():
        nonlocal step
        x0, x1, t, label = batches(step)
        step += 1
        x_t = (1 - t) * x0 + t * x1  # (28,) times (28, 1, 28, 28): PyTorch does not complain
        return (network(x_t, t, label) - (x1 - x0)).square().mean()

    return loss


def trained(loss_of, digits, seed):
    """Return the averaged network after so many steps."""
    torch.manual_seed(seed)
    network = UNet(width=WIDTH, labels=10).to(memory_format=torch.channels_last)
    ema = EMA(network, 0.98)
    loss = loss_of(network, partial(digit_batch, digits, size=BATCH, seed=seed))
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.0, fused=True)
    list(train(network, loss, STEPS, None, ema, 20, 1.0, optimizer))
    return ema.network.eval()


@torch.no_grad()
def test_loss(network, test):
    """The loss on right batches of test digits, per pixel."""
    batches = partial(digit_batch, test, size=100, seed=99, label_dropout=0.0)
    loss = digit_loss(network, batches)
    return mean(loss().item() for _ in range(10))


def measured(network, train_digits, test, seed):
    labels = torch.arange(COUNT) % 10
    images = torch.cat(list(sample_digits(network, labels, "heun", 10, seed=seed, batch=250)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is far: that is the point
        scores = score_digits(images, labels)
    return images, {
        "frechet": scores.frechet,
        "accuracy": scores.accuracy,
        "pixels": energy_distance(images / 127.5 - 1, train_digits.images / 127.5 - 1),
        "loss": test_loss(network, test),
    }


def main():
    started = time.perf_counter()
    digits, test = small_digits("train"), small_digits("test")
    results = {"steps": STEPS, "batch": BATCH, "width": WIDTH, "digits": COUNT, "networks": {}}
    for name, loss_of in (("wrong times", wrong_loss), ("right times", digit_loss)):
        found = []
        for seed in SEEDS:
            images, row = measured(trained(loss_of, digits, seed), digits, test, seed)
            found.append(row)
            if seed == SEEDS[0]:
                shown = base64.b64encode(zlib.compress(images[:100].numpy().tobytes(), 9)).decode()
            print(name, seed, found[-1], flush=True)
        results["networks"][name] = {
            key: {"mean": mean(row[key] for row in found), "sd": stdev(row[key] for row in found)}
            for key in found[0]
        } | {"hundred": shown}
    save("mnist_early", results, SEEDS, started)


if __name__ == "__main__":
    main()
