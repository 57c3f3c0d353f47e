"""What every lab needs: its device, recorded numbers, stored results and their hardware."""

import base64
import json
import math
import platform
from importlib import resources
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fmtutorial.fields import check_count, check_number


def default_device() -> torch.device:
    """Return the GPU where CUDA finds one, the CPU elsewhere."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def use_default_device() -> torch.device:
    """Let PyTorch make tensors on ``default_device()`` unless told otherwise, and return it.

    It makes them on the CPU anyway, and to set it costs: every operation then takes a way through
    Python, and a training step of a small network 1.4 times as long.
    """
    device = default_device()
    if device.type != "cpu":
        torch.set_default_device(device)
    return device


def record(name: str, value: str | float) -> None:
    """Store a value in the notebook's outputs, where the chapter's prose cites it by name.

    It is invisible in the notebook. Outputs are compared digit by digit, so round the value to
    what another machine reproduces.

    Args:
        name: key of the citation, unique within the lab.
        value: a number, or a string that is shown as it is.
    """
    from IPython.display import display  # only inside a notebook

    _check_text(name, "name", "a key that the prose can cite")
    if not isinstance(value, str):
        check_number(value, "value")
        # NumPy's numbers write their type in front
        value = int(value) if isinstance(value, Integral) else float(value)
    prefix = "application/papermill.record/"
    display(
        {f"{prefix}text/plain": repr(value)},
        raw=True,
        metadata={"scrapbook": {"name": name, "mime_prefix": prefix}},
    )


def display_picture(kind: str, picture: bytes, width: int, name: str, alt: str) -> None:
    """Show an encoded picture in a notebook, with its alternative text.

    Args:
        kind: its media type, "image/png" or "image/gif".
        picture: the bytes of the file.
        width: at which it is shown, in screen pixels.
        name: key under which the book's chapters cite the picture, unique within the lab.
        alt: what it shows, for those who do not see it.

    Raises:
        ValueError: there is no alternative text.
    """
    from IPython.display import display  # only inside a notebook

    if kind not in ("image/png", "image/gif"):
        raise ValueError(f"kind is {kind!r}; choose from image/png, image/gif")
    if not isinstance(picture, bytes):
        raise TypeError(f"picture is a {type(picture).__name__}; pass the bytes of the file")
    check_count(width, "width")
    check_caption(name, alt)
    display(
        {kind: base64.b64encode(picture).decode()},
        raw=True,
        metadata={
            kind: {"alt": alt, "width": width},
            "scrapbook": {"name": name, "mime_prefix": ""},
        },
    )


def check_caption(name: str, alt: str) -> None:
    """Raise unless a picture has a name and an alternative text.

    Raises:
        TypeError: one of them is not a string.
        ValueError: one of them is empty.
    """
    _check_text(name, "name", "a key that the prose can cite")
    _check_text(alt, "alt", "in a sentence what the picture shows")


def _check_text(value: str, name: str, wanted: str) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}; pass {wanted}")
    if not value.strip():
        raise ValueError(f"{name} is empty; say {wanted}")


def stored_results(name: str) -> dict[str, Any]:
    """Read the results of an experiment that is too long for a lab.

    Args:
        name: of a script in ``tests/benchmarks``, which wrote them.

    Returns:
        The results, with seeds, seconds, versions and hardware under "provenance".

    Raises:
        FileNotFoundError: there are no results of that name.
    """
    _check_text(name, "name", "which script of tests/benchmarks")
    file = resources.files("fmtutorial") / "results" / f"{name}.json"
    if not file.is_file():
        raise FileNotFoundError(f"there are no stored results {name}.json")
    return json.loads(file.read_text(encoding="utf-8"))


def shakespeare_words() -> list[str]:
    """Return 8107 words of 3 to 8 letters from plays of Shakespeare, in order of the alphabet.

    Those that the plays write in small letters, and without an apostrophe. Chapter 12.
    """
    file = resources.files("fmtutorial") / "data" / "words.txt"
    return file.read_text(encoding="ascii").split()


def airports() -> Tensor:
    """Return the world's airports with a code of IATA as unit vectors, shape (7884, 3), shuffled.

    From the Python package airportsdata; latitude and longitude to 0.006°. Chapter 14.
    """
    file = resources.files("fmtutorial") / "data" / "airports.npz"
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        angles = torch.from_numpy(stored["angles"].astype(np.float32)) * (math.pi / 2**15)
    latitude, longitude = angles.unbind(dim=1)
    x, y = latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin()
    return functional.normalize(torch.stack([x, y, latitude.sin()], dim=1))


def hardware(device: torch.device) -> dict[str, str | int]:
    """Name the hardware and the versions that a result comes from."""
    if not isinstance(device, torch.device):
        raise TypeError(f"device is {device!r}; pass a torch.device")
    cpu = platform.processor() or platform.machine()
    lines = Path("/proc/cpuinfo")
    if lines.exists():
        named = [row for row in lines.read_text().splitlines() if row.startswith("model name")]
        cpu = named[0].split(":")[1].strip() if named else cpu
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu": cpu,
        "threads": torch.get_num_threads(),
    }
