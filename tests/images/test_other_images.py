"""The command on images of one's own: a folder in colour, an array, and what it says of them."""

import json
import os
import re
import shlex
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from fmtutorial.images.command import main
from fmtutorial.images.evaluation import images_for
from fmtutorial.images.run import Run
from fmtutorial.images.sources import read_images
from fmtutorial.images.weights import load_weights

CPU = torch.device("cpu")


def picture(k, n):
    """A square of one of three colours on grey, 9×10 pixels, at its own place."""
    pixels = np.full((9, 10, 3), 200, np.uint8)
    pixels[n % 4 : n % 4 + 4, n % 5 : n % 5 + 4] = np.eye(3, dtype=np.uint8)[k] * (200 + n)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of three classes, with ten pictures each."""
    place = tmp_path_factory.mktemp("my data")
    for k, name in enumerate(("blue", "green", "red")):
        (place / name).mkdir()
        for n in range(10):
            picture(k, n).save(place / name / f"{n}.png")
    return place


def train(*words):
    fixed = "train --width 8 --steps 4 --batch 5 --device cpu --precision float32".split()
    main([*fixed, *map(str, words)])


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    train("--data", folder, "--levels", 3, "--out", out, "--sample-every", 3)
    return out


def line_of(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    printed = capsys.readouterr()
    found = stop.value.code if isinstance(stop.value.code, str) else printed.err
    assert found.strip().count("\n") == 0
    return found


def test_training_says_what_it_read(folder, tmp_path, capsys):
    train("--data", folder, "--out", tmp_path / "a", "--size", 8)
    assert capsys.readouterr().out.splitlines()[0] == (
        "27 images of 8×8 pixels, 3 channels, 3 classes; 3 held out"
    )
    train("--data", folder / "red", "--out", tmp_path / "b", "--network", "dit")
    assert capsys.readouterr().out.splitlines()[0] == (
        "9 images of 9×10 pixels (padded to 12×12 in the network), 3 channels, no classes; "
        "1 held out"
    )


def test_pictures_have_a_row_for_each_class(run):
    for name in ("step-000003.png", "step-000004.png"):
        with Image.open(run / name) as sheet:
            assert (sheet.mode, sheet.size) == ("RGB", (8 * 12 - 2, 3 * 11 - 2))


def test_weights_know_their_images(run, folder):
    network, made = load_weights(run / "weights.safetensors")
    assert network.image_shape == (3, 9, 10) and network.labels == 3 and network.multiple == 8
    assert made["settings"]["data"] == str(folder)
    with safe_open(run / "weights.safetensors", "pt") as file:
        described = json.loads(file.metadata()["fmtutorial"])
    assert described["arguments"] == {
        "labels": 3, "width": 8, "levels": 3, "image_shape": [3, 9, 10]
    }  # fmt: skip
    words = shlex.split(made["command"])
    assert "--image-shape" not in words and "--classes" not in words
    assert words[words.index("--levels") + 1] == "3"


def test_a_run_on_a_folder_goes_on(run, folder, tmp_path, monkeypatch):
    """Bit for bit, and on other images not at all."""
    out = tmp_path / "run"
    take = Run.steps

    def two(self, *arguments):
        for step in take(self, *arguments):
            yield step
            if step.number == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(Run, "steps", two)
    with pytest.raises(KeyboardInterrupt):
        train("--data", folder, "--levels", 3, "--out", out, "--save-every", 2)
    monkeypatch.undo()
    train("--resume", "--out", out)
    ours, theirs = (load_weights(p / "weights.safetensors").network for p in (out, run))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_run_goes_on_with_its_own_images_only(tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.zeros((20, 9, 10), np.uint8))
    train("--data", tmp_path / "a.npy", "--out", tmp_path / "run")
    np.save(tmp_path / "a.npy", np.zeros((20, 9, 11), np.uint8))
    text = line_of(["train", "--resume", "--device", "cpu", "--out", tmp_path / "run"], capsys)
    assert "the images are 1×9×11 of no classes, and those of the run 1×9×10" in text
    (tmp_path / "a.npy").unlink()
    text = line_of(["train", "--resume", "--device", "cpu", "--out", tmp_path / "run"], capsys)
    assert f"no images at {tmp_path / 'a.npy'}" in text


@pytest.mark.parametrize("suffix, frames", [("png", 1), ("gif", 4)])
def test_samples_in_colour(run, tmp_path, suffix, frames, capsys):
    out = tmp_path / f"some.{suffix}"
    main(
        f"sample --weights {run}/weights.safetensors --steps 3 --columns 4 --device cpu --out {out}"
        .split()
    )  # fmt: skip
    assert capsys.readouterr().out == f"Images in {out}\n"
    with Image.open(out) as sheet:
        assert sheet.size == (4 * 12 - 2, 3 * 11 - 2) and getattr(sheet, "n_frames", 1) == frames
        colour = np.asarray(sheet.convert("RGB")).astype(int)
    assert np.abs(colour - colour.mean(axis=2, keepdims=True)).max() > 20


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_samples_without_classes_are_a_square(channels, tmp_path, capsys):
    """Of two channels one is shown, of four three."""
    shape = (20, channels, 9, 10)
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    train("--data", tmp_path / "a.npy", "--out", tmp_path / "run", "--label-dropout", 0.5)
    weights, out = tmp_path / "run" / "weights.safetensors", tmp_path / "some.png"
    ask = ["sample", "--weights", weights, "--device", "cpu", "--steps", 2, "--columns", 5]
    main([str(word) for word in [*ask, "--out", out]])
    with Image.open(out) as sheet:
        assert sheet.size == (5 * 12 - 2, 5 * 11 - 2)
        assert sheet.mode == ("RGB" if channels == 4 else "L")
    for command in (ask, ["evaluate", "--weights", weights, "--device", "cpu"]):
        text = line_of([*command, "--guidance", "3"], capsys)
        assert "guidance of scale 3.0 needs classes" in text


def test_evaluation_without_a_classifier(run, tmp_path, capsys):
    weights, out = run / "weights.safetensors", tmp_path / "found.json"
    options = "--steps 2 --device cpu --bits 2 --bits-steps 2".split()
    main(["evaluate", "--weights", str(weights), *options, "--out", str(out)])
    found, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert set(found) == {
        *("pixels", "nearest", "loss", "bits per dimension", "options", "weights", "measured")
    }
    assert found["pixels"]["count"] == 3 and found["pixels"]["distance"] > 0
    assert f"held-out images {found['pixels']['distance']:.2f}" in printed
    assert f"{found['nearest']['ratio']:.2f} ± {found['nearest']['error']:.2f}" in printed
    assert f"gap {found['loss']['gap']:.4f}" in printed
    assert re.search(r"bits per dimension \d+\.\d+ ± .* of 2 test images", printed)


def test_evaluation_on_other_images(run, folder, tmp_path, capsys):
    """By name; of another size they are refused, or made square if the network's are."""
    network = load_weights(run / "weights.safetensors").network
    assert len(images_for(network, folder, "test", CPU).images) == 3
    weights = run / "weights.safetensors"
    text = line_of(["evaluate", "--weights", weights, "--data", "emoji", "--device", "cpu"], capsys)
    assert "emoji has images of 3×32×32 and 9 classes, and the network makes 3×9×10 of 3" in text
    network.image_shape = (3, 16, 16)
    with pytest.raises(ValueError, match="emoji has images of 3×16×16 and 9 classes"):
        images_for(network, "emoji", "test", CPU)
    network.labels = 9
    assert images_for(network, "emoji", "test", CPU).images.shape == (189, 3, 16, 16)


