"""Train the classifier that measures generated digits, and draw the small set of digits.

    .venv/bin/python tests/benchmarks/classifier.py

Split: 55 000 of MNIST's training digits to train on, the other 5000 to validate, drawn at random
(its last 5000 are by other writers than the rest), and its 10 000 test digits to test. Eight
epochs, each digit moved by up to two pixels. Three seeds; the first is shipped as
fmtutorial/data/classifier.safetensors, with the moments and spreads of its features on all 60 000
training digits. fmtutorial/data/digits.npz holds 100 digits of each class from either split.
"""

import time

import numpy as np
import provenance
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from fmtutorial.images.classifier import DigitClassifier, class_spread
from fmtutorial.images.data import Digits, mnist
from fmtutorial.metrics import frechet_between, moments

SEEDS = [0, 1, 2]
EPOCHS, BATCH, RATE = 8, 128, 3e-3
DATA = provenance.RESULTS.parent / "data"


def moved(images, generator):
    """Move each image by up to two pixels in each direction."""
    n = len(images)
    padded = F.pad(images, (2, 2, 2, 2))
    down, right = torch.randint(0, 5, (2, n, 1, 1), generator=generator)
    rows, columns = torch.arange(28)[:, None] + down, torch.arange(28) + right
    return padded[torch.arange(n)[:, None, None], rows, columns]


def trained(digits, seed):
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = DigitClassifier()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    per_epoch = len(digits.images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, EPOCHS * per_epoch)
    for _ in range(EPOCHS):
        order = torch.randperm(len(digits.images), generator=generator)
        for rows in order[: per_epoch * BATCH].split(BATCH):
            logits = network(moved(digits.images[rows], generator))
            loss = F.cross_entropy(logits, digits.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def batched(function, images):
    with torch.no_grad():
        return torch.cat([function(part) for part in images.split(1000)])


def accuracy(network, digits):
    return (batched(network, digits.images).argmax(dim=1) == digits.labels).double().mean().item()


def small(digits, generator):
    """Draw 100 digits of each class."""
    order = torch.randperm(len(digits.labels), generator=generator)
    rows = torch.cat([order[digits.labels[order] == c][:100] for c in range(10)])
    rows = rows[torch.randperm(1000, generator=generator)]
    return digits.images[rows].numpy(), digits.labels[rows].byte().numpy()


def save_small(train, test):
    generator = torch.Generator().manual_seed(0)
    arrays = {}
    for split, digits in (("train", train), ("test", test)):
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = small(digits, generator)
    np.savez_compressed(DATA / "digits.npz", **arrays)


def main():
    started = time.perf_counter()
    train, test = mnist("train"), mnist("test")
    save_small(train, test)
    order = torch.randperm(60_000, generator=torch.Generator().manual_seed(0))
    fitted, held_out = (Digits(*(part[rows] for part in train)) for rows in order.split(55_000))
    results = {"validation": [], "test": [], "floor": [], "held_out_floor": []}
    for seed in SEEDS:
        network = trained(fitted, seed)
        features = {
            name: moments(batched(network.features, digits.images))
            for name, digits in (("all", train), ("held_out", held_out), ("test", test))
        }
        results["validation"].append(accuracy(network, held_out))
        results["test"].append(accuracy(network, test))
        results["floor"].append(frechet_between(features["test"], features["all"]))
        results["held_out_floor"].append(frechet_between(features["held_out"], features["all"]))
        print(seed, {name: values[-1] for name, values in results.items()}, flush=True)
        if seed == SEEDS[0]:
            spread = class_spread(batched(network.features, train.images), train.labels)
            reference = features["all"]._asdict() | {"spread": spread}
            reference = {f"reference.{name}": value for name, value in reference.items()}
            save_file(network.state_dict() | reference, DATA / "classifier.safetensors")
    provenance.save("classifier", results, SEEDS, started)


if __name__ == "__main__":
    main()
