"""Images by name, from arrays, and from torchvision's own files, without a network."""

import gzip
import hashlib
import io
import os
import pickle
import re

import numpy as np
import pytest
import torch
from test_data import idx
from torchvision import datasets

from fmtutorial.images import sources as module
from fmtutorial.images.data import ROOT_VARIABLE, small_digits
from fmtutorial.images.folders import held_out
from fmtutorial.images.pictures import squared
from fmtutorial.images.sources import BY_FLAG, BY_WORD, NAMES, read_images


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def line(source, *words, kind=ValueError, **options):
    with pytest.raises(kind) as found:
        read_images(source, **options)
    text = str(found.value)
    assert "\n" not in text
    for word in words:
        assert str(word) in text, text


# What the package brings.


def test_small_is_the_small_digits():
    for split in ("train", "test"):
        found, expected = read_images("small", split), small_digits(split)
        assert all(map(torch.equal, found, expected))
    assert torch.equal(read_images("small", size=14).images, squared(expected_images(), 14))


def expected_images():
    return small_digits("train").images


def test_emoji_are_small_pictures_in_colour():
    seen, unseen = (read_images("emoji", split) for split in ("train", "test"))
    assert seen.images.shape == (1703, 3, 32, 32) and unseen.images.shape == (189, 3, 32, 32)
    assert seen.labels.unique().tolist() == unseen.labels.unique().tolist() == list(range(9))
    both = torch.cat([seen.images, unseen.images]).flatten(1)
    assert len(both.unique(dim=0)) == len(both)  # none is held out that was seen
    assert (both == 255).float().mean() > 0.3  # on white


# Arrays.


@pytest.mark.parametrize(
    "shape, turned",
    [
        ((25, 6, 5), (6, 5)),
        ((25, 6, 5, 1), (6, 5)),
        ((25, 1, 6, 5), (6, 5)),
        ((25, 6, 5, 3), (3, 6, 5)),
        ((25, 3, 6, 5), (3, 6, 5)),
        ((25, 4, 6, 5), (4, 6, 5)),
        ((25, 6, 5, 2), (2, 6, 5)),
        ((25, 3, 7, 3), (3, 7, 3)),
        ((25, 2, 7, 3), (3, 2, 7)),
        ((2, 1, 1), (1, 1)),
    ],
    ids=str,
)
def test_arrays_have_their_channels_in_front(tmp_path, shape, turned):
    given = pixels(*shape)
    np.save(tmp_path / "a.npy", given)
    seen, unseen = (read_images(tmp_path / "a.npy", split) for split in ("train", "test"))
    assert seen.images.shape[1:] == turned and not seen.labels.any()
    # channels that were last are in front, and one channel is none
    plain = torch.from_numpy(given)
    last = len(shape) == 4 and turned == (shape[3], *shape[1:3]) != shape[1:]
    plain = plain.movedim(-1, 1) if last else plain
    rows = held_out(torch.zeros(len(given), dtype=torch.int64), "test")
    assert torch.equal(unseen.images, plain[rows].reshape(-1, *turned))
    assert len(seen.images) + len(unseen.images) == len(given)


def test_archives_have_labels(tmp_path):
    labels = np.arange(25, dtype=np.uint8) % 3
    np.savez(tmp_path / "a.npz", images=pixels(25, 6, 5), labels=labels, names=np.array(["a"] * 3))
    seen, unseen = (read_images(tmp_path / "a.npz", split) for split in ("train", "test"))
    assert unseen.labels.tolist() == [0, 1] and seen.labels.dtype == torch.int64
    assert seen.labels.tolist() == [i % 3 for i in range(25) if i not in (9, 19)]
    np.savez(tmp_path / "b.npz", images=pixels(25, 6, 5))
    assert not read_images(tmp_path / "b.npz").labels.any()


def test_arrays_are_resized(tmp_path):
    for shape in ((2500, 6, 5), (5, 4, 8, 5)):
        np.save(tmp_path / "a.npy", pixels(*shape))
        whole = read_images(tmp_path / "a.npy").images
        found = read_images(tmp_path / "a.npy", size=3)
        assert torch.equal(found.images, squared(whole, 3)) and len(found.labels) == len(whole)


