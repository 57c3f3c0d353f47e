"""Trained networks as files: safetensors, with what is needed to build the network again.

Chapter 8.
"""

import json
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from fmtutorial.checkpoints import writing
from fmtutorial.networks import DiT, UNet

NETWORKS = {"unet": UNet, "dit": DiT}
PUBLISHED = ("mnist", "mnist-reflow", "mnist-one-step")
"""Names of the weights that come with the package."""


class Weights(NamedTuple):
    """A network ready to sample from, and where it comes from."""

    network: nn.Module
    provenance: dict[str, Any]


def save_weights(
    path: str | Path,
    network: nn.Module,
    kind: str,
    arguments: dict[str, Any],
    provenance: dict[str, Any],
) -> None:
    """Write a network's weights in half precision, and how to build it, to one file.

    Args:
        path: where to.
        network: on any device.
        kind: "unet" or "dit".
        arguments: with which the network was built; plain values.
        provenance: plain values that say where the weights come from.

    Raises:
        ValueError: a weight is not finite in half precision.
    """
    described = {"kind": kind, "arguments": arguments, "provenance": provenance}
    tensors = {
        name: w.detach().half().cpu().contiguous() for name, w in network.state_dict().items()
    }
    if not all(bool(w.isfinite().all()) for w in tensors.values()):
        raise ValueError("a weight is not finite, or too large for half precision")
    with writing(path) as file:
        file.write(save(tensors, {"fmtutorial": json.dumps(described)}))


def load_weights(source: str | Path) -> Weights:
    """Return a network in evaluation mode, on the CPU, in single precision.

    Args:
        source: a file of ``save_weights``, or one of the names in ``PUBLISHED``.

    Raises:
        FileNotFoundError: there is neither such a file nor such a name.
        ValueError: the file is truncated, or not one of ``save_weights``.
    """
    path = Path(source)
    if str(source) in PUBLISHED:
        path = Path(str(resources.files("fmtutorial") / "data" / f"{source}.safetensors"))
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}, which is none of {', '.join(PUBLISHED)}")
    try:
        with safe_open(path, "pt") as file:
            described = json.loads(file.metadata()["fmtutorial"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        with torch.device("cpu"):
            network = NETWORKS[described["kind"]](**described["arguments"])
        network.load_state_dict(tensors)
        weights = Weights(network.requires_grad_(False).eval(), described["provenance"])
    except Exception as error:
        raise ValueError(
            f"{path} holds no weights of fmtutorial, or is truncated: {error}"
        ) from error
    return weights
