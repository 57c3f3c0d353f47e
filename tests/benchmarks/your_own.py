"""The emoji as data; and a U-Net trained on them for a stated time with the command.

    PYTHONPATH=. python tests/benchmarks/your_own.py emoji FOLDER  # fmtutorial/data/emoji.npz

FOLDER is the unpacked npm package emoji-datasource-google 16.0.0. Chapter 15.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import fmtutorial

DATA = Path(fmtutorial.__file__).parent / "data"


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
    else:
        sys.exit(__doc__)
