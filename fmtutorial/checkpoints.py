"""Files that are written whole or not at all, and the checkpoints of a training run. Chapter 3."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch


@contextmanager
def writing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file that takes its place when it is complete, whatever happens before.

    It is written beside its place, as NAME.partial-XXXX, and renamed at the end. After an error
    it is removed and the former file is still there; only a killed process leaves it behind.

    Args:
        path: of the file; its folder must exist.

    Raises:
        ValueError: something else than a file is there.
        FileNotFoundError: its folder is missing.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is there and is no file: choose another name")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} for {path.name}: make it first")
    partial = path.with_name(f"{path.name}.partial-{secrets.token_hex(4)}")
    try:
        with open(partial, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Write tensors, numbers and strings to one file, whole or not at all.

    Args:
        path: where to; its folder must exist.
        state: state dictionaries and plain values by name.
    """
    with writing(path) as file:
        torch.save(state, file)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read what ``save_checkpoint`` wrote, onto the CPU, without running code from the file.

    Raises:
        ValueError: the file is truncated, foreign, or holds more than tensors and plain values.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} is not a checkpoint of fmtutorial, or it is truncated: {error}"
        ) from error
