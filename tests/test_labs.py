"""What labs share: their device, and numbers stored for the prose."""

import json
import platform
from importlib import resources

import numpy as np
import pytest
import torch

from fmtutorial import labs
from fmtutorial.labs import default_device, hardware, record, stored_results, use_default_device
from fmtutorial.manifolds import Sphere

CPU = torch.device("cpu")


@pytest.mark.parametrize("available, kind", [(True, "cuda"), (False, "cpu")])
def test_device_is_the_gpu_where_there_is_one(monkeypatch, available, kind):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert default_device() == torch.device(kind)
    made = []
    monkeypatch.setattr(torch, "set_default_device", made.append)
    assert use_default_device() == torch.device(kind)
    assert made == ([torch.device("cuda")] if available else [])


@pytest.mark.parametrize("value, text", [(0.25, "0.25"), ("about 3", "'about 3'")])
def test_record_stores_a_value_under_its_name_and_shows_nothing(monkeypatch, value, text):
    """In the form of myst-nb's glue: a mime type no front end draws, and the name beside it."""
    shown = []
    monkeypatch.setattr(
        "IPython.display.display", lambda *data, **options: shown.append((data, options))
    )
    record("error", value)
    (((bundle,), options),) = shown
    assert bundle == {"application/papermill.record/text/plain": text}
    assert options["raw"] is True
    assert options["metadata"] == {
        "scrapbook": {"name": "error", "mime_prefix": "application/papermill.record/"}
    }


def test_stored_results_come_from_the_package(monkeypatch, tmp_path):
    """From results/NAME.json of the installed package, wherever that is; in UTF-8."""
    folder = tmp_path / "fmtutorial" / "results"
    folder.mkdir(parents=True)
    text = '{"W₂": [1.5, 2], "provenance": {"seeds": [0, 1, 2]}}'
    (folder / "some-name.json").write_bytes(text.encode())
    monkeypatch.setattr("fmtutorial.labs.resources.files", lambda package: tmp_path / package)
    assert stored_results("some-name") == {"W₂": [1.5, 2], "provenance": {"seeds": [0, 1, 2]}}
    with pytest.raises(FileNotFoundError, match="other-name.json"):
        stored_results("other-name")


def test_results_of_no_experiment_are_not_found():
    with pytest.raises(FileNotFoundError, match="no-such-experiment.json"):
        stored_results("no-such-experiment")


def test_description_of_this_machine():
    described = hardware(CPU)
    assert list(described) == ["python", "torch", "device", "cpu", "threads"]
    assert described["python"] == platform.python_version()
    assert described["torch"] == torch.__version__ and described["device"] == "cpu"
    assert described["threads"] == torch.get_num_threads()
    assert all(isinstance(described[k], str) and described[k] for k in list(described)[:4])
    # plain values, as it goes into files of JSON
    assert json.loads(json.dumps(described)) == described


def test_a_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU number {device.index}")
    described = hardware(torch.device("cuda", 3))
    assert described["device"] == "GPU number 3"
    assert described["cpu"] == hardware(CPU)["cpu"]


@pytest.mark.parametrize(
    "text, cpu",
    [
        ("processor\t: 0\nmodel name\t: Fast CPU @ 3 GHz\nmodel name\t: B\n", "Fast CPU @ 3 GHz"),
        ("processor\t: 0\nBogoMIPS\t: 50\n", "as Python has it"),
        (None, "as Python has it"),
    ],
    ids=["x86", "arm", "no Linux"],
)
def test_where_the_name_of_a_cpu_comes_from(monkeypatch, tmp_path, text, cpu):
    file = tmp_path / "cpuinfo"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(labs, "Path", lambda path: tmp_path / path.rsplit("/", 1)[1])
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "as Python has it")
    assert hardware(CPU)["cpu"] == cpu


@pytest.mark.parametrize("value, text", [(np.float64(0.25), "0.25"), (np.int64(3), "3")])
def test_numbers_of_numpy_are_recorded_as_numbers(displayed, value, text):
    """NumPy 2 writes np.float64(0.25), which the prose would show."""
    record("error", value)
    (((bundle,), _),) = displayed
    assert list(bundle.values()) == [text]


def test_the_words_are_words():
    words = labs.shakespeare_words()
    assert len(words) == 8107 and words == sorted(set(words))
    assert all(word.isascii() and word.isalpha() and word.islower() for word in words)
    assert {len(word) for word in words} == set(range(3, 9))
    assert {"tempest", "coxcomb"} < set(words)


def test_airports_are_where_people_fly():
    x = labs.airports()
    globe = Sphere(2)
    assert x.shape == (7884, 3) and x.dtype == torch.float32
    globe.check(x)
    assert 0.6 < (x[:, 2] > 0).float().mean() < 0.8  # in the north
    latitude, longitude = np.radians([51.4706, -0.4619])  # Heathrow
    there = [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude)]
    there = torch.tensor([[*there, np.sin(latitude)]]).float()
    angle = globe.distance(x, there.expand_as(x)).min().item()
    assert angle < 2e-4  # a kilometre; stored to 0.003°


def test_emoji_are_small_colour_images_of_nine_kinds_and_no_two_alike():
    file = resources.files("fmtutorial") / "data" / "emoji.npz"
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        images, labels, names = (stored[key] for key in ("images", "labels", "names"))
    assert images.shape == (1892, 3, 32, 32) and images.dtype == np.uint8
    assert len(np.unique(images, axis=0)) == len(images)
    assert len(names) == 9 and np.bincount(labels).min() > 80
    assert (images[:, :, 0, 0] == 255).mean() > 0.6  # on white
