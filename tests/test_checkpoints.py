"""Files whole or not at all, and checkpoints against accidents."""

import hashlib
import io
import math
import os
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from fmtutorial.checkpoints import MARK, check_form, load_checkpoint, save_checkpoint, writing


def linear(seed=0):
    torch.manual_seed(seed)
    return nn.Linear(3, 2)


def weights_of(network):
    return [p.detach().clone() for p in network.parameters()]


# Files.


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002], ids=oct)
def test_a_file_may_be_read_by_whom_the_umask_lets(tmp_path, mask):
    before = os.umask(mask)
    try:
        with writing(tmp_path / "ours") as file:
            file.write(b"1")
        save_checkpoint(tmp_path / "run.pt", {"step": 1})
        (tmp_path / "plain").touch()
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}
    assert modes["ours"] == modes["run.pt"] == modes["plain"]


def test_a_file_takes_its_place_when_it_is_complete(tmp_path):
    path = tmp_path / "digits.png"
    path.write_bytes(b"old")
    with writing(str(path)) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
        (partial,) = set(tmp_path.iterdir()) - {path}
        assert partial.name.startswith("digits.png.partial-") and partial.read_bytes() == b"new"
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_two_writers_do_not_mix(tmp_path):
    """Each has a file of its own until the end; the last to end is there, whole."""
    path = tmp_path / "digits.png"
    with writing(path) as first, writing(path) as second:
        for letter in (b"a", b"b") * 3:
            (first if letter == b"a" else second).write(letter)
    assert path.read_bytes() == b"aaa" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(1)], ids=repr)
def test_nothing_is_left_of_a_file_that_failed(tmp_path, error):
    path = tmp_path / "digits.png"
    path.write_bytes(b"old")
    with pytest.raises(type(error)), writing(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_places_where_no_file_can_be(tmp_path):
    """A device would be replaced by a file, if root wrote there."""
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe", "/dev/null"):
        with pytest.raises(ValueError, match=f"{place} is there and is no file"), writing(place):
            pass
    with (
        pytest.raises(FileNotFoundError, match="no folder .*nowhere for x.png: make it first"),
        writing(tmp_path / "nowhere" / "x.png"),
    ):
        pass


# Checkpoints.


def trained(steps, network=None, optimizer=None):
    """A network and its AdamW after some steps of a fixed problem."""
    network = network or linear()
    optimizer = optimizer or torch.optim.AdamW(network.parameters(), lr=0.1)
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(5))
    for _ in range(steps):
        optimizer.zero_grad()
        network(x).square().sum().backward()
        optimizer.step()
    return network, optimizer


def test_training_goes_on_from_a_checkpoint_as_if_never_stopped(tmp_path):
    whole, _ = trained(6)
    network, optimizer = trained(3)
    path = tmp_path / "run.pt"
    save_checkpoint(
        path,
        {
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": 3,
            "lr": 0.1,
        },
    )
    state = load_checkpoint(str(path))
    assert state["step"] == 3 and state["lr"] == 0.1
    fresh = linear(seed=9)
    fresh.load_state_dict(state["network"])
    resumed = torch.optim.AdamW(fresh.parameters(), lr=0.5)
    resumed.load_state_dict(state["optimizer"])
    trained(3, fresh, resumed)
    assert all(map(torch.equal, weights_of(fresh), weights_of(whole)))
    assert os.listdir(tmp_path) == ["run.pt"]


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(tmp_path, keep):
    path = tmp_path / "run.pt"
    save_checkpoint(path, {"weights": torch.zeros(1000)})
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(keep * len(whole))])
    with pytest.raises(ValueError, match="run.pt is not a checkpoint .* or it is truncated"):
        load_checkpoint(path)


class Bomb:
    """A pickle that would make a folder when it is loaded."""

    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


def forge(path, content):
    """Write a file with the right checksum of whatever it holds."""
    path.write_bytes(content + MARK + hashlib.sha256(content).digest())


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path):
    path = tmp_path / "foreign.pt"
    torch.save({"weights": Bomb(tmp_path / "exploded")}, path)
    content = path.read_bytes()
    with pytest.raises(ValueError, match="not a checkpoint .*no checksum"):
        load_checkpoint(path)
    forge(path, content)
    with pytest.raises(ValueError, match="not a checkpoint .*Weights only load failed"):
        load_checkpoint(path)
    assert not (tmp_path / "exploded").exists()
    torch.load(io.BytesIO(content), weights_only=False)  # it was live
    assert (tmp_path / "exploded").exists()


