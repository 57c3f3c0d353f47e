"""The command line from end to end on the small digits, and every error as one line."""

import dataclasses
import itertools
import json
import math
import os
import re
import shlex
import shutil

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from fmtutorial.checkpoints import load_checkpoint, save_checkpoint
from fmtutorial.images import command as module
from fmtutorial.images import devices, evaluation
from fmtutorial.images.bits import digit_bits
from fmtutorial.images.classifier import score_digits
from fmtutorial.images.command import command_line, draw, main, states
from fmtutorial.images.data import Digits, small_digits
from fmtutorial.images.evaluation import pixel_distance
from fmtutorial.images.options import parse, settings_asked
from fmtutorial.images.run import Run
from fmtutorial.images.sampling import SAMPLERS, sample_digits
from fmtutorial.images.settings import Settings
from fmtutorial.images.weights import load_weights, save_weights
from fmtutorial.metrics import energy_distance
from fmtutorial.networks import UNet

CPU = torch.device("cpu")
TRAIN = "train --data small --width 8 --steps 6 --batch 5 --device cpu --precision float32"


def train(out, *more):
    main([*TRAIN.split(), "--out", str(out), *map(str, more)])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of six steps."""
    out = tmp_path_factory.mktemp("runs") / "new" / "run"
    train(out, "--sample-every", 4, "--seed", 3)
    return out


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A network that moves its states: its last layer is not zero as at the start of training."""
    torch.manual_seed(0)
    network = UNet(width=8, labels=10)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.2)
    path = tmp_path_factory.mktemp("weights") / "some.safetensors"
    save_weights(path, network, "unet", {"width": 8, "labels": 10}, {"from": "nowhere"})
    return str(path)


# Options.


def asked(options):
    names = {field.name for field in dataclasses.fields(Settings)} - {"image_shape", "classes"}
    return {name: getattr(options, name) for name in names}


def test_defaults_are_those_of_the_settings():
    """Only the precision is chosen by the machine, and by this."""
    found = asked(parse(["train"]))
    assert found.pop("precision") == "auto"
    expected = dataclasses.asdict(Settings())
    for name in ("precision", "image_shape", "classes"):
        del expected[name]
    assert found == expected
    assert {name: type(v) for name, v in found.items()} == {
        name: type(v) for name, v in expected.items()
    }


@pytest.mark.parametrize(
    "option, value",
    [
        *({"data": "small", "network": "dit", "width": 8, "steps": 3, "batch": 4}.items()),
        *({"learning-rate": 0.5, "warm-up": 7, "max-gradient-norm": 2.0}.items()),
        *({"ema-decay": 0.5, "pairing": "optimal", "times": "uniform"}.items()),
        *({"label-dropout": 0.3, "precision": "bfloat16", "seed": 5}.items()),
        *({"compile": True, "checkpointing": True, "size": 20, "levels": 3}.items()),
    ],
)
def test_an_option_sets_its_own_setting(option, value):
    given = [f"--{option}"] if value is True else [f"--{option}", str(value)]
    name = option.replace("-", "_")
    expected = asked(parse(["train"])) | {name: value}
    assert asked(parse(["train", *given])) == expected
    assert getattr(settings_asked(parse(["train", *given])), name) == value


