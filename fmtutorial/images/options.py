"""The options of the command, each read and checked before any work begins. Chapter 8."""

import argparse
import dataclasses
import os
import tempfile
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from fmtutorial.fields import check_number
from fmtutorial.images.devices import PRECISIONS, precision_named
from fmtutorial.images.sampling import SAMPLERS
from fmtutorial.images.settings import CHOICES, MOST_STEPS, REAL, Settings, check_setting
from fmtutorial.images.sources import NAMES
from fmtutorial.images.weights import PUBLISHED
from fmtutorial.labs import default_device
from fmtutorial.likelihood import METHODS


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> None:
        """Leave with code 2."""
        self.exit(2, f"{self.prog}: error: {one_line(message)} (see --help)\n")


def one_line(text: str) -> str:
    """Return a text without its line breaks, and without its end if it is very long."""
    return textwrap.shorten(text, 1000, placeholder=" …")


def number(kind: type, check: Callable[[float], None]) -> Callable[[str], float]:
    """Return what reads a number of a kind, int or float, for argparse."""

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            whole = "whole " if kind is int else ""
            raise argparse.ArgumentTypeError(f"{text!r} is not a {whole}number") from None
        try:
            check(value)
        except OverflowError:
            raise argparse.ArgumentTypeError("it is far too large") from None
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        return value

    return read


def within(low: float, high: float, without_low: bool = False) -> Callable[[str], float]:
    """Return what reads a number from an interval: a whole one if ``low`` is of type int."""
    check = partial(check_number, name="it", low=low, high=high, without_low=without_low)
    return number(type(low), check)


def device_of(name: str) -> torch.device:
    """Return a device that can be used here, or raise what argparse understands."""
    try:
        device = torch.device(name)
        if device.type == "cuda":  # not touched: with torchrun it may belong to another process
            found = torch.cuda.device_count() if torch.cuda.is_available() else 0
            if (device.index or 0) >= found:
                raise ValueError(f"PyTorch finds {found} GPUs for CUDA")
        elif device.type == "cpu" and device.index:
            raise ValueError('the CPU is one device, named "cpu"')
        else:
            torch.zeros(1, device=device).cpu()
            torch.Generator(device).manual_seed(0)
    except Exception as error:  # of many kinds: each device has its own
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise argparse.ArgumentTypeError(f"{name!r} cannot be used here: {why}") from error
    return device


