"""Train a flow on MNIST, sample from it, measure it: python -m fmtutorial.images --help.

Chapter 8.
"""

import argparse
import dataclasses
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

from fmtutorial.images.batches import CLASSES, PAIRINGS, TIMES
from fmtutorial.images.bits import digit_bits
from fmtutorial.images.classifier import score_digits
from fmtutorial.images.data import DATA, Digits, to_pixels
from fmtutorial.images.devices import PRECISIONS, fast_precision
from fmtutorial.images.pictures import encode, tile
from fmtutorial.images.run import Run, Settings, join, steps_within
from fmtutorial.images.sampling import (
    SAMPLERS,
    image_field,
    noise_generators,
    sample,
    sample_digits,
)
from fmtutorial.images.weights import NETWORKS, PUBLISHED, load_weights, save_weights
from fmtutorial.labs import default_device, hardware
from fmtutorial.likelihood import METHODS


def device_of(name: str) -> torch.device:
    """Return a device, or raise what argparse understands."""
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m fmtutorial.images", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="train | sample | evaluate")

    def command(
        name: str, run: Callable[[argparse.Namespace], None], text: str, precision: str = "float32"
    ) -> Callable:
        form = argparse.ArgumentDefaultsHelpFormatter
        added = commands.add_parser(name, help=text, description=text, formatter_class=form)
        added.set_defaults(run=run)
        add = added.add_argument
        add("--device", type=device_of, default=default_device(), help="cpu, cuda, cuda:1, …")
        add("--seed", type=int, default=0, help="of every random draw")
        kinds, auto = ["auto", *PRECISIONS], "auto: the fastest safe one here"
        add("--precision", choices=kinds, default=precision, help=auto)
        return add

    default = Settings()
    text = "Train a network. Under torchrun several devices share each batch."
    add = command("train", train_command, text, "auto")
    add("--out", type=Path, default=Path("mnist-run"), help="folder of the run")
    add("--resume", action="store_true", help="go on with the run in --out and its settings")
    add("--budget", type=float, help="minutes: sets --steps to what fits, by taking a few")
    add("--save-every", type=int, default=500, help="steps between checkpoints")
    add("--sample-every", type=int, default=1000, help="steps between pictures")
    for name, known, text in (
        ("data", DATA, "all of MNIST, or the 1000 digits shipped"),
        ("network", NETWORKS, "kind of network"),
        ("width", None, "of the network, in channels; left out: 64 for unet, 128 for dit"),
        ("steps", None, "of training"),
        ("batch", None, "digits in a step, over all devices together"),
        ("learning-rate", None, "of AdamW, at its peak"),
        ("warm-up", None, "steps up to the peak; half a cosine leads down to 0"),
        ("max-gradient-norm", None, "a longer gradient is shortened to this"),
        ("ema-decay", None, "of the moving average of the weights"),
        ("pairing", PAIRINGS, "of noise with digits in a batch"),
        ("times", TIMES, "distribution of the time"),
        ("label-dropout", None, "share of digits shown without their label"),
    ):
        value = getattr(default, name.replace("-", "_"))
        kind = int if value is None else type(value)
        add(f"--{name}", type=kind, default=value, choices=known, help=text)
    add("--compile", action="store_true", help="use torch.compile")
    add("--checkpointing", action="store_true", help="recompute activations to save memory")

    for name, run, text in (
        ("sample", sample_command, "Draw a picture of digits, one row for each class."),
        ("evaluate", evaluate_command, "Measure generated digits by the shipped classifier."),
    ):
        add = command(name, run, text)
        add("--weights", default="mnist", help=f"a file, or one of {', '.join(PUBLISHED)}")
        add("--method", choices=SAMPLERS, default="heun", help="of sampling")
        add("--steps", type=int, default=25, help="of sampling")
        add("--guidance", type=float, default=1.0, help="scale; 1 is none")
        add("--noise-level", type=float, default=1.0, help='of the method "sde", at t = 0')
        if name == "sample":
            add("--out", type=Path, default=Path("digits.png"), help="picture to write")
            add("--columns", type=int, default=10, help="digits of each class")
        else:
            add("--out", type=Path, help="JSON file to write")
            add("--samples", type=int, default=10_000, help="digits to make and measure")
            add("--data", choices=DATA, default="full", help="test digits to compare with")
            add("--bits", type=int, default=0, help="test digits whose likelihood to compute")
            add("--bits-steps", type=int, default=100, help="of the solver for the likelihood")
            add("--divergence", choices=METHODS, default="hutchinson", help="exact is 784 times")
    return parser.parse_args(arguments)