def test_help_names_every_option_and_its_default(capsys):
    for command, words in (
        ("train", ["--resume", "--budget", "(default: 12000)", "optimal-per-class", "0.002"]),
        ("sample", ["--columns", "(default: heun)", *SAMPLERS, "mnist-reflow"]),
        ("evaluate", ["--bits", "--divergence", "(default: 10000)", "pixels"]),
    ):
        with pytest.raises(SystemExit) as stop:
            parse([command, "--help"])
        text = capsys.readouterr().out
        assert stop.value.code == 0
        assert all(word in text for word in words)


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        ["fly"],
        ["train", "--data", "huge"],
        ["evaluate", "--data", "huge"],
        ["train", "--steps", "many"],
        ["train", "--pairing", "best"],
        ["train", "--precision", "int8"],
        ["sample", "--method", "ode45"],
        ["train", "--device", "abacus"],
    ],
    ids=" ".join,
)
def test_wrong_options_are_refused_by_argparse(wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(wrong)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "error: " in line and "--help" in line


def test_precision_is_the_devices_unless_it_is_given(monkeypatch):
    monkeypatch.setattr(devices, "fast_precision", lambda device: torch.bfloat16)
    assert settings_asked(parse(["train"])).precision == "bfloat16"
    assert settings_asked(parse(["train", "--precision", "float16"])).precision == "float16"
    # what is measured is exact unless asked
    for command in ("sample", "evaluate"):
        assert parse([command]).precision == "float32"


# Training.


def test_a_run_leaves_its_files_and_no_others(run):
    assert sorted(os.listdir(run)) == [
        *("checkpoint.pt", "step-000004.png", "step-000006.png", "weights.safetensors")
    ]
    for name in ("step-000004.png", "step-000006.png"):
        with Image.open(run / name) as picture:
            # ten rows of eight digits of 28 pixels, two pixels apart
            assert (picture.mode, picture.size) == ("L", (8 * 30 - 2, 10 * 30 - 2))
    state = load_checkpoint(run / "checkpoint.pt")
    assert state["done"] == 6
    assert Settings(**state["settings"]) == Settings("small", width=8, steps=6, batch=5, seed=3)


def test_weights_are_the_average_and_say_how_they_were_made(run):
    network, made = load_weights(run / "weights.safetensors")
    average = load_checkpoint(run / "checkpoint.pt")["average"]
    found = network.state_dict()
    assert set(found) == set(average)
    for name, value in average.items():
        assert torch.equal(found[name], value.half().float())
    kept = load_checkpoint(run / "checkpoint.pt")["settings"]
    assert Settings(**made["settings"]) == Settings(**kept)
    assert made["processes"] == 1 and made["minutes"] >= 0
    assert made["torch"] == torch.__version__ and made["device"] == "cpu"
    assert "--width 8" in made["command"] and "--seed 3" in made["command"]


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(precision="bfloat16", compile=True),
        Settings("small", "dit", 16, 7, 5, 0.25, 3, 4.0, 0.5, "optimal", "uniform", 0.75, seed=9),
        Settings(times="logit-normal-0.5", pairing="optimal-per-class", checkpointing=True),
        Settings("emoji", size=20, levels=3),
    ],
)
def test_the_command_of_a_run_gives_its_settings(settings, monkeypatch):
    """On another machine too, where another precision is the fastest."""
    monkeypatch.setattr(devices, "fast_precision", lambda device: torch.float16)
    words = shlex.split(command_line(settings))
    assert words[:4] == ["python", "-m", "fmtutorial.images", "train"]
    assert settings_asked(parse(words[3:])) == settings


def test_the_last_picture_is_drawn_from_the_average(run, tmp_path):
    """Eight columns, ten steps of Heun, from full-precision weights."""
    network = UNet(width=8, labels=10)
    network.load_state_dict(load_checkpoint(run / "checkpoint.pt")["average"])
    labels = torch.arange(10).repeat_interleave(8)
    digits = next(sample_digits(network.eval(), labels, "heun", 10))
    with Image.open(run / "step-000006.png") as picture:
        sheet = torch.from_numpy(np.array(picture)).int()
    for i in (0, 7, 8, 79):
        top, left = i // 8 * 30, i % 8 * 30
        # another memory format, other roundings
        off = sheet[top : top + 28, left : left + 28] - digits[i].int()
        assert off.abs().max() <= 1


