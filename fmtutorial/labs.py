"""What every lab needs: its device, recorded numbers, stored results and their hardware."""

import base64
import json
import platform
from importlib import resources
from pathlib import Path
from typing import Any

import torch


def default_device() -> torch.device:
    """Return the GPU where CUDA finds one, the CPU elsewhere."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def record(name: str, value: str | float) -> None:
    """Store a value in the notebook's outputs, where the chapter's prose cites it by name.

    It is invisible in the notebook. Outputs are compared digit by digit, so round the value to
    what another machine reproduces.

    Args:
        name: key of the citation, unique within the lab.
        value: a number, or a string that is shown as it is.
    """
    from IPython.display import display  # only inside a notebook

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

    if not alt.strip():
        raise ValueError("alt is empty; say in a sentence what the picture shows")
    display(
        {kind: base64.b64encode(picture).decode()},
        raw=True,
        metadata={
            kind: {"alt": alt, "width": width},
            "scrapbook": {"name": name, "mime_prefix": ""},
        },
    )


def stored_results(name: str) -> dict[str, Any]:
    """Read the results of an experiment that is too long for a lab.

    Args:
        name: of a script in ``tests/benchmarks``, which wrote them.

    Returns:
        The results, with seeds, seconds, versions and hardware under "provenance".

    Raises:
        FileNotFoundError: there are no results of that name.
    """
    file = resources.files("fmtutorial") / "results" / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8"))


def hardware(device: torch.device) -> dict[str, str | int]:
    """Name the hardware and the versions that a result comes from."""
    cpu = platform.processor() or platform.machine()
    lines = Path("/proc/cpuinfo")
    if lines.exists():
        named = [row for row in lines.read_text().splitlines() if row.startswith("model name")]
        cpu = named[0].split(":")[1].strip() if named else cpu
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cpu": cpu,
        "threads": torch.get_num_threads(),
    }