def path_of(text: str) -> Path:
    """Return a path, or raise what argparse understands."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} names no file")
    return Path(text)


def source_of(text: str) -> str:
    """Return the name or path of images that are there, or raise what argparse understands."""
    if text in NAMES:
        return text
    path = path_of(text)
    try:
        if path.is_dir() or (path.suffix.lower() in (".npy", ".npz") and path.is_file()):
            return text
    except OSError:  # too long for a name
        pass
    known = ", ".join(NAMES)
    raise argparse.ArgumentTypeError(f"{text!r} is no folder, no .npy or .npz, and none of {known}")


def folder_of(text: str) -> Path:
    """Return the path of a folder, there or to be made, or raise what argparse understands."""
    path = path_of(text)
    try:
        there = [part for part in (path, *path.parents) if part.exists()]
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text!r} names no folder: {error.strerror}") from error
    if not there[0].is_dir():
        raise argparse.ArgumentTypeError(f"{text!r}: {there[0]} is there and is no folder")
    return path


def writable(text: str, suffixes: tuple[str, ...] = ()) -> Path:
    """Return the path of a file that can be written, or raise what argparse understands."""
    path = path_of(text)
    if suffixes and path.suffix.lower() not in suffixes:
        raise argparse.ArgumentTypeError(f"{text!r} must end in {' or '.join(suffixes)}")
    try:
        if text.endswith(("/", os.sep)) or (path.exists() and not path.is_file()):
            raise argparse.ArgumentTypeError(f"{text!r} is no file")
        # as long a name as that of the file while it is written
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f"{path.name}.partial-"):
            return path
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: {why}") from error


def setting(name: str) -> Callable[[str], float]:
    """Return what reads a number of ``Settings``."""
    return number(float if name in REAL else int, partial(check_setting, name))


def settings_asked(o: argparse.Namespace) -> Settings:
    """Return the settings that were asked for, with the precision of the device."""
    names = [field.name for field in dataclasses.fields(Settings)]
    asked = {name: getattr(o, name) for name in names if hasattr(o, name)}
    precision = str(precision_named(o.precision, o.device)).removeprefix("torch.")
    return Settings(**asked | {"precision": precision})


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; what is wrong with it ends the process with one line and code 2.

    Args:
        arguments: words of the command line, or None for those of the process.

    Returns:
        The options; ``command`` is "train", "sample" or "evaluate".
    """
    about = "Train a flow on MNIST or your own images, sample from it, measure it."
    parser = Parser(prog="python -m fmtutorial.images", description=about)
    commands = parser.add_subparsers(
        required=True, dest="command", metavar="train | sample | evaluate"
    )

    def command(name: str, text: str, precision: str = "float32") -> Callable:
        form = argparse.ArgumentDefaultsHelpFormatter
        add = commands.add_parser(
            name, help=text, description=text, formatter_class=form
        ).add_argument
        add("--device", type=device_of, default=default_device(), help="cpu, cuda, cuda:1, …")
        add("--seed", type=setting("seed"), default=0, help="of every random draw")
        kinds, auto = ["auto", *PRECISIONS], "auto: the fastest safe one here"
        add("--precision", choices=kinds, default=precision, help=auto)
        return add

    text = "Train a network. Under torchrun several devices share each batch."
    add = command("train", text, "auto")
    add("--out", type=folder_of, default=Path("mnist-run"), help="folder of the run")
    add("--resume", action="store_true", help="go on with the run in --out and its settings")
    minutes = within(0.0, 1e6, without_low=True)
    add("--budget", type=minutes, help="minutes: sets --steps to what fits, by taking a few")
    text = "print parameters, operations, memory and time, and leave"
    add("--plan", action="store_true", help=text)
    every = within(1, MOST_STEPS)
    add("--save-every", type=every, default=500, help="steps between checkpoints")
    add("--sample-every", type=every, default=1000, help="steps between pictures")
    for name, text in (
        ("data", f"a folder, a file .npy or .npz, or one of {', '.join(NAMES)}"),
        ("size", "crop the centre of each image to a square and resize it to so many pixels"),
        ("network", "kind of network"),
        ("width", "of the network, in channels; left out: 64 for unet, 128 for dit"),
        ("levels", "resolutions of unet, 2 or more; left out: 2, for 28×28 pixels"),
        ("steps", "of training"),
        ("batch", "images in a step, over all devices together"),
        ("learning-rate", "of AdamW, at its peak"),
        ("warm-up", "steps up to the peak; half a cosine leads down to 0"),
        ("max-gradient-norm", "a longer gradient is shortened to this"),
        ("ema-decay", "of the moving average of the weights"),
        ("pairing", "of noise with images in a batch"),
        ("times", "distribution of the time; likelihood goes closest to the data"),
        ("label-dropout", "share of images shown without their label"),
    ):
        key = name.replace("-", "_")
        value, known = getattr(Settings(), key), CHOICES.get(key)
        kind = source_of if key == "data" else str if known else setting(key)
        add(f"--{name}", type=kind, default=value, choices=known, help=text)
    add("--compile", action="store_true", help="use torch.compile")
    add("--checkpointing", action="store_true", help="recompute activations to save memory")

    for name, text in (
        ("sample", "Draw a picture of images, one row for each class."),
        ("evaluate", "Measure digits by the shipped classifier, and all images by their pixels."),
    ):
        add = command(name, text)
        add("--weights", default="mnist", help=f"a file, or one of {', '.join(PUBLISHED)}")
        add("--method", choices=SAMPLERS, default="heun", help="of sampling")
        add("--steps", type=within(1, 1000), default=25, help="of sampling")
        add("--guidance", type=within(0.0, 100.0), default=1.0, help="scale; 1 is none")
        level = within(0.0, 100.0)
        add("--noise-level", type=level, default=1.0, help='of the method "sde", at t = 0')
        if name == "sample":
            picture = partial(writable, suffixes=(".png", ".gif"))
            digits = Path("digits.png")
            add("--out", type=picture, default=digits, help="picture to write, or film: .gif")
            add("--columns", type=within(1, 1000), default=10, help="images of each class")
        else:
            add("--out", type=writable, help="JSON file to write")
            many = within(20, 1_000_000)
            text = "images to make; of others than digits at most as many as held out, and 2000"
            add("--samples", type=many, default=10_000, help=text)
            text = "images to compare with, as for train; left out: those of the training, or full"
            add("--data", type=source_of, help=text)
            some = within(0, 10_000)
            add("--bits", type=some, default=0, help="test images whose likelihood to compute")
            fine = within(1, 10_000)
            add("--bits-steps", type=fine, default=100, help="of the solver for the likelihood")
            add("--divergence", choices=METHODS, default="hutchinson", help="exact is slow")
    options = parser.parse_args(arguments)
    for name, value in vars(options).items():
        if value == []:  # so Python before 3.13 reads --name=--
            option = name.replace("_", "-")
            commands.choices[options.command].error(f"argument --{option}: expected one argument")
    return options
