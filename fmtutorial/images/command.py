"""Train a flow on MNIST, sample from it, measure it: python -m fmtutorial.images --help.

Chapter 8.
"""

import argparse
import dataclasses
import json
import os
import shlex
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

from fmtutorial.checkpoints import writing
from fmtutorial.images.batches import CLASSES
from fmtutorial.images.bits import digit_bits
from fmtutorial.images.classifier import score_digits
from fmtutorial.images.data import DATA, Digits, small_digits, to_pixels
from fmtutorial.images.devices import precision_named
from fmtutorial.images.options import one_line, parse, settings_asked
from fmtutorial.images.pictures import encode, tile
from fmtutorial.images.process import Signals, Stopped, handling, locked, within_memory
from fmtutorial.images.run import Run, join, largest, steps_within
from fmtutorial.images.sampling import generate, noise_generators, sample_digits
from fmtutorial.images.settings import Settings
from fmtutorial.images.weights import load_weights, save_weights
from fmtutorial.labs import hardware
from fmtutorial.metrics import energy_distance


def train_command(o: argparse.Namespace, signals: Signals) -> None:
    """Train, with checkpoints, pictures and at the end the weights in the folder of the run."""
    checkpoint = o.out / "checkpoint.pt"
    if o.resume and not checkpoint.exists():
        raise FileNotFoundError(f"no checkpoint at {checkpoint}: --out is the folder of a run")
    device, shard = join(o.device)
    first = shard[0] == 0
    if first:
        o.out.mkdir(parents=True, exist_ok=True)
    with locked(o.out) if first else nullcontext():
        if checkpoint.exists() and not o.resume:
            raise ValueError(f"{o.out} holds a run: add --resume, or choose another folder")
        run = Run.load(checkpoint, device) if o.resume else Run(settings_asked(o), device)
        digits = Digits(*(part.to(device) for part in DATA[run.settings.data]("train")))
        if o.budget and not o.resume:
            steps = steps_within(o.budget, run.settings, digits, shard)
            run = Run(dataclasses.replace(run.settings, steps=steps), device)
        take_steps(run, digits, o, shard, signals)
        if first:
            finish(run, o.out, device, shard[1])
    if shard[1] > 1:
        dist.destroy_process_group()


def take_steps(
    run: Run, digits: Digits, o: argparse.Namespace, shard: tuple[int, int], signals: Signals
) -> None:
    """Take the steps of a run that are left, with checkpoints, pictures and a bar of progress.

    Raises:
        Stopped: a signal arrived; the checkpoint holds every step that was taken.
    """
    device, steps, first = digits.images.device, run.settings.steps, shard[0] == 0
    signals.wait = True  # for the end of the step, a checkpoint or the weights
    # no bar before the first step, which may be an error
    bar = tqdm(
        total=steps, initial=run.done, disable=not first, unit="step", smoothing=0.05, delay=1e-3
    )
    with bar:
        for step in run.steps(digits, shard):
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
                digits_now = states(run.ema.network, device, columns=8, steps=10, last_only=True)
                draw(o.out / f"step-{step.number:06d}.png", digits_now, columns=8)


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
    """Draw digits, or a film of digits forming."""
    network = load_weights(o.weights).network.to(o.device, memory_format=torch.channels_last)
    made = states(
        network, o.device, o.columns, o.steps, o.method, o.guidance, o.noise_level, o.seed,
        precision_named(o.precision, o.device), last_only=o.out.suffix.lower() != ".gif",
    )  # fmt: skip
    draw(o.out, made, o.columns)
    print(f"Digits in {o.out}")