def test_pictures_are_of_the_average_while_it_trains(tmp_path, monkeypatch):
    """As the checkpoint of that step has it, a long way from the network at a high rate."""
    seen, original = [], states
    monkeypatch.setattr(
        module,
        "states",
        lambda network, *a, **k: seen.append(network) or original(network, *a, **k),
    )
    train(tmp_path, "--learning-rate", 0.5, "--warm-up", 0)
    state = load_checkpoint(tmp_path / "checkpoint.pt")
    drawn = seen[0].state_dict()
    assert all(torch.equal(drawn[name], value) for name, value in state["average"].items())
    assert not all(torch.equal(drawn[name], value) for name, value in state["network"].items())


def test_checkpoints_and_pictures_come_at_their_steps(tmp_path, monkeypatch):
    saves = []
    monkeypatch.setattr(module.Run, "save", lambda run, path: saves.append((run.done, path.name)))
    train(tmp_path, "--save-every", 4, "--sample-every", 3)
    assert saves == [(4, "checkpoint.pt"), (6, "checkpoint.pt")]
    assert sorted(p.name for p in tmp_path.glob("*.png")) == ["step-000003.png", "step-000006.png"]


def error_of(arguments, capsys):
    """The one line with which a command ends."""
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    assert isinstance(stop.value.code, str) and "\n" not in stop.value.code
    assert "Traceback" not in capsys.readouterr().err
    return stop.value.code


def test_a_run_is_not_overwritten(run, capsys):
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    message = error_of([*TRAIN.split(), "--out", run], capsys)
    assert message.startswith("ValueError: ") and "holds a run: add --resume" in message
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before


def test_resuming_goes_on_with_the_settings_of_the_run(run, tmp_path, monkeypatch):
    """Whatever else is given; the run of six steps is one that was broken off after four."""
    whole = load_checkpoint(run / "checkpoint.pt")
    take = module.Run.steps

    def four(self, *arguments):
        for step in take(self, *arguments):
            yield step
            if step.number == 4:
                raise KeyboardInterrupt

    monkeypatch.setattr(module.Run, "steps", four)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "--save-every", 2, "--seed", 3)
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "checkpoint.pt")["done"] == 4
    train(tmp_path, "--resume", "--width", 12, "--steps", 99, "--seed", 8, "--budget", 1e5)
    state = load_checkpoint(tmp_path / "checkpoint.pt")
    assert state["settings"] == whole["settings"] and state["done"] == 6
    assert all(torch.equal(state["network"][k], v) for k, v in whole["network"].items())


