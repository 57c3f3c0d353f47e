"""Files whole or not at all, and checkpoints against accidents."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from fmtutorial.checkpoints import load_checkpoint, save_checkpoint, writing


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


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path):
    torch.save({"weights": Bomb(tmp_path / "exploded")}, tmp_path / "foreign.pt")
    with pytest.raises(ValueError, match="not a checkpoint"):
        load_checkpoint(tmp_path / "foreign.pt")
    assert not (tmp_path / "exploded").exists()
    torch.load(tmp_path / "foreign.pt", weights_only=False)  # it was live
    assert (tmp_path / "exploded").exists()


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*missing.pt"):
        load_checkpoint(tmp_path / "missing.pt")


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