def evaluate_command(o: argparse.Namespace, signals: Signals) -> None:
    """Measure generated digits, and the digits of the test set beside them."""
    network, origin = load_weights(o.weights)
    network = network.to(o.device, memory_format=torch.channels_last)
    test = Digits(*(part.to(o.device) for part in DATA[o.data]("test")))
    count = len(test.labels)
    # the classes in the proportions of the test digits, whose scores stand beside
    labels = test.labels.sort().values[torch.arange(o.samples) * count // o.samples]
    if torch.bincount(labels, minlength=CLASSES).min() < 2 or o.bits == 1 or o.bits > count:
        raise ValueError(
            f"--samples {o.samples} and --bits {o.bits}: scores need two or more digits of each "
            f"class, and bits none, or 2 to {count} test digits"
        )
    batches = sample_digits(
        network, labels, o.method, o.steps, o.guidance, o.noise_level, o.seed,
        precision_named(o.precision, o.device),
    )  # fmt: skip
    images = []
    with tqdm(total=o.samples, unit="digit", delay=1e-3) as bar:
        for batch in batches:
            images.append(batch)
            bar.update(len(batch))
    made, some = Digits(torch.cat(images), labels), min(1000, o.samples, count)
    with warnings.catch_warnings(record=True) as doubts:
        warnings.simplefilter("always")
        found = {
            name: score_digits(*digits)._asdict() | {"pixels": pixel_distance(digits, some)}
            for name, digits in (("samples", made), ("test digits", test))
        }
    for doubt in {str(one.message) for one in doubts}:
        print(f"Note: {doubt}")
    for name, scores in found.items():
        print(
            f"{name:12s} Fréchet distance {scores['frechet']:.2f}, "
            f"energy distance of pixels {scores['pixels']:.2f} ({some}), "
            f"accuracy {scores['accuracy']:.4f} (worst class {min(scores['class_accuracy']):.3f}), "
            f"least spread of a class {min(scores['class_spread']):.2f}"
        )
    if o.bits:
        rows = torch.randperm(count, generator=torch.Generator("cpu").manual_seed(o.seed))
        some = Digits(*(part[rows[: o.bits].to(o.device)] for part in test))
        bits = digit_bits(network, some, o.bits_steps, o.divergence, o.seed)
        mean, error = bits.mean().item(), bits.std().item() / len(bits) ** 0.5
        print(f"bits per dimension {mean:.3f} ± {error:.3f} of {len(bits)} test digits")
        found["bits per dimension"] = {"mean": mean, "standard error": error}
    if o.out:
        how = {name: str(value) for name, value in vars(o).items() if name != "command"}
        found |= {"options": how, "weights": origin, "measured": hardware(o.device)}
        with writing(o.out) as file:
            file.write((json.dumps(found, indent=1) + "\n").encode())


def pixel_distance(digits: Digits, n: int) -> float:
    """Return the energy distance of n digits to as many training digits shipped, in pixels.

    Both are spread evenly over the classes. A distance of the classifier's features does not
    rank what is far from a digit; this one needs no features. Real digits are not at 0: compare
    sets of one size.

    Chapter 8.
    """
    sets = []
    for images, labels in (digits, small_digits("train")):
        order = labels.sort(stable=True).indices
        rows = order[torch.arange(n, device=order.device) * len(order) // n]
        sets.append(images[rows].cpu() / 127.5 - 1)
    return energy_distance(*sets)


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
    """Return a column of digits 0 … 9 for each column, as pixels, at the steps of a sampler."""
    label = torch.arange(CLASSES, device=device).repeat_interleave(columns)
    generators = noise_generators(seed, device)
    made = generate(
        network, label, method, steps, scale, noise_level, *generators, precision, last_only
    )
    return to_pixels(made.states.flatten(0, 1)).unflatten(0, made.states.shape[:2]).cpu()


def draw(path: Path, frames: Tensor, columns: int) -> None:
    """Write frames of digits, shape (T, N, 28, 28), as a picture, or as a film if T > 1."""
    picture = encode(torch.stack([tile(frame, columns) for frame in frames]))[1]
    with writing(path) as file:
        file.write(picture)


def command_line(settings: Settings) -> str:
    """Return the command that starts a run with these settings, whatever it was resumed with."""
    words = ["python", "-m", "fmtutorial.images", "train"]
    for name, value in dataclasses.asdict(settings).items():
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
        text = "there is not enough memory: take fewer digits at a time, or a smaller network"
        return f"MemoryError: {text}"
    return f"{type(error).__name__}: {text}"