def train_command(o: argparse.Namespace) -> None:
    """Train, with checkpoints, pictures and at the end the weights in the folder of the run."""
    if o.save_every < 1 or o.sample_every < 1:
        raise ValueError("--save-every and --sample-every must be positive")
    device, shard = join(o.device)
    checkpoint, first = o.out / "checkpoint.pt", shard[0] == 0
    run = Run.load(checkpoint, device) if o.resume else None
    if run is None and checkpoint.exists():
        raise ValueError(f"{o.out} holds a run: add --resume, or choose another folder")
    names = [field.name for field in dataclasses.fields(Settings)]
    asked = {name: getattr(o, name) for name in names} | {"precision": precision_of(o)}
    wanted = Settings(**asked)
    digits = DATA[(run.settings if run else wanted).data]("train")
    digits = Digits(*(part.to(device) for part in digits))
    if run is None:
        o.out.mkdir(parents=True, exist_ok=True)
        if o.budget:
            steps = steps_within(o.budget, wanted, digits, shard)
            wanted = dataclasses.replace(wanted, steps=steps)
        run = Run(wanted, device)
    steps = run.settings.steps
    bar = tqdm(total=steps, initial=run.done, disable=not first, unit="step", smoothing=0.05)
    for step in run.steps(digits, shard):
        rate = step.number * run.settings.batch / run.seconds
        bar.set_postfix_str(f"loss {step.loss:.4f}, {rate:.0f} images/s", refresh=False)
        bar.update()
        last = step.number == steps
        if first and (step.number % o.save_every == 0 or last):
            run.save(checkpoint)
        if first and (step.number % o.sample_every == 0 or last):
            digits_now = states(run.ema.network, device, columns=8, steps=10)[-1]
            draw(o.out / f"step-{step.number:06d}.png", digits_now[None], columns=8)
    bar.close()
    if first:
        path = o.out / "weights.safetensors"
        made = {
            "command": command_line(run.settings),
            "settings": dataclasses.asdict(run.settings),
            "minutes": round(run.seconds / 60, 1),
            "processes": shard[1],
            **hardware(device),
        }
        save_weights(path, run.ema.network, run.settings.network, run.settings.arguments, made)
        print(f"Weights in {path}, pictures beside them")
    if shard[1] > 1:
        dist.destroy_process_group()


def sample_command(o: argparse.Namespace) -> None:
    """Draw digits, or a film of digits forming."""
    network = load_weights(o.weights).network.to(o.device, memory_format=torch.channels_last)
    made = states(
        network, o.device, o.columns, o.steps, o.method, o.guidance, o.noise_level, o.seed,
        PRECISIONS[precision_of(o)],
    )  # fmt: skip
    draw(o.out, made if o.out.suffix == ".gif" else made[-1:], o.columns)
    print(f"Digits in {o.out}")


def evaluate_command(o: argparse.Namespace) -> None:
    """Measure generated digits, and the digits of the test set beside them."""
    network, origin = load_weights(o.weights)
    network = network.to(o.device, memory_format=torch.channels_last)
    test = Digits(*(part.to(o.device) for part in DATA[o.data]("test")))
    count = len(test.labels)
    # the classes in the proportions of the test digits, whose scores stand beside
    labels = test.labels.sort().values[torch.arange(o.samples) * count // o.samples]
    batches = sample_digits(
        network, labels, o.method, o.steps, o.guidance, o.noise_level, o.seed,
        PRECISIONS[precision_of(o)],
    )  # fmt: skip
    bar = tqdm(total=o.samples, unit="digit")
    images = []
    for batch in batches:
        images.append(batch)
        bar.update(len(batch))
    bar.close()
    found = {
        "samples": score_digits(torch.cat(images), labels)._asdict(),
        "test digits": score_digits(*test)._asdict(),
    }
    for name, scores in found.items():
        print(
            f"{name:12s} Fréchet distance {scores['frechet']:.2f}, "
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
        how = {k: str(v) for k, v in vars(o).items() if k != "run"}
        found |= {"options": how, "weights": origin, "measured": hardware(o.device)}
        o.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def precision_of(o: argparse.Namespace) -> str:
    """Return the name of the precision that was asked for."""
    if o.precision == "auto":
        return str(fast_precision(o.device)).removeprefix("torch.")
    return o.precision


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
) -> Tensor:
    """Return a column of digits 0 … 9 for each column, at every step of a sampler, as pixels."""
    label = torch.arange(CLASSES, device=device).repeat_interleave(columns)
    start, later = noise_generators(seed, device)
    x0 = torch.randn(len(label), 1, 28, 28, generator=start, device="cpu")
    field = image_field(network, label, scale, precision)
    path = sample(field, x0.to(device), method, steps, noise_level, later).states
    return to_pixels(path.flatten(0, 1)).unflatten(0, path.shape[:2]).cpu()


def draw(path: Path, frames: Tensor, columns: int) -> None:
    """Write frames of digits, shape (T, N, 28, 28), as a picture, or as a film if T > 1."""
    path.write_bytes(encode(torch.stack([tile(frame, columns) for frame in frames]))[1])


def command_line(settings: Settings) -> str:
    """Return the command that starts a run with these settings, whatever it was resumed with."""
    words = ["python", "-m", "fmtutorial.images", "train"]
    for name, value in dataclasses.asdict(settings).items():
        if value is True:
            words.append(f"--{name}")
        elif name == "precision" or value != getattr(Settings(), name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def main(arguments: list[str] | None = None) -> None:
    """Run a command; what went wrong is one line, without a traceback."""
    options = parse(arguments)
    try:
        options.run(options)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