def test_a_plan_is_printed_and_nothing_made(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train("--data", folder, "--plan", "--out", "run")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("27 images of 9×10 pixels (padded to 12×12 in the network)")
    assert [line.split()[0] for line in lines[1:]] == ["parameters", "operations", "memory", "time"]
    assert lines[-1].endswith("for 4 steps") and os.listdir(tmp_path) == []


def test_bad_folders_are_one_line(folder, tmp_path, capsys):
    """As read_folder says it; and no folder of a run is left with a half-made run."""
    for name, spoil in (
        ("mixed", lambda place: Image.new("RGB", (5, 5)).save(place / "red" / "5.png")),
        ("broken", lambda place: (place / "red" / "5.png").write_bytes(b"?")),
        ("linked", lambda place: (place / "red" / "x.png").symlink_to("/etc/passwd")),
    ):
        shutil.copytree(folder, tmp_path / name)
        spoil(tmp_path / name)
        words = ["train", "--device", "cpu", "--data", tmp_path / name, "--out", tmp_path / "run"]
        assert line_of(words, capsys).startswith("ValueError: ")
        assert os.listdir(tmp_path / "run") == []
    with pytest.warns(UserWarning, match="left out, .*notes.txt; pictures"):
        (folder / "notes.txt").write_text("?")
        read_images(folder)
    (folder / "notes.txt").unlink()
