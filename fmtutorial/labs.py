"""What every lab needs and no chapter is about: its device, recorded numbers, stored results."""

import json
from importlib import resources
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
