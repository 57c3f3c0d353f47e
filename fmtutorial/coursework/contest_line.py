"""The line between the contest and a sampler's process: what is asked and answered on it.

The contest sends a task, ``HEADER`` with rows and evaluations, labels, noise. The sampler's process
asks for evaluations, each for all rows, and is answered by velocities; then it sends its images, or
why there are none. All sizes follow from the rows, so that neither side waits for what the other
has announced.
"""

import os
import struct

import torch
from torch import Tensor

HEADER = struct.Struct("<II")
EVALUATE = b"e"
"""Before x, times and labels: a velocity is wanted."""

IMAGES = b"i"
"""Before images: the task is done."""

FAILED = b"f"
"""Before a reason: there are no images."""

TEXT = 500
"""Bytes of a reason, always; spaces fill it up."""


def put(line: int, *parts: bytes | Tensor) -> None:
    """Write bytes and tensors.

    Raises:
        OSError: nobody listens any more.
    """
    for part in parts:
        left = memoryview(part.contiguous().numpy().tobytes() if isinstance(part, Tensor) else part)
        while left:
            left = left[os.write(line, left[: 2**20]) :]


def get(line: int, size: int) -> bytearray:
    """Read so many bytes.

    Raises:
        EOFError: there are no more.
    """
    found = bytearray()
    while len(found) < size:
        new = os.read(line, min(size - len(found), 2**20))
        if not new:
            raise EOFError
        found += new
    return found


def get_tensor(line: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """Read a tensor of a shape and type.

    Raises:
        EOFError: there are too few bytes.
    """
    count = torch.Size(shape).numel()
    return torch.frombuffer(get(line, count * dtype.itemsize), dtype=dtype).reshape(shape)
