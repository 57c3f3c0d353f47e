"""Pixels against exact arithmetic, downloads against accidents."""

import functools
import gzip
import hashlib
import http.server
import math
import os
import shutil
import struct
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from fmtutorial.images import data as module
from fmtutorial.images.data import (
    ROOT_VARIABLE,
    ImageSet,
    check_digits,
    dequantise,
    mnist,
    small_digits,
    to_pixels,
    verify,
)

ALL = torch.arange(256, dtype=torch.uint8).reshape(256, 1, 1)
ORIGINALS = Path(__file__).resolve().parents[3] / "shared" / "data" / "mnist"


# Pixels as real numbers.


@pytest.mark.parametrize("steps", [0, 1, 2**15, 2**16 - 2, 2**16 - 1])
def test_no_noise_moves_a_pixel_to_another_value(steps, monkeypatch):
    """Near 1 a sum in float32 would round up to the next value if u had more than 16 bits."""
    u = steps / 2**16
    monkeypatch.setattr(torch, "randint", lambda *shape, **options: torch.full((256, 1, 1), steps))
    x = dequantise(ALL)
    assert x.dtype == torch.float32 and x.shape == (256, 1, 1, 1)
    assert x.min() >= -1 and x.max() < 1
    assert torch.equal(to_pixels(x), ALL)
    assert torch.equal(x.squeeze(1).double(), (ALL.double() + u) / 128 - 1)


def test_a_million_draws_of_every_value_come_back(generator):
    """Of 12 million, some 80 lie within the rounding of 256 of the next value."""
    many = ALL.expand(256, 48, 1000)
    assert torch.equal(to_pixels(dequantise(many, generator)), many)


def test_dequantisation_noise_is_uniform(generator):
    """Its distribution function is off by less than 1.95/√n in 999 of 1000 trials (Kolmogorov)."""
    n = 200_000
    for value in (0, 7, 255):
        constant = torch.full((n, 1, 1), value, dtype=torch.uint8)
        u = (dequantise(constant, generator).double().flatten() + 1) * 128 - value
        expected = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        assert (u.sort().values - expected).abs().max() < 1.95 / math.sqrt(n)
        # neighbours have nothing in common: a correlation of 0 within four standard errors
        assert torch.corrcoef(torch.stack([u[:-1], u[1:]]))[0, 1].abs() < 4 / math.sqrt(n)


