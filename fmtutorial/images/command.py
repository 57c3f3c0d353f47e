"""Train a flow on images, sample from it, measure it: python -m fmtutorial.images --help.

Chapters 8 and 15.
"""

import argparse
import dataclasses
import os
import shlex
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

from fmtutorial.checkpoints import writing
from fmtutorial.images.batches import DIGIT
from fmtutorial.images.cost import plan
from fmtutorial.images.data import ImageSet, to_pixels
from fmtutorial.images.devices import precision_named
from fmtutorial.images.evaluation import evaluate_command
from fmtutorial.images.options import one_line, parse, settings_asked
from fmtutorial.images.pictures import encode, tile
from fmtutorial.images.process import Signals, Stopped, handling, locked, within_memory
from fmtutorial.images.run import Run, join, largest, seconds_per_step, steps_within
from fmtutorial.images.sampling import check_guidance, generate, images_of, noise_generators
from fmtutorial.images.settings import Settings, fitted
from fmtutorial.images.sources import read_images
from fmtutorial.images.weights import NETWORKS, load_weights, save_weights
from fmtutorial.labs import hardware


def train_command(o: argparse.Namespace, signals: Signals) -> None:
    """Train, with checkpoints, pictures and at the end the weights in the folder of the run."""
    checkpoint = o.out / "checkpoint.pt"
    if o.resume and not checkpoint.exists():
        raise FileNotFoundError(f"no checkpoint at {checkpoint}: --out is the folder of a run")
    device, shard = join(o.device)
    first = shard[0] == 0
    if o.plan:
        settings, images, about = read(settings_asked(o), device)
        seconds = seconds_per_step(settings, images, shard)
        if first:
            print(f"{about}\n{plan(settings, seconds, device)}")
    else:
        if first:
            o.out.mkdir(parents=True, exist_ok=True)
        with locked(o.out) if first else nullcontext():
            if checkpoint.exists() and not o.resume:
                raise ValueError(f"{o.out} holds a run: add --resume, or choose another folder")
            run = Run.load(checkpoint, device) if o.resume else None
            settings, images, about = read(run.settings if run else settings_asked(o), device)
            if o.budget and not run:
                steps = steps_within(o.budget, settings, images, shard)
                settings = dataclasses.replace(settings, steps=steps)
            run = run or Run(settings, device)
            take_steps(run, images, o, shard, signals, about)
            if first:
                finish(run, o.out, device, shard[1])
    if shard[1] > 1:
        dist.destroy_process_group()