def test_a_flipped_bit_is_noticed(tmp_path):
    """In every fifth byte, of the checksum too; before PyTorch sees the file."""
    path, state = tmp_path / "run.pt", {"weights": torch.arange(6.0), "step": 3}
    save_checkpoint(path, state)
    whole = path.read_bytes()
    for place in range(len(whole) % 5 - 1 + 5, len(whole), 5):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"run.pt is not a checkpoint .*checksum"):
            load_checkpoint(path)
    path.write_bytes(whole)
    assert torch.equal(load_checkpoint(path)["weights"], state["weights"])
    # PyTorch alone reads it too
    assert torch.load(path, weights_only=True)["step"] == 3


def test_a_compressed_file_is_refused(tmp_path):
    """A megabyte of it may be a gigabyte of zeros."""
    path, plain = tmp_path / "run.pt", io.BytesIO()
    torch.save({"weights": torch.zeros(10_000)}, plain)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        packed = io.BytesIO()
        with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", method) as target:
            for name in source.namelist():
                target.writestr(name, source.read(name))
        forge(path, packed.getvalue())
        if method == zipfile.ZIP_STORED:
            assert load_checkpoint(path)["weights"].shape == (10_000,)
    assert path.stat().st_size < 3000
    with pytest.raises(ValueError, match="run.pt is not a checkpoint .*it is compressed"):
        load_checkpoint(path)


def test_a_missing_checkpoint_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing.pt", "pipe", ""):
        with pytest.raises(FileNotFoundError, match=f"no checkpoint at .*{name}"):
            load_checkpoint(tmp_path / name)


# The form of a state.

FORM = {"w": torch.zeros(2, 3), "n": {0: 1, "x": 0.5}, "names": ["a"], "none": None}


def test_a_state_has_its_own_form_whatever_its_values():
    check_form(FORM, FORM)
    meta = FORM | {"w": torch.empty(2, 3, device="meta")}
    check_form({"w": torch.ones(2, 3), "n": {0: 7, "x": -2.0}, "names": [], "none": None}, meta)


OTHER_FORMS = {
    "missing": ({k: v for k, v in FORM.items() if k != "n"}, "lacks n"),
    "surplus": (FORM | {"more": 1}, "should not have more"),
    "deep": (FORM | {"n": {0: 1}}, "the state, n lacks x"),
    "no dictionary": ([FORM], "the state is a list, not a dict"),
    "other type": (FORM | {"n": {0: 1.0, "x": 0.5}}, "the state, n, 0 is a float, not a int"),
    "boolean": (FORM | {"n": {0: True, "x": 0.5}}, "the state, n, 0 is a bool, not a int"),
    "NaN": (FORM | {"n": {0: 1, "x": math.nan}}, "the state, n, x is nan"),
    "no tensor": (FORM | {"w": [0.0]}, "w is a list, not a Tensor"),
    "parameter": (FORM | {"w": nn.Parameter(FORM["w"])}, "w is a Parameter, not a Tensor"),
    "shape": (FORM | {"w": torch.zeros(3, 2)}, r"w is torch.float32 of shape \(3, 2\), not"),
    "scalar": (FORM | {"w": torch.zeros(())}, r"shape \(\), not torch.float32 of shape \(2, 3\)"),
    "dtype": (
        FORM | {"w": torch.zeros(2, 3).double()},
        r"w is torch.float64 .*, not torch.float32",
    ),
    "sparse": (FORM | {"w": torch.zeros(2, 3).to_sparse()}, "w is .*sparse"),
    "meta": (FORM | {"w": torch.empty(2, 3, device="meta")}, "w is "),
    "infinite": (FORM | {"w": torch.full((2, 3), math.inf)}, "w is not finite"),
}


@pytest.mark.parametrize("found, match", OTHER_FORMS.values(), ids=OTHER_FORMS)
def test_another_form_is_refused(found, match):
    with pytest.raises(ValueError, match=match):
        check_form(found, FORM)


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("place", ["save", "replace"])
def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, error, place):
    path = tmp_path / "run.pt"
    save_checkpoint(path, {"step": 1})

    def fail_midway(state, file):
        file.write(b"half of a checkpoint")
        raise error

    def fail(source, target):
        raise error

    if place == "save":
        monkeypatch.setattr(torch, "save", fail_midway)
    else:
        monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(type(error)):
        save_checkpoint(path, {"step": 2})
    monkeypatch.undo()
    assert load_checkpoint(path) == {"step": 1}
    assert os.listdir(tmp_path) == ["run.pt"]


def test_a_second_save_replaces_the_first(tmp_path):
    path = tmp_path / "run.pt"
    for step in (1, 2):
        save_checkpoint(path, {"step": step})
    assert load_checkpoint(path) == {"step": 2}
    assert os.listdir(tmp_path) == ["run.pt"]
