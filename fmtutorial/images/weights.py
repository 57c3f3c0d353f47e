"""Trained networks as files: safetensors, with what is needed to build the network again.

Chapter 8.
"""

import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from fmtutorial.checkpoints import as_path, check_form, writing
from fmtutorial.networks import DiT, UNet

NETWORKS = {"unet": UNet, "dit": DiT}
PUBLISHED = (
    *("mnist", "mnist-guided", "mnist-reflow", "mnist-one-step"),
    *("mnist-matched", "mnist-likelihood", "emoji"),
)
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
        TypeError: a value is not plain.
        ValueError: a weight is not finite in half precision, or kind and arguments do not build
            this network.
    """
    if not isinstance(network, nn.Module):
        raise TypeError(f"network is a {type(network).__name__}; pass a UNet or DiT")
    try:
        text = json.dumps({"kind": kind, "arguments": arguments, "provenance": provenance})
    except TypeError as error:
        raise TypeError(f"arguments and provenance must be plain values: {error}") from error
    tensors = {
        name: w.detach().half().cpu().contiguous() for name, w in network.state_dict().items()
    }
    if not all(bool(w.isfinite().all()) for w in tensors.values()):
        raise ValueError("a weight is not finite, or too large for half precision")
    _describe(text, tensors)
    with writing(path) as file:
        file.write(save(tensors, {"fmtutorial": text, "sha256": _checksum(text, tensors)}))


def load_weights(source: str | Path) -> Weights:
    """Return a network in evaluation mode, on the CPU, in single precision.

    Args:
        source: see ``read_weights``.

    Raises:
        FileNotFoundError: there is neither such a file nor such a name.
        ValueError: see ``read_weights``.
    """
    described, tensors = read_weights(source)
    with torch.device("cpu"):
        network = NETWORKS[described["kind"]](**described["arguments"])
    network.load_state_dict(tensors)
    return Weights(network.requires_grad_(False).eval(), described["provenance"])


def read_weights(source: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the kind, arguments and provenance of a network, and its weights in half precision.

    Args:
        source: a file of ``save_weights``, or one of the names in ``PUBLISHED``.

    Raises:
        FileNotFoundError: there is neither such a file nor such a name.
        ValueError: the file is truncated or damaged, not one of ``save_weights``, or holds other
            weights than those of the network that it describes.
    """
    path = as_path(source)
    if str(source) in PUBLISHED:
        path = Path(str(resources.files("fmtutorial") / "data" / f"{source}.safetensors"))
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}, which is none of {', '.join(PUBLISHED)}")
    try:
        with safe_open(path, "pt") as file:
            text, checksum = _metadata(file.metadata())
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        described = _describe(text, tensors)
        if checksum not in (None, _checksum(text, tensors)):
            raise ValueError("its checksum is wrong")
    except Exception as error:
        raise ValueError(
            f"{path} holds no weights of fmtutorial, or is truncated: {error}"
        ) from error
    return described, tensors


def _metadata(found: dict[str, str] | None) -> tuple[str, str | None]:
    """Return the description in a file's metadata, and its checksum, which older files lack."""
    found = dict(found or {})
    text, checksum = found.pop("fmtutorial", None), found.pop("sha256", None)
    if text is None or found:
        raise ValueError(f"it has {sorted(found) or 'no metadata'} where its description should be")
    return text, checksum


def _describe(text: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return a description, if it is one of these tensors.

    Raises:
        TypeError: an argument of the network is of another type.
        ValueError: it says something else, or the tensors are not those of such a network, finite
            and in half precision.
    """
    described = json.loads(text)
    wanted = {"kind": str, "arguments": dict, "provenance": dict}
    if type(described) is not dict or {k: type(v) for k, v in described.items()} != wanted:
        raise ValueError("its description is not one of kind, arguments and provenance")
    kind, arguments = described["kind"], described["arguments"]
    if kind not in NETWORKS:
        raise ValueError(f'unknown kind "{kind}"; choose from {", ".join(NETWORKS)}')
    # before it is built: each layer has weights of its own, and no size is above their number
    most, layers = sum(w.numel() for w in tensors.values()), len(tensors)
    for name, value in arguments.items():
        for size in value if isinstance(value, list | tuple) else [value]:
            if isinstance(size, int | float) and size > (
                layers if name in ("depth", "levels") else most
            ):
                raise ValueError(f"{name}={value} is a larger network than there are weights for")
    if not isinstance(arguments.get("checkpointing", False), bool):
        raise TypeError(f"checkpointing is {arguments['checkpointing']!r}; pass True or False")
    with torch.device("meta"):
        network = NETWORKS[kind](**arguments).half()
    check_form(tensors, dict(network.state_dict()), "its network")
    return described


def _checksum(text: str, tensors: dict[str, Tensor]) -> str:
    """Return a checksum of a description and of all that it describes."""
    content = hashlib.sha256(text.encode())
    for name, w in sorted(tensors.items()):
        content.update(f"{name} {tuple(w.shape)} {w.dtype}".encode() + w.numpy().tobytes())
    return content.hexdigest()