def test_dequantisation_repeats_with_its_generator():
    before = torch.get_rng_state()
    draws = [dequantise(ALL, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("shape", [(3,), (3, 28, 28), (3, 3)], ids=str)
def test_dequantisation_adds_a_channel(shape, generator):
    x = dequantise(torch.zeros(shape, dtype=torch.uint8), generator)
    assert x.shape == (3, 1, *shape[1:])


def test_channels_are_kept(generator):
    """Of colour, in order; one channel of a model's is none of the pixels."""
    images = torch.randint(0, 256, (5, 3, 4, 6), dtype=torch.uint8, generator=generator)
    x = dequantise(images, generator)
    assert x.shape == (5, 3, 4, 6) and torch.equal(to_pixels(x), images)
    assert (x - (images / 128 - 1)).min() >= 0
    assert to_pixels(x[:, :1]).shape == (5, 4, 6)
    assert to_pixels(x[:, :2]).shape == (5, 2, 4, 6)


@pytest.mark.parametrize("shape", [(3, 4), (3, 1, 4, 5), (3, 2, 2, 4, 5), (0, 4, 5), (3, 0, 5)])
def test_sets_of_other_shapes_are_refused(shape):
    images, labels = torch.zeros(shape, dtype=torch.uint8), torch.zeros(shape[0], dtype=torch.int64)
    with pytest.raises(ValueError, match=r"pass|without a channel"):
        check_digits(ImageSet(images, labels))
    check_digits(ImageSet(torch.zeros(3, 2, 4, 5, dtype=torch.uint8), torch.zeros(3).long()))


def test_pixels_by_hand():
    """Each value has a width of 1/128; what lies outside is clamped, as samples often do."""
    below = -1e-6
    values = [-9.0, -1 + below, -1.0, -1 + 1 / 128, -1 + 1 / 128 + below, below, 0.0]
    values += [1 + below, 1.0, 300.0]
    pixels = to_pixels(torch.tensor(values).reshape(-1, 1, 1, 1))
    assert pixels.dtype == torch.uint8 and pixels.shape == (10, 1, 1)
    assert pixels.flatten().tolist() == [0, 0, 0, 1, 0, 127, 128, 255, 255, 255]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_pixels_of_other_precisions(dtype):
    """Of numbers that the precision has; 1 + x has more digits than bfloat16's eight."""
    x = ((ALL.double() + 0.5) / 128 - 1)[:, None].to(dtype)
    exact = ((x.double() + 1) * 128).floor().clamp(0, 255).byte()[:, 0]
    assert torch.equal(to_pixels(x), exact)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_grey_level_stands_for_what_is_not_finite(value):
    x = torch.zeros(2, 1, 3, 3)
    x[1, 0, 2, 1] = value
    with pytest.raises(ValueError, match="x holds NaN or infinity"):
        to_pixels(x)


def test_no_images_are_images():
    assert dequantise(ALL[:0]).shape == (0, 1, 1, 1)
    assert to_pixels(torch.zeros(0, 1, 2, 3)).shape == (0, 2, 3)


def test_wrong_images_are_refused():
    with pytest.raises(ValueError, match="no batch dimension"):
        dequantise(torch.tensor(3, dtype=torch.uint8))
    for wrong in (ALL.float(), ALL.long(), ALL.bool()):
        with pytest.raises(TypeError, match=f"images have dtype {wrong.dtype}; pass torch.uint8"):
            dequantise(wrong)
    with pytest.raises(TypeError, match="dtype torch.uint8; states are real numbers"):
        to_pixels(ALL[:, None])
    for shape in ((3, 28, 28), (3, 3, 3, 28, 28), (3, 0, 2, 2)):
        with pytest.raises(ValueError, match=r"pass \(B, channels, height, width\)"):
            to_pixels(torch.zeros(shape))


# The digits of the package.


@pytest.mark.parametrize("split", ["train", "test"])
def test_small_digits_have_a_hundred_of_each_class(split):
    images, labels = small_digits(split)
    assert images.dtype == torch.uint8 and images.shape == (1000, 28, 28)
    assert labels.dtype == torch.int64 and labels.shape == (1000,)
    assert torch.bincount(labels).tolist() == [100] * 10
    # in a random order: of 1000 the first 100 hold each class
    assert len(labels[:100].unique()) == 10
    assert images.min() == 0 and images.max() == 255
    assert len(images.flatten(1).unique(dim=0)) == 1000


def test_small_splits_share_no_digit():
    both = torch.cat([small_digits(split).images for split in ("train", "test")])
    assert len(both.flatten(1).unique(dim=0)) == 2000


def test_an_unknown_split_is_refused(tmp_path):
    for read in (small_digits, functools.partial(mnist, root=tmp_path)):
        with pytest.raises(ValueError, match='unknown split "val"; choose from train, test'):
            read("val")
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(not (ORIGINALS / "unpack").exists(), reason="no copy of MNIST beside us")
def test_small_digits_are_mnists(tmp_path, monkeypatch):
    """Each is a digit of that split with that label; and a good copy needs no download."""
    monkeypatch.setattr(datasets.MNIST, "mirrors", [])
    subprocess.run(["sh", ORIGINALS / "unpack", tmp_path], check=True)
    for split, n in (("train", 60_000), ("test", 10_000)):
        whole = mnist(split, tmp_path)
        assert whole.images.shape == (n, 28, 28) and whole.images.dtype == torch.uint8
        assert whole.labels.shape == (n,) and whole.labels.dtype == torch.int64
        known = {
            hashlib.md5(image.tobytes()).digest(): label
            for image, label in zip(whole.images.numpy(), whole.labels.tolist(), strict=True)
        }
        images, labels = small_digits(split)
        found = [known.get(hashlib.md5(image.tobytes()).digest()) for image in images.numpy()]
        assert found == labels.tolist()


# Downloads, from a server of our own with three training and two test digits.

NAMES = list(module.CHECKSUMS)


def idx(array):
    """The format of MNIST's files: 0, 0, 8 for bytes, the number of dimensions, sizes, bytes."""
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return head + array.astype(np.uint8).tobytes()


def tiny_files():
    random = np.random.default_rng(0)
    files = {}
    for prefix, n in (("train", 3), ("t10k", 2)):
        files[f"{prefix}-images-idx3-ubyte"] = idx(random.integers(0, 256, (n, 28, 28)))
        files[f"{prefix}-labels-idx1-ubyte"] = idx(np.arange(n) + 4)
    return files


def md5(data):
    return hashlib.md5(data).hexdigest()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and lists what was asked for, without a line for each request."""

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.server.requests.append(self.path)
        super().do_GET()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A mirror of tiny files, which the package takes for MNIST; ``requests`` lists."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "mirror"
    folder.mkdir()
    files = tiny_files()
    packed = {name: gzip.compress(data, mtime=0) for name, data in files.items()}
    for name, data in packed.items():
        (folder / f"{name}.gz").write_bytes(data)
    resources = [(f"{name}.gz", md5(data)) for name, data in packed.items()]
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.requests, running.folder, running.files = [], folder, files
        mirror = f"http://127.0.0.1:{running.server_port}/"
        monkeypatch.setattr(datasets.MNIST, "mirrors", [mirror])
        monkeypatch.setattr(datasets.MNIST, "resources", resources)
        monkeypatch.setattr(module, "CHECKSUMS", {n: md5(d) for n, d in files.items()})
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def contents(root):
    """Every file below a folder, by its path."""
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_a_download_is_verified_and_then_offline(server, tmp_path):
    root = tmp_path / "new" / "data"
    images, labels = mnist("test", root)
    assert images.shape == (2, 28, 28) and labels.tolist() == [4, 5]
    assert images.numpy().tobytes() == server.files["t10k-images-idx3-ubyte"][16:]
    # the four files and nothing else: no archive, no temporary folder
    assert contents(root) == {f"MNIST/raw/{name}": data for name, data in server.files.items()}
    assert sorted(p.name for p in root.iterdir()) == ["MNIST"]
    assert set(server.requests) == {f"/{name}.gz" for name in NAMES}
    server.requests.clear()
    assert mnist("train", root).labels.tolist() == [4, 5, 6]
    assert server.requests == []


def test_one_missing_file_is_enough_to_download(server, tmp_path):
    mnist("test", tmp_path / "data")
    before = contents(tmp_path / "data")
    (tmp_path / "data" / "MNIST" / "raw" / NAMES[1]).unlink()
    assert len(mnist("train", tmp_path / "data").labels) == 3
    assert contents(tmp_path / "data") == before


def test_the_environment_variable_says_where(server, tmp_path, monkeypatch):
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path / "there"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    mnist()
    assert set(os.listdir(tmp_path)) == {"mirror", "there"}
    # a folder that is passed comes first
    mnist(root=str(tmp_path / "here"))
    assert set(os.listdir(tmp_path)) == {"mirror", "there", "here"}
    monkeypatch.delenv(ROOT_VARIABLE)
    mnist()
    assert contents(tmp_path / "home" / ".cache" / "fmtutorial") == contents(tmp_path / "there")


def another(data):
    """A file of the same format and length with one other byte."""
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("noticed", ["by torchvision", "by us"])
def test_a_corrupted_download_leaves_old_data_as_it_was(server, tmp_path, monkeypatch, noticed):
    """One file is missing beside three others, one of them damaged; what comes is wrong too."""
    name = NAMES[2]
    wrong = gzip.compress(another(server.files[name]), mtime=0)
    (server.folder / f"{name}.gz").write_bytes(wrong)
    if noticed == "by us":  # the archive has the checksum that torchvision expects
        monkeypatch.setattr(
            datasets.MNIST,
            "resources",
            [(n, md5((server.folder / n).read_bytes())) for n, _ in datasets.MNIST.resources],
        )
    root = tmp_path / "data"
    (root / "MNIST" / "raw").mkdir(parents=True)
    for old in NAMES[:3]:
        (root / "MNIST" / "raw" / old).write_bytes(server.files[old][:-5])
    before = contents(root)
    with pytest.raises((ValueError, RuntimeError, OSError), match=name):
        mnist("test", root)
    assert contents(root) == before
    assert os.listdir(root) == ["MNIST"]


@pytest.mark.parametrize("keep", [0, 20, -1])
def test_a_truncated_archive_is_refused(server, tmp_path, keep):
    path = server.folder / f"{NAMES[0]}.gz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises((ValueError, RuntimeError, OSError), match=NAMES[0]):
        mnist("test", tmp_path / "data")
    assert contents(tmp_path / "data") == {}
    assert not any((tmp_path / "data").iterdir())


def test_no_server_is_an_error_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])  # "discard": closed
    with pytest.raises((RuntimeError, OSError), match="Error downloading train-images"):
        mnist("test", tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: b"", another], ids=["1", "0", "x"])
def test_a_damaged_file_is_refused_by_its_name(server, tmp_path, name, damage):
    """Whichever split is asked for, and without a download: the message says what to do."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for each, data in server.files.items():
        (raw / each).write_bytes(data)
    verify(raw)
    wrong = damage(server.files[name])
    (raw / name).write_bytes(wrong)
    for split in ("train", "test"):
        with pytest.raises(ValueError, match=f"{name} is not MNIST's: its MD5 is {md5(wrong)}"):
            mnist(split, tmp_path)
    assert server.requests == []
    # as the message says
    (raw / name).unlink()
    with pytest.raises(ValueError, match=f"{name} is not MNIST's: its MD5 is missing"):
        verify(raw)
    mnist("test", tmp_path)
    assert (raw / name).read_bytes() == server.files[name]
    shutil.rmtree(tmp_path / "MNIST")
