"""What a few-steps contest is played with: hand-ins as files, and the house's own entries."""

import stat
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from fmtutorial.checkpoints import check_form
from fmtutorial.coursework.grading import Unreadable
from fmtutorial.images.batches import CLASSES
from fmtutorial.images.weights import load_weights
from fmtutorial.networks import UNet

SIZES = {"sampler.py": 2**13, "weights.safetensors": 2_500_000}
"""Bytes of each of the two files of a hand-in, at most."""

ARCHIVE = 2**23

NETWORK = {"labels": CLASSES}
"""Arguments of the ``UNet`` that every hand-in brings weights for."""

FLOW = """\
import torch

from fmtutorial.images import sampling


def sample(evaluate, noise, labels, budget):
    def field(x, t):
        return evaluate(x, t, labels)

    return sampling.sample(field, noise[:, 0], METHOD, STEPS).last
"""
JUMP = """\
def sample(evaluate, noise, labels, budget):
    x = noise[:, 0]
    return x + evaluate(x, 0.0, labels)
"""
HOUSE = {
    "euler": (FLOW.replace("METHOD", '"euler"').replace("STEPS", "budget"), "mnist"),
    "heun": (FLOW.replace("METHOD", '"heun"').replace("STEPS", "(budget + 1) // 2"), "mnist"),
    "one step": (JUMP, "mnist-one-step"),
}
"""Samplers of the house by name, each with the published weights that it is for."""


@dataclass(frozen=True)
class HandIn:
    """A sampler and the network that it may evaluate."""

    name: str
    source: str
    network: nn.Module


def find(folder: Path) -> list[Path]:
    """Return what was handed in: the archives and the folders in a folder, sorted by name.

    Raises:
        OSError: the folder cannot be read.
    """
    entries = sorted(p for p in folder.iterdir() if not p.name.startswith((".", "__MACOSX")))
    return [p for p in entries if p.is_dir() or p.suffix.lower() == ".zip"]


def read(path: Path) -> HandIn:
    """Read a hand-in: a folder, or a .zip, with sampler.py and weights.safetensors.

    Other files in it are not looked at. No code of it runs here.

    Raises:
        Unreadable: it is none; the text says why.
    """
    try:
        found = _unpacked(path) if path.suffix.lower() == ".zip" else _contents(path)
    except OSError as error:
        raise Unreadable(f"it cannot be read: {error.strerror}") from error
    for name, content in found.items():
        if len(content) > SIZES[name]:
            text = "it may hold a sampler, and no digits and no second network"
            why = text if name == "sampler.py" else "those of UNet(labels=10) have 2.1 MB"
            raise Unreadable(f"{name} has more than {SIZES[name]:,} bytes: {why}")
    try:
        source = found["sampler.py"].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable("sampler.py is no text in UTF-8") from error
    return HandIn(called(path), source, _network(found))


def called(path: Path) -> str:
    """Return the name of whoever handed this in: that of the folder, or of the archive."""
    return path.name if path.is_dir() else path.stem


def house(name: str) -> HandIn:
    """Return an entry of the house, by its name in ``HOUSE``."""
    source, weights = HOUSE[name]
    return HandIn(name, source, load_weights(weights).network)


def _contents(folder: Path) -> dict[str, bytes]:
    found = {}
    for name in SIZES:
        path = folder / name
        if not path.exists():
            raise Unreadable(f"there is no {name} in it")
        if not stat.S_ISREG(path.lstat().st_mode):
            raise Unreadable(f"{name} is no plain file")
        with path.open("rb") as file:
            found[name] = file.read(SIZES[name] + 1)
    return found


def _unpacked(path: Path) -> dict[str, bytes]:
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise Unreadable("it is no plain file")
    if status.st_size > ARCHIVE:
        raise Unreadable(f"it has more than {ARCHIVE:,} bytes")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [i for i in archive.namelist() if not i.startswith("__MACOSX")]
            return {name: _member(archive, names, name) for name in SIZES}
    except Unreadable:
        raise
    except Exception as error:  # whatever a damaged one does to zipfile
        raise Unreadable("it is no .zip, or is damaged") from error


def _member(archive: zipfile.ZipFile, names: list[str], wanted: str) -> bytes:
    """Return a file of an archive, whichever folder it is in there, but not more than it may be."""
    found = [name for name in names if name.rpartition("/")[2] == wanted]
    if len(found) != 1:
        raise Unreadable(f"there are {len(found) or 'no'} files {wanted} in it")
    with archive.open(found[0]) as file:
        return file.read(SIZES[wanted] + 1)


def _network(found: dict[str, bytes]) -> nn.Module:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        path.write_bytes(found[path.name])
        try:
            network = load_weights(path).network
            if not isinstance(network, UNet):
                raise ValueError(f"they are those of a {type(network).__name__}")
            check_form(dict(network.state_dict()), dict(UNet(**NETWORK).state_dict()))
        except ValueError as error:
            text = str(error).replace(str(path), path.name)
            wanted = "wanted is save_weights(…, UNet(labels=10), …)"
            raise Unreadable(f"these weights cannot be used, {wanted}: {text}") from error
    return network
