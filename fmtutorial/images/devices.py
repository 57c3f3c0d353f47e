"""What a device is, and in which precision it is fastest. Chapter 8."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from fmtutorial.fields import check_callable, check_same_shape

PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def check_device(device: torch.device) -> None:
    """Raise unless it is a device.

    Raises:
        TypeError: it is something else, such as its name.
    """
    if not isinstance(device, torch.device):
        raise TypeError(f'device is {device!r:.60}; pass a torch.device, as torch.device("cpu")')


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager:
    """Return a context in which networks on this device run in this precision.

    Raises:
        ValueError: it is none of ``PRECISIONS``.
    """
    check_device(device)
    _check(precision)
    return torch.autocast(device.type, precision, enabled=precision != torch.float32)


def in_precision(network: Callable[..., Tensor], precision: torch.dtype) -> Callable[..., Tensor]:
    """Return v(x, t, label) that runs the network in this precision and answers in float32.

    Raises:
        ValueError: it is none of ``PRECISIONS``.
    """
    check_callable(network, "network")
    _check(precision)

    def single(x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        with autocast(x.device, precision):
            v = network(x, t, label)
        check_same_shape(v, x, "v, x")
        return v.float()

    return single


def precision_named(name: str, device: torch.device) -> torch.dtype:
    """Return the precision of a name in ``PRECISIONS``, or the fastest one here for "auto".

    Raises:
        ValueError: an unknown name.
    """
    check_device(device)
    if name == "auto":
        return fast_precision(device)
    if name not in list(PRECISIONS):
        raise ValueError(f'unknown precision "{name}"; choose from auto, {", ".join(PRECISIONS)}')
    return PRECISIONS[name]


def _check(precision: torch.dtype) -> None:
    if precision not in PRECISIONS.values():
        known = ", ".join(map(str, PRECISIONS.values()))
        raise ValueError(f"precision is {precision!r}; choose from {known}")


def fast_precision(device: torch.device) -> torch.dtype:
    """Return the precision in which a device trains fastest, of those that are safe to train in.

    bfloat16 where the hardware multiplies it, else float16 on GPUs, which needs a scaler of the
    loss, else float32. On a large GPU it gains nothing with small batches, whose operations take
    longer to start than to do: the digits of chapter 8 were as fast in float32 there.
    """
    check_device(device)
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)  # older ones emulate it
        return torch.bfloat16 if native else torch.float16
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        able = torch.cpu.get_capabilities()
        if able.get("amx_bf16") or able.get("avx512_bf16"):
            return torch.bfloat16
    return torch.float32