@pytest.mark.parametrize(
    "given, words",
    [
        (pixels(5, 6, 5).astype(np.float32), ["float32; pass unsigned bytes", "255 * x"]),
        (np.full((5, 6, 5), np.nan), ["float64 with NaN or infinity; pass unsigned bytes"]),
        (pixels(5, 6, 5).astype(np.int64), ["int64; pass unsigned bytes"]),
        (np.array(["a"] * 5), ["pass unsigned bytes"]),
        (pixels(1, 6, 5), ["holds one image; pass two or more"]),
        (pixels(0, 6, 5), ["shape (0, 6, 5)"]),
        (pixels(5, 0, 5), ["shape (5, 0, 5)"]),
        (pixels(30), ["shape (30,); pass (N, height, width)"]),
        (pixels(30, 4), ["shape (30, 4)"]),
        (pixels(3, 6, 5, 8), ["with at most 4 channels"]),
        (pixels(3, 2, 2, 2, 2), ["shape (3, 2, 2, 2, 2)"]),
        (np.array([{"a": 1}] * 3, dtype=object), ["is no array of images", "may run code"]),
    ],
    ids=lambda x: str(x)[:20] if isinstance(x, list) else "",
)
def test_arrays_that_are_no_images_are_refused(tmp_path, given, words):
    np.save(tmp_path / "a.npy", given, allow_pickle=True)
    line(tmp_path / "a.npy", tmp_path / "a.npy", *words)


@pytest.mark.parametrize(
    "labels, words",
    [
        (np.zeros(4, int), "labels of int64 and shape (4,); pass whole numbers from 0, shape (5,)"),
        (np.zeros(5), "labels of float64"),
        (np.arange(5) - 1, "labels run from -1 to 3"),
        (np.array([0, 0, 0, 0, 10**6]), "labels run from 0 to 1000000"),
    ],
    ids=str,
)
def test_labels_that_are_none_are_refused(tmp_path, labels, words):
    np.savez(tmp_path / "a.npz", images=pixels(5, 6, 5), labels=labels)
    line(tmp_path / "a.npz", words)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_code_in_a_file_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.npy").write_bytes(pickle.dumps(Bomb()))
    np.save(tmp_path / "b.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "c.npz", images=np.array([Bomb()], dtype=object))
    for name in ("a.npy", "b.npy", "c.npz"):
        line(tmp_path / name, "may run code")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [b"", b"?", b"\x93NUMPY", b"PK\x03\x04"])
def test_files_that_are_no_arrays_are_refused(tmp_path, content):
    for name in ("a.npy", "a.npz", "a"):
        (tmp_path / name).write_bytes(content)
        line(tmp_path / name, tmp_path / name, "is no array of images")
    whole = io.BytesIO()
    np.save(whole, pixels(5, 6, 5))
    (tmp_path / "cut.npy").write_bytes(whole.getvalue()[:-1])
    line(tmp_path / "cut.npy", "is no array of images")
    np.savez(tmp_path / "other.npz", pictures=pixels(5, 6, 5))
    line(tmp_path / "other.npz", "['pictures']; pass an .npz with images and labels")


def test_unknown_sources_are_refused(tmp_path):
    line(tmp_path / "none", "no images at", *NAMES, kind=FileNotFoundError)
    line("cifar10", "CIFAR10", kind=FileNotFoundError)
    line("small", "unknown split", split="val")
    for size, kind in ((0, ValueError), ("3", TypeError)):
        line("small", "size is", size=size, kind=kind)


def test_a_name_is_no_folder_and_a_path_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()
    assert len(read_images("small").images) == 1000
    line("./small", "there are no pictures in small")


# Torchvision's own files, made here; its checksums are those of the originals.


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path / "data"))
    return tmp_path / "data"


def make_fashion(root):
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    made = {}
    for prefix, n in (("train", 5), ("t10k", 3)):
        made[prefix] = pixels(n, 28, 28), np.arange(n, dtype=np.uint8)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(idx(made[prefix][0]))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(made[prefix][1]))
    return made


