"""Files that are written whole or not at all, and the checkpoints of a training run. Chapter 3."""

import hashlib
import io
import math
import os
import secrets
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from fmtutorial.fields import check_kind

MARK = b"fmtutorial sha256:"
"""What a checkpoint has after its content, followed by the checksum of that."""


def as_path(path: str | Path) -> Path:
    """Return a path, or raise unless it is one.

    Raises:
        TypeError: it is neither a string nor a path.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"the path is {path!r:.60}; pass a string or a pathlib.Path")
    return Path(path)


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
    path = as_path(path)
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
    """Write tensors, numbers and strings to one file, whole or not at all, with a checksum.

    Args:
        path: where to; its folder must exist.
        state: state dictionaries and plain values by name.
    """
    check_kind(state, dict, "state")
    content = io.BytesIO()
    torch.save(state, content)
    with writing(path) as file:
        file.write(content.getbuffer())
        file.write(MARK + hashlib.sha256(content.getbuffer()).digest())


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read what ``save_checkpoint`` wrote, onto the CPU, without running code from the file.

    Raises:
        ValueError: the file is truncated, damaged, foreign, without a checksum, or holds more
            than tensors and plain values.
        FileNotFoundError: there is no such file.
    """
    path = as_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        return torch.load(_checked(path), map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:
        raise ValueError(
            f"{path} is not a checkpoint of fmtutorial, or it is truncated: {error}"
        ) from error


def _checked(path: Path) -> io.BytesIO:
    """Return what a file holds before its checksum, if that is right and nothing is compressed."""
    tail = len(MARK) + hashlib.sha256().digest_size
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END) - tail
        file.seek(max(0, end))
        if file.read(len(MARK)) != MARK:
            raise ValueError("no checksum at its end: an older version may have written it")
        digest = file.read()
        file.seek(0)
        content = io.BytesIO(file.read(end))
    if hashlib.sha256(content.getbuffer()).digest() != digest:
        raise ValueError("its checksum is wrong")
    with zipfile.ZipFile(content) as archive:  # a small file must not become a large state
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("it is compressed")
    content.seek(0)
    return content


def check_form(found: object, expected: object, name: str = "the state") -> None:
    """Raise unless a state has the form of another: names, types, shapes; and is finite.

    Args:
        found: nested dictionaries of tensors and plain values, such as ``load_checkpoint`` reads.
        expected: of the same form; its tensors may be on the device "meta".
        name: of the state, for the message.

    Raises:
        ValueError: the message names the first entry that differs.
    """
    if type(found) is not type(expected):
        raise ValueError(f"{name} is a {type(found).__name__}, not a {type(expected).__name__}")
    if isinstance(expected, dict):
        if missing := [str(key) for key in expected if key not in found]:
            raise ValueError(f"{name} lacks {', '.join(missing[:3])}")
        if surplus := [str(key) for key in found if key not in expected]:
            raise ValueError(f"{name} should not have {', '.join(surplus[:3])}")
        for key, value in expected.items():
            check_form(found[key], value, f"{name}, {key}")
    elif isinstance(expected, Tensor):
        plain = found.layout == torch.strided and not found.is_meta and not found.is_nested
        if not plain or found.shape != expected.shape or found.dtype != expected.dtype:
            shape = tuple(found.shape) if plain else found.layout
            wanted = f"{expected.dtype} of shape {tuple(expected.shape)}"
            raise ValueError(f"{name} is {found.dtype} of shape {shape}, not {wanted}")
        if not bool(found.isfinite().all()):
            raise ValueError(f"{name} is not finite")
    elif isinstance(expected, float) and not math.isfinite(found):
        raise ValueError(f"{name} is {found}")
