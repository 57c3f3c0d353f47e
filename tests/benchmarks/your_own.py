"""The emoji as data; and a U-Net trained on them for a stated time with the command.

    PYTHONPATH=. OMP_NUM_THREADS=1 python tests/benchmarks/your_own.py STEPS
    PYTHONPATH=. python tests/benchmarks/your_own.py emoji FOLDER  # fmtutorial/data/emoji.npz

The first trains with the command, as a reader would, and puts a picture of its samples after
about a sixteenth, a quarter and all of its steps into the results.

FOLDER is the unpacked npm package emoji-datasource-google 16.0.0. Chapter 15.
"""

import base64
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from provenance import save

import fmtutorial
from fmtutorial.images.cost import training_cost
from fmtutorial.images.run import Run
from fmtutorial.images.weights import load_weights

DATA = Path(fmtutorial.__file__).parent / "data"
TRAIN = "train --data emoji --width 32 --levels 3 --batch 32 --warm-up 100 --ema-decay 0.998"
COLUMNS, SIDE = 4, 34  # images of each class in the picture, and their pixels with a gap


def command(words):
    """Run a command of fmtutorial.images as a reader would."""
    subprocess.run([sys.executable, "-m", "fmtutorial.images", *words], check=True)


def measure(out):
    """Return how the weights of a run were made, and what the command finds of them."""
    weights, measured = out / "weights.safetensors", out / "measured.json"
    words = ["--weights", str(weights), "--samples", "189", "--out", str(measured)]
    command(["evaluate", *words])
    found = json.loads(measured.read_text())
    found = {key: found[key] for key in ("pixels", "nearest", "loss")}
    return load_weights(weights).provenance, found


def main(steps):
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "run"
        words = [*TRAIN.split(), "--steps", str(steps), "--sample-every", "50"]
        command([*words, "--out", str(out)])
        used = resource.getrusage(resource.RUSAGE_CHILDREN)  # Linux counts memory in kB
        run = Run.load(out / "checkpoint.pt", torch.device("cpu"))
        made, found = measure(out)
        there = sorted(int(file.stem.removeprefix("step-")) for file in out.glob("step-*.png"))
        marks = [share * run.settings.steps for share in (1 / 16, 1 / 4, 1)]
        shown = [min(there, key=lambda n: abs(n - mark)) for mark in marks]
        picture = draw([out / f"step-{step:06d}.png" for step in shown])
        cost = training_cost(run.settings)
    flops = cost.flops_per_image * run.settings.batch
    results = {
        "few_seeds_because": "one run is shown, not compared with others",
        "command": f"python -m fmtutorial.images {TRAIN}",
        "training": {
            "steps": run.settings.steps,
            "minutes": run.seconds / 60,
            "processor_minutes": used.ru_utime / 60,
            "gflop_per_second": flops * run.settings.steps / used.ru_utime / 1e9,
            "peak_bytes": used.ru_maxrss * 1024,
        },
        "made": made,
        "shown_steps": shown,
        "picture": picture,
        "cost": {
            "gflop_per_image": cost.flops_per_image / 1e9,
            "parameters": cost.parameters,
            "state_bytes": cost.state_bytes,
            "activation_bytes": cost.activation_bytes,
        },
        "measured": found,
    }
    save("your_own", results, [0], started)


def draw(files):
    """Put a few columns of three pictures of runs side by side, as a PNG in base64."""
    parts = []
    for file in files:
        with Image.open(file) as picture:
            parts.append(np.asarray(picture.convert("RGB"))[:, : COLUMNS * SIDE - 2])
    gap = np.full((len(parts[0]), 12, 3), 255, np.uint8)
    sheet = np.concatenate([parts[0], gap, parts[1], gap, parts[2]], axis=1)
    file = io.BytesIO()
    few_colours = Image.fromarray(sheet).quantize(256, dither=Image.Dither.NONE)
    few_colours.save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def write_emoji(folder):
    """Store the emoji on white, 32 pixels wide, shuffled, with their categories as classes."""
    listed = json.loads((folder / "emoji.json").read_text(encoding="utf-8"))
    # skin tones stand below the emoji they vary, and alone under "Component"
    found = sorted((e for e in listed if e["category"] != "Component"), key=lambda e: e["unified"])
    classes = sorted({emoji["category"] for emoji in found})
    images, labels = [], []
    for emoji in found:
        with Image.open(folder / "img" / "google" / "64" / emoji["image"]) as picture:
            drawn = picture.convert("RGBA")
        white = Image.new("RGBA", drawn.size, "white")
        small = Image.alpha_composite(white, drawn).convert("RGB").resize((32, 32), Image.BOX)
        images.append(np.asarray(small).transpose(2, 0, 1))
        labels.append(classes.index(emoji["category"]))
    # some pairs of flags are one picture, which must not stand on both sides of a split
    _, once = np.unique(np.stack(images), axis=0, return_index=True)
    order = np.random.default_rng(0).permutation(np.sort(once))
    np.savez_compressed(
        DATA / "emoji.npz",
        images=np.stack(images)[order],
        labels=np.array(labels)[order],
        names=np.array(classes),
    )
    print(f"{len(order)} emoji, {(DATA / 'emoji.npz').stat().st_size} bytes", classes)


if __name__ == "__main__":
    if sys.argv[1:2] == ["emoji"] and len(sys.argv) == 3:
        write_emoji(Path(sys.argv[2]))
    elif len(sys.argv) == 2:
        main(int(sys.argv[1]))
    else:
        sys.exit(__doc__)