def make_cifar(root, monkeypatch):
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    images, sums = pixels(6, 4, 3 * 32 * 32), {}
    for i, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        content = pickle.dumps({"data": images[i], "labels": [i, 9, 0, 1]})
        (folder / name).write_bytes(content)
        sums[name] = hashlib.md5(content).hexdigest()
    meta = pickle.dumps({"label_names": list("abcdefghij")})
    (folder / "batches.meta").write_bytes(meta)
    known = {"filename": "batches.meta", "key": "label_names", "md5": hashlib.md5(meta).hexdigest()}
    monkeypatch.setattr(datasets.CIFAR10, "meta", known)
    monkeypatch.setattr(datasets.CIFAR10, "train_list", list(sums.items())[:5])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", list(sums.items())[5:])
    return torch.from_numpy(images).reshape(6, 4, 3, 32, 32)


def test_fashion_mnist_from_its_files(root):
    made = make_fashion(root)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = read_images("FashionMNIST", split)
        assert torch.equal(images, torch.from_numpy(made[prefix][0]))
        assert labels.tolist() == made[prefix][1].tolist() and labels.dtype == torch.int64
    assert read_images("FashionMNIST", size=14).images.shape == (5, 14, 14)


def test_cifar_from_its_files(root, monkeypatch):
    images = make_cifar(root, monkeypatch)
    seen, unseen = (read_images("CIFAR10", split) for split in ("train", "test"))
    assert torch.equal(seen.images, images[:5].flatten(0, 1))
    assert torch.equal(unseen.images, images[5])
    assert seen.labels.tolist()[:8] == [0, 9, 0, 1, 1, 9, 0, 1] and unseen.labels[0] == 5


def test_a_download_comes_whole_into_its_place(root, monkeypatch):
    """What was begun there before is completed; nothing else is left behind."""
    packed = {}

    def download(self):
        made = make_fashion(type(root)(self.root))
        packed.update(made)

    monkeypatch.setattr(datasets.FashionMNIST, "download", download)
    (root / "FashionMNIST" / "raw").mkdir(parents=True)
    (root / "FashionMNIST" / "raw" / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"?"))
    found = read_images("FashionMNIST", "test")
    assert torch.equal(found.images, torch.from_numpy(packed["t10k"][0]))
    assert os.listdir(root) == ["FashionMNIST"]


@pytest.mark.parametrize("name", ["FashionMNIST", "CIFAR10", "SVHN"])
def test_a_failed_download_says_what_to_do(root, monkeypatch, name):
    def refuse(*arguments, **options):
        raise OSError("no\nnetwork")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    line(name, name, root, "no network", "FMTUTORIAL_DATA", kind=OSError)
    assert os.listdir(root) == []


def test_damaged_files_of_torchvision_are_not_opened(root, monkeypatch):
    """A pickle of another checksum is not one of CIFAR-10."""
    monkeypatch.chdir(root.parent)
    make_cifar(root, monkeypatch)
    (root / "cifar-10-batches-py" / "data_batch_1").write_bytes(pickle.dumps(Bomb()))
    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: 1 / 0)
    line("CIFAR10", "CIFAR10 is not in", kind=OSError)
    assert not (root.parent / "exploded").exists()


def test_sizes_of_torchvision_are_made_one(root, monkeypatch):
    """As those of a folder."""
    from PIL import Image

    items = [(Image.fromarray(pixels(h, w, 3)), k) for k, (h, w) in enumerate([(8, 9), (7, 7)])]
    monkeypatch.setattr(module, "_made", lambda *arguments: items)
    line("Flowers102", "several sizes", "--size 32")
    images, labels = read_images("Flowers102", size=4)
    assert images.shape == (2, 3, 4, 4) and labels.tolist() == [0, 1]


def test_every_name_is_a_data_set_of_torchvision():
    """With the argument for a split that it is asked with."""
    import inspect

    for names, word in ((BY_FLAG, "train"), (BY_WORD, "split")):
        for name in names:
            kind = getattr(datasets, name)
            given = {p for c in kind.__mro__[:-1] for p in inspect.signature(c.__init__).parameters}
            assert word in given, name
            assert re.fullmatch(r"\w+", name)