def test_resuming_a_finished_run_writes_its_weights_again(run, tmp_path):
    shutil.copy(run / "checkpoint.pt", tmp_path)
    train(tmp_path, "--resume")
    ours, theirs = (load_weights(p / "weights.safetensors") for p in (tmp_path, run))
    for a, b in zip(ours.network.parameters(), theirs.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_budget_sets_the_steps(tmp_path, monkeypatch):
    asked = []

    def two_steps(minutes, settings, digits, shard):
        asked.append((minutes, settings.width, len(digits.images), shard))
        return 2

    monkeypatch.setattr(module, "steps_within", two_steps)
    train(tmp_path, "--budget", 0.5)
    assert asked == [(0.5, 8, 1000, (0, 1))]
    state = load_checkpoint(tmp_path / "checkpoint.pt")
    assert state["done"] == state["settings"]["steps"] == 2


def test_the_machines_precision_is_kept_in_the_settings(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "fast_precision", lambda device: torch.bfloat16)
    train(tmp_path, "--precision", "auto", "--steps", 1)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["settings"]["precision"] == "bfloat16"


# Pictures.


def test_a_picture_of_digits(weights, tmp_path, capsys):
    out = tmp_path / "digits.png"
    main(f"sample --weights {weights} --steps 3 --columns 4 --device cpu --out {out}".split())
    assert capsys.readouterr().out == f"Digits in {out}\n"
    with Image.open(out) as picture:
        assert (picture.mode, picture.size) == ("L", (4 * 30 - 2, 10 * 30 - 2))
        assert getattr(picture, "n_frames", 1) == 1


def pixels_of(path):
    with Image.open(path) as film:
        return [np.array(frame.convert("L")) for frame in ImageSequence.Iterator(film)]


def test_a_film_has_every_step_and_ends_in_the_picture(weights, tmp_path):
    """60 ms a frame, 2 s the last; it begins with noise, and options of sampling count."""
    options = f"sample --weights {weights} --steps 4 --columns 2 --device cpu".split()
    for name in ("film.gif", "last.png"):
        main([*options, "--out", str(tmp_path / name)])
    frames = pixels_of(tmp_path / "film.gif")
    assert len(frames) == 5 and {frame.shape for frame in frames} == {(298, 58)}
    assert np.array_equal(frames[-1], pixels_of(tmp_path / "last.png")[0])
    with Image.open(tmp_path / "film.gif") as film:
        pauses = [frame.info["duration"] for frame in ImageSequence.Iterator(film)]
        assert pauses == [60] * 4 + [2000] and film.info["loop"] == 0
    noise = torch.randn(20, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    first = ((noise[3, 0] + 1) * 128).floor().clamp(0, 255).byte().numpy()
    assert np.array_equal(frames[0][30:58, 30:58], first)
    for more in (["--seed", "1"], ["--guidance", "3"], ["--method", "euler"]):
        main([*options, *more, "--out", str(tmp_path / "other.png")])
        assert not np.array_equal(pixels_of(tmp_path / "other.png")[0], frames[-1])
    still = ["--method", "sde", "--noise-level", "0", "--out", str(tmp_path / "still.png")]
    main([*options, *still])  # Euler's method, the last above
    assert np.array_equal(*(pixels_of(tmp_path / f"{n}.png")[0] for n in ("still", "other")))


def test_one_frame_is_a_picture(tmp_path):
    draw(tmp_path / "one.gif", torch.zeros(1, 3, 28, 28, dtype=torch.uint8), 3)
    assert [frame.shape for frame in pixels_of(tmp_path / "one.gif")] == [(28, 88)]


SPREAD = 0.15


def level_network(x, t, label):
    """The field of N((label − 4.5)/20, 0.15²) in each pixel."""
    mean = (label - 4.5) / 20
    rate = (t * SPREAD**2 - (1 - t)) / (t**2 * SPREAD**2 + (1 - t) ** 2)
    mean, rate, t = (value[:, None, None, None] for value in (mean, rate, t))
    return mean + rate * (x - t * mean)


def test_states_have_a_row_for_each_class():
    frames = states(level_network, CPU, 6, 20)
    assert frames.shape == (21, 60, 28, 28) and frames.dtype == torch.uint8
    rows = frames[-1].float().reshape(10, 6 * 784).mean(dim=1)
    expected = ((torch.arange(10) - 4.5) / 20 + 1) * 128 - 0.5
    # the mean of 4704 pixels of deviation 19, and Heun's error
    torch.testing.assert_close(rows, expected, rtol=0, atol=4 * 19.2 / math.sqrt(4704) + 0.5)


@pytest.mark.parametrize("level", [1.0, 2.0])
def test_states_of_the_sde_have_fresh_noise(level):
    """Of the noise level, and uncorrelated with the start, within five standard errors.

    v = x makes the first step x + h x − (h w²/2) x + w √h ξ: at t = 0 the score is −x.
    """
    found = []

    def known(x, t, label):
        found.append(x.flatten().clone())
        return x

    states(known, CPU, 6, 4, "sde", noise_level=level, seed=1)
    x0, x1 = found[:2]
    fresh = (x1 - x0 * (1 + 0.25 - 0.125 * level**2)) / (level * 0.5)
    n = len(x0)
    assert fresh.std().item() == pytest.approx(1, abs=5 / math.sqrt(2 * n))
    assert torch.corrcoef(torch.stack([x0, fresh]))[0, 1].abs() < 5 / math.sqrt(n)


def test_states_repeat_with_their_seed():
    for method in ("heun", "sde"):
        a, b, c = (states(level_network, CPU, 2, 3, method, seed=s) for s in (1, 1, 2))
        assert torch.equal(a, b) and not torch.equal(a, c)


# Measuring.


@pytest.mark.filterwarnings("ignore:a Fréchet distance")  # of few digits
def test_evaluation_says_what_the_functions_say(weights, tmp_path, capsys):
    """Of digits made by sample_digits, 4 of each class as among the test digits; bits of any 3."""
    out = tmp_path / "found.json"
    options = "--samples 40 --steps 2 --method euler --guidance 2 --seed 5 --data small --bits 3"
    main(
        ["evaluate", "--weights", weights, *options.split(), "--bits-steps", "3", "--device", "cpu",
         "--out", str(out)]
    )  # fmt: skip
    found = json.loads(out.read_text(encoding="utf-8"))
    assert set(found) == {
        *("samples", "test digits", "bits per dimension", "options", "weights", "measured")
    }
    test = small_digits("test")
    pixels = {name: found[name].pop("pixels") for name in ("samples", "test digits")}
    assert found["test digits"] == score_digits(*test)._asdict()
    network, labels = load_weights(weights).network, torch.arange(10).repeat_interleave(4)
    made = torch.cat(list(sample_digits(network, labels, "euler", 2, 2.0, seed=5)))
    expected = score_digits(made, labels)
    # another memory format, other roundings, some grey levels
    assert found["samples"]["frechet"] == pytest.approx(expected.frechet, rel=1e-2)
    real, shipped = (
        torch.cat([some.images[some.labels == c][::25] for c in range(10)]) / 127.5 - 1
        for some in (test, small_digits("train"))
    )
    for name, images in (("samples", made / 127.5 - 1), ("test digits", real)):
        distance = energy_distance(images, shipped)
        assert pixels[name] == pytest.approx(distance, rel=1e-3)
    assert len(found["samples"]["class_accuracy"]) == len(found["samples"]["class_spread"]) == 10
    rows = torch.randperm(1000, generator=torch.Generator().manual_seed(5))[:3]
    bits = digit_bits(network, Digits(*(part[rows] for part in test)), 3, seed=5)
    assert found["bits per dimension"]["mean"] == pytest.approx(bits.mean().item(), rel=1e-3)
    error = bits.std().item() / math.sqrt(3)
    assert found["bits per dimension"]["standard error"] == pytest.approx(error, rel=1e-2)
    assert found["weights"] == {"from": "nowhere"}
    assert found["options"]["samples"] == "40" and "run" not in found["options"]
    assert found["measured"]["torch"] == torch.__version__
    printed = capsys.readouterr().out
    assert f"accuracy {found['test digits']['accuracy']:.4f}" in printed
    assert f"energy distance of pixels {pixels['samples']:.2f} (40)" in printed
    assert f"bits per dimension {found['bits per dimension']['mean']:.3f} ± " in printed


@pytest.mark.filterwarnings("ignore:a Fréchet distance")
def test_evaluation_passes_its_options_on(weights, monkeypatch):
    """To the functions that it calls, which are tested beside them."""

    def spy(name):
        original = getattr(evaluation, name)
        monkeypatch.setattr(evaluation, name, lambda *a: calls.update({name: a}) or original(*a))

    calls = {}
    spy("sample_digits"), spy("digit_bits")
    options = "--samples 20 --method sde --steps 3 --guidance 2 --noise-level 0.5 --seed 5 --bits 2"
    options += " --bits-steps 1 --divergence hutchinson --precision auto --data small"
    monkeypatch.setattr(devices, "fast_precision", lambda device: torch.bfloat16)
    main(["evaluate", "--weights", weights, "--device", "cpu", *options.split()])
    _, labels, *rest = calls["sample_digits"]
    assert labels.tolist() == [c for c in range(10) for _ in range(2)]
    assert rest == ["sde", 3, 2.0, 0.5, 5, torch.bfloat16]
    _, digits, *rest = calls["digit_bits"]
    rows = torch.randperm(1000, generator=torch.Generator().manual_seed(5))[:2]
    assert torch.equal(digits.images, small_digits("test").images[rows])
    assert rest == [1, "hutchinson", 5]


@pytest.mark.filterwarnings("ignore:a Fréchet distance")
def test_pixels_rank_damaged_digits():
    """Digits of a half and a quarter of the brightness: the darker ones are farther."""
    digits = small_digits("test")
    real = pixel_distance(digits, 1000)
    found = [pixel_distance(digits._replace(images=digits.images // k), 1000) for k in (2, 4)]
    assert real < found[0] < found[1]
    # any number of them, of every class alike
    assert pixel_distance(digits, 10) > real


def test_evaluation_without_bits_and_without_a_file(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(f"evaluate --weights {weights} --samples 20 --steps 1 --data small --device cpu".split())
    printed = capsys.readouterr().out
    assert "samples" in printed and "test digits" in printed and "bits" not in printed
    assert os.listdir(tmp_path) == []


# Errors.


def test_errors_are_one_line(weights, run, tmp_path, capsys):
    evaluate = ["evaluate", "--weights", weights, "--samples", "20", "--data", "small"]
    for arguments, words in (
        (["sample", "--weights", tmp_path / "none"], "FileNotFoundError: no weights at"),
        (["sample", "--weights", run / "step-000004.png"], "ValueError: .*holds no weights"),
        (["train", "--resume", "--out", tmp_path], "FileNotFoundError: no checkpoint at"),
        ([*TRAIN.split(), "--out", tmp_path / "a", "--batch", "1001"], "ValueError: a batch of"),
        ([*TRAIN.split(), *"--network dit --width 9 --out".split(), tmp_path / "b"], ".*by heads"),
        ([*evaluate, "--bits", "1"], "ValueError: .*--bits 1: scores need two or more"),
        ([*evaluate, "--bits", "1001"], "ValueError: .*or 2 to 1000 test digits"),
    ):
        assert re.match(words, error_of(arguments, capsys))


def test_a_failed_download_is_an_error_of_one_line(tmp_path, monkeypatch, capsys):
    from torchvision import datasets

    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])  # "discard": closed
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("FMTUTORIAL_DATA", str(tmp_path / "data"))
    arguments = [*TRAIN.split(), "--data", "full", "--out", tmp_path / "run"]
    assert "Error downloading train-images" in error_of(arguments, capsys)


@pytest.mark.parametrize(
    "change", [{"data": "huge"}, {"precision": "int8"}, {"pairing": "best"}, {"times": "never"}]
)
def test_a_checkpoint_with_an_unknown_choice_is_an_error_of_one_line(run, tmp_path, change, capsys):
    state = load_checkpoint(run / "checkpoint.pt")
    state["settings"], state["done"] = state["settings"] | change, 3
    save_checkpoint(tmp_path / "checkpoint.pt", state)
    error_of([*TRAIN.split(), "--resume", "--out", tmp_path], capsys)


def test_a_loss_that_is_not_finite_is_an_error_of_one_line(tmp_path, capsys):
    run = Run(Settings("small", width=8, steps=6, batch=5), CPU)
    list(itertools.islice(run.steps(small_digits()), 3))
    with torch.no_grad():
        run.network.leave[2].bias.fill_(1e30)  # its square is too large for float32
    run.save(tmp_path / "checkpoint.pt")
    message = error_of(["train", "--device", "cpu", "--resume", "--out", tmp_path], capsys)
    assert message.startswith("FloatingPointError: the loss is inf at step 4 of 6")