def read(settings: Settings, device: torch.device) -> tuple[Settings, ImageSet, str]:
    """Return the settings of a run with the form of its images, these, and a line on them."""
    images, held_out = (
        read_images(settings.data, split, settings.size) for split in ("train", "test")
    )
    settings = fitted(settings, images)
    channels, height, across = settings.image_shape
    with torch.device("meta"):
        multiple = NETWORKS[settings.network](**settings.arguments).multiple
    sides = [-(-side // multiple) * multiple for side in (height, across)]
    inside = f" (padded to {sides[0]}×{sides[1]} in the network)"
    about = (
        f"{len(images.images)} images of {height}×{across} pixels"
        f"{inside if sides != [height, across] else ''}, {channels} "
        f"channel{'s' * (channels > 1)}, {settings.classes or 'no'} classes; "
        f"{len(held_out.images)} held out"
    )
    return settings, ImageSet(*(part.to(device) for part in images)), about


def take_steps(
    run: Run,
    images: ImageSet,
    o: argparse.Namespace,
    shard: tuple[int, int],
    signals: Signals,
    about: str,
) -> None:
    """Take the steps of a run that are left, with checkpoints, pictures and a bar of progress.

    Raises:
        Stopped: a signal arrived; the checkpoint holds every step that was taken.
    """
    device, steps, first = images.images.device, run.settings.steps, shard[0] == 0
    signals.wait = True  # for the end of the step, a checkpoint or the weights
    # no bar before the first step, which may be an error
    bar = tqdm(
        total=steps, initial=run.done, disable=not first, unit="step", smoothing=0.05, delay=1e-3
    )
    with bar:
        for step in run.steps(images, shard):
            if first and about:
                print(about, flush=True)  # not before the first step, either; the bar comes below
                about = ""
            rate = step.number * run.settings.batch / run.seconds
            bar.set_postfix_str(f"loss {step.loss:.4f}, {rate:.0f} images/s", refresh=False)
            bar.update()
            last, signal = step.number == steps, largest(signals.first, device, shard)
            if first and (step.number % o.save_every == 0 or last or signal):
                run.save(o.out / "checkpoint.pt")
            if signal and not last:
                words = ["python", "-m", "fmtutorial.images", "train", "--resume", "--out"]
                again = shlex.join([*words, str(o.out)])
                raise Stopped(signal, f" after step {step.number} of {steps}; go on with: {again}")
            if first and (step.number % o.sample_every == 0 or last):
                made = states(run.ema.network, device, columns=8, steps=10, last_only=True)
                draw(o.out / f"step-{step.number:06d}.png", made, columns=8)


def finish(run: Run, out: Path, device: torch.device, processes: int) -> None:
    """Write the weights of a run that has taken its steps, and how they were made."""
    path = out / "weights.safetensors"
    made = {
        "command": command_line(run.settings),
        "settings": dataclasses.asdict(run.settings),
        "minutes": round(run.seconds / 60, 1),
        "processes": processes,
        **hardware(device),
    }
    save_weights(path, run.ema.network, run.settings.network, run.settings.arguments, made)
    print(f"Weights in {path}, pictures beside them")


def sample_command(o: argparse.Namespace, signals: Signals) -> None:
    """Draw digits or other images, or a film of how they form."""
    network = load_weights(o.weights).network.to(o.device, memory_format=torch.channels_last)
    check_guidance(network, o.guidance)
    made = states(
        network, o.device, o.columns, o.steps, o.method, o.guidance, o.noise_level, o.seed,
        precision_named(o.precision, o.device), last_only=o.out.suffix.lower() != ".gif",
    )  # fmt: skip
    draw(o.out, made, o.columns)
    print(f"{'Digits' if images_of(network)[0] == DIGIT else 'Images'} in {o.out}")


@torch.no_grad()
def states(
    network: nn.Module,
    device: torch.device,
    columns: int,
    steps: int,
    method: str = "heun",
    scale: float = 1.0,
    noise_level: float = 1.0,
    seed: int = 0,
    precision: torch.dtype = torch.float32,
    last_only: bool = False,
) -> Tensor:
    """Return an image of each class for each column, as pixels, at the steps of a sampler.

    Without classes there are as many rows as columns.
    """
    classes = images_of(network)[1]
    rows = torch.arange(classes or columns, device=device) * bool(classes)
    label = rows.repeat_interleave(columns)
    generators = noise_generators(seed, device)
    made = generate(
        network, label, method, steps, scale, noise_level, *generators, precision, last_only
    )
    return to_pixels(made.states.flatten(0, 1)).unflatten(0, made.states.shape[:2]).cpu()


def draw(path: Path, frames: Tensor, columns: int) -> None:
    """Write frames of images, as a picture, or as a film if T > 1.

    Of two channels the first is shown, and of four or more the first three, as colours.

    Args:
        path: ends in .png or .gif.
        frames: shape (T, N, height, width) or (T, N, channels, height, width).
        columns: images in a row.
    """
    if frames.ndim == 5:
        frames = frames[:, :, 0] if frames.shape[2] == 2 else frames[:, :, :3]
    picture = encode(torch.stack([tile(frame, columns) for frame in frames]))[1]
    with writing(path) as file:
        file.write(picture)


FOUND = ("image_shape", "classes")
"""Settings that come from the data."""


def command_line(settings: Settings) -> str:
    """Return the command that starts a run with these settings, whatever it was resumed with."""
    words = ["python", "-m", "fmtutorial.images", "train"]
    for name, value in dataclasses.asdict(settings).items():
        if name in FOUND:
            continue
        if value is True:
            words.append(f"--{name}")
        elif name == "precision" or value != getattr(Settings(), name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


COMMANDS = {"train": train_command, "sample": sample_command, "evaluate": evaluate_command}


def main(arguments: list[str] | None = None) -> None:
    """Run a command; what went wrong is one line, without a traceback, and a code other than 0."""
    options, signals = parse(arguments), Signals()
    try:
        with (
            handling(signals.handle),
            within_memory() if options.device.type == "cpu" else nullcontext(),
        ):
            COMMANDS[options.command](options, signals)
    except Stopped as stopped:
        if os.environ.get("RANK", "0") == "0":  # one of several processes speaks
            print(stopped, file=sys.stderr)
        sys.exit(128 + stopped.number)
    except (ValueError, TypeError, OSError, ArithmeticError, MemoryError, RuntimeError) as error:
        if sys.flags.dev_mode:  # python -X dev shows where it went wrong
            raise
        sys.exit(explain(error))


def explain(error: Exception) -> str:
    """Return one line on an error."""
    text, full = one_line(str(error)), ("can't allocate memory", "bad_alloc", "out of memory")
    if isinstance(error, MemoryError) or any(words in text for words in full):
        text = "there is not enough memory: take fewer images at a time, or a smaller network"
        return f"MemoryError: {text}"
    return f"{type(error).__name__}: {text}"
