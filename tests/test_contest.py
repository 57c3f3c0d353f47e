"""The few-steps contest: honest samplers are ranked, broken and cheating ones get a reason."""

import base64
import csv
import io
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from importlib import resources
from pathlib import Path
from statistics import mean, stdev

import pytest
import torch
from test_grading import processes

from fmtutorial.coursework import contest as playing
from fmtutorial.coursework import contest_board as board
from fmtutorial.coursework import contest_command, contest_files, contest_scores, sealing
from fmtutorial.coursework.__main__ import main
from fmtutorial.coursework.contest import Made, Refused, honest, tasks, trial_of
from fmtutorial.coursework.contest_board import Entry, markdown, placed, records
from fmtutorial.coursework.contest_files import HOUSE, SIZES, find, read
from fmtutorial.coursework.contest_scores import Scores, copies, real
from fmtutorial.coursework.grading import Unreadable
from fmtutorial.images.data import small_digits
from fmtutorial.images.weights import load_weights, save_weights
from fmtutorial.networks import DiT, UNet

DATA = Path(str(resources.files("fmtutorial"))) / "data"
BUDGETS = (1, 2)
LINUX = sys.platform == "linux"

PAGE = (Path(__file__).resolve().parents[1] / "book" / "contest.md").read_text(encoding="utf-8")
EULER = re.search(r"```python\n(def sample.*?)```", PAGE, re.DOTALL)[1]
LIBRARY = """\
from fmtutorial.images import sampling

def sample(evaluate, noise, labels, budget):
    field = lambda x, t: evaluate(x, t, labels)
    return sampling.sample(field, noise[:, 0], "dpm", budget).last
"""
RENOISED = """\
def sample(evaluate, noise, labels, budget):
    x = noise[:, 0]
    for k in range(budget):
        t = 0.8 * k / budget
        x = t * x + (1 - t) * noise[:, k] if k else x
        x = x + (1 - t) * evaluate(x, t, labels)
    return x
"""
GUIDED = """\
def sample(evaluate, noise, labels, budget):
    x = noise[:, 0]
    v = evaluate(x, 0.0, labels)
    return x + (v if budget == 1 else 2 * v - evaluate(x, 0.0))
"""
LEARNS = """\
import torch

def sample(evaluate, noise, labels, budget):
    scale = torch.ones((), requires_grad=True)
    with torch.enable_grad():
        (scale * noise[:, 0]).square().sum().backward()
    return noise[:, 0] + evaluate(noise[:, 0], 0.0, labels) + 0 * scale.grad
"""
HONEST = {
    "plain": EULER,
    "library": LIBRARY,
    "renoised": RENOISED,
    "guided": GUIDED,
    "gradients": LEARNS,
    "prints": EULER + "print('| 1 | prints | 0.1 |')\n",
    "jump": HOUSE["one step"][0],
}


LENDS = """\
import torch

def sample(evaluate, noise, labels, budget):
    x = noise[:, 0]
    v = evaluate(x, 0.0, labels)
    if budget == 1:
        return x + v
    easy, hard = (torch.nonzero(labels % 2 == k)[:, 0] for k in (1, 0))
    easy, hard = easy[: len(hard)], hard[: len(easy)]
    z, c, t = x + v / 2, labels.clone(), torch.full((len(x),), 0.5)
    z[easy], c[easy], t[easy] = z[hard], c[hard], 0.6
    w = evaluate(z, t, c)
    w[hard] = (w[hard] + w[easy]) / 2
    w[easy] = v[easy]
    return x + v / 2 + w / 2
"""
REMEMBERS = """\
import torch

seen = {}

def sample(evaluate, noise, labels, budget):
    v = evaluate(noise[:, 0], 0.0, labels)
    keys = [float(row.sum()) for row in noise[:, 0]]
    for key, x in zip(keys, v + torch.randn(v.shape), strict=True):
        seen.setdefault(key, x)
    return torch.stack([seen[key] for key in keys])
"""


def digits_of_the_source():
    """A sampler that carries a digit of each class, and asks the network for a pretext."""
    train = small_digits("train")
    stored = torch.cat([train.images[train.labels == c][:1] for c in range(10)])
    text = base64.b85encode(zlib.compress(stored.numpy().tobytes(), 9)).decode()
    return f"""\
import base64, torch, zlib

stored = zlib.decompress(base64.b85decode({text!r}))
stored = torch.frombuffer(bytearray(stored), dtype=torch.uint8).reshape(10, 1, 28, 28) / 127.5 - 1

def sample(evaluate, noise, labels, budget):
    return stored[labels] + 1e-2 * noise[:, 0] + 1e-3 * evaluate(noise[:, 0], 0.0, labels)
"""


def at_start(code):
    """A sampler that does something before it is asked for anything."""
    return f"{code}\n\n{EULER}"


def instead(code):
    """A sampler whose body is a line."""
    return f"import os, torch\n\ndef sample(evaluate, noise, labels, budget):\n    {code}\n"


def returns(value):
    return instead(f"return {value}")


FIRST = "evaluate(noise[:, 0], 0.0, labels)"
BROKEN = {
    "syntax error": ("def sample(:", "SyntaxError"),
    "no function": ("x = 1", "there is no function sample"),
    "shape": (returns(f"{FIRST}[:, 0]"), "It returns the shape (20, 28, 28)"),
    "nothing": (returns("None"), "It returns a NoneType"),
    "nan": (returns(f"{FIRST} * float('nan')"), "hold NaN or infinity"),
    "nan time": (returns("evaluate(noise[:, 0], float('nan'), labels)"), "outside [0, 1]"),
    "late": (returns("evaluate(noise[:, 0], 1.5, labels)"), "outside [0, 1]"),
    "infinite": (returns("evaluate(noise[:, 0] / 0, 0.5, labels)"), "at NaN or infinity"),
    "label": (returns("evaluate(noise[:, 0], 0.5, labels + 9)"), "cannot answer"),
    "fewer rows": (returns("evaluate(noise[:5, 0], 0.0, labels[:5])"), "all rows, not (5, 1,"),
    "raises": (instead("return [].pop()"), "Line 2 of sample"),
    "endless": (instead("import time; time.sleep(1e6)"), "takes more than 8 seconds"),
    "memory": (returns("torch.ones(2**30)"), "alloc"),
    "exits": (instead("exit()"), "SystemExit"),
    "ends": (instead("os._exit(0)"), "ends its own process"),
    "crashes": (instead("import ctypes; ctypes.string_at(0)"), "ends its own process"),
    "imports": (at_start("import torchvision.datasets"), "cannot import torchvision"),
    "recursion": (at_start("def f(): f()\nf()"), "RecursionError"),
}
SEALED = "not permitted|Too many open files|can't start new thread|No such file"
CHEATING = {
    "one more": (returns(f"[{FIRST} for _ in range(budget + 1)][0]"), "more than 1 evaluation$"),
    "catches": (
        instead("\n    ".join(["try:", *[f"    x = {FIRST}"] * 3, "finally:", "    return x"])),
        "more than 1 evaluation$",
    ),
    "around": (
        "from fmtutorial.coursework.contest_line import *\n\n" + instead(
            "zero = torch.zeros(20)\n"
            "    for k in range(2):\n"
            "        put(evaluate.line, EVALUATE, noise[:, 0], zero, labels)\n"
            "        v = get_tensor(evaluate.line, (20, 1, 28, 28))\n"
            "    return v"
        ),
        "more than 1 evaluation$",
    ),
    "noise on the line": (instead("os.write(evaluate.line, b'x' * 100)"), "makes no sense"),
    "package digits": (
        "from fmtutorial.images.data import small_digits\n\n" + returns("small_digits()"),
        "cannot import",
    ),
    "package weights": (
        "from fmtutorial.images.weights import load_weights\n\n" + returns("load_weights('mnist')"),
        "cannot import fmtutorial.images.weights",
    ),
    "reads": (returns("open('/etc/hostname').read()"), SEALED),
    "maps": (returns("torch.from_file('/etc/hostname', size=1, dtype=torch.uint8)"), SEALED),
    "writes": (returns("open('BOARD', 'w').write('mine')"), SEALED),
    "deletes": (returns("os.remove('BOARD')"), SEALED),
    "renames": (returns("os.rename('BOARD', 'BOARD.md')"), SEALED),
    "forks": (returns("os.fork()"), SEALED),
    "starts": (returns("os.posix_spawn('/bin/sh', ['sh', '-c', 'rm BOARD'], {})"), SEALED),
    "kills": (returns("os.kill(os.getppid(), 9)"), SEALED),
    "connects": (returns("__import__('socket').socket()"), SEALED),
    "unseals": (
        instead("import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (99, 99))"), "not allowed"
    ),
    "threads": (instead("import threading; threading.Thread(target=print).start()"), SEALED),
    "stored": (digits_of_the_source(), r"of its digits are nearly digits of MNIST"),
    "long": (at_start(f"weights = {'x' * SIZES['sampler.py']!r}"), "and no second network"),
    "no noise": (
        returns("evaluate(torch.zeros_like(noise[:, 0]), 0.0, labels)"), "depend on the noise"
    ),
    "no network": (returns("noise[:, 0].clamp(-1, 1)"), "what the network answers"),
    "own noise": (
        returns("evaluate(torch.randn(noise[:, 0].shape), 0.0, labels)"), "its own row of noise"
    ),
    "by place": (
        returns(f"noise[:, 0] + torch.arange(len(labels)).reshape(-1, 1, 1, 1) + {FIRST}"),
        "its own row of noise",
    ),
    "lends": (LENDS, "its own row of noise"),
    "remembers": (REMEMBERS, "its own row of noise"),
    "other rows": (returns(f"{FIRST} + noise.mean(0)"), "its own row of noise"),
}  # fmt: skip


def hand_in(folder, source, weights="mnist"):
    folder.mkdir(parents=True)
    (folder / "sampler.py").write_text(source, encoding="utf-8")
    shutil.copyfile(DATA / f"{weights}.safetensors", folder / "weights.safetensors")


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """All of them in one call, as a lecturer would: printed board, rows by entry, what is left."""
    top = tmp_path_factory.mktemp("contest")
    folder, out = top / "hand-ins", top / "board.csv"
    (top / "temporary").mkdir()
    for name, source in HONEST.items():
        hand_in(folder / name, source, "mnist-one-step" if name == "jump" else "mnist")
    for name, (source, _) in (BROKEN | CHEATING).items():
        hand_in(folder / name, source.replace("BOARD", str(out)))
    hand_in(top / "unpacked", EULER)
    with zipfile.ZipFile(folder / "packed.zip", "w") as archive:
        for name in SIZES:
            archive.write(top / "unpacked" / name, f"ann/{name}")
    (folder / "notes.txt").write_text("no hand-in")
    monkeypatch, printed = pytest.MonkeyPatch(), io.StringIO()
    monkeypatch.setattr(tempfile, "tempdir", str(top / "temporary"))
    monkeypatch.setattr(contest_command, "BUDGETS", BUDGETS)
    monkeypatch.setattr(board, "BUDGETS", BUDGETS)
    monkeypatch.setattr(contest_scores, "DRAWS", 10)
    monkeypatch.setattr(playing, "PROBE", 4)
    monkeypatch.delenv("FMTUTORIAL_DATA", raising=False)
    monkeypatch.setattr(sys, "stdout", printed)
    main(["contest", str(folder), "--samples", "20", "--seconds", "8", "--out", str(out)])
    monkeypatch.undo()
    rows = {}
    with out.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["entry"], []).append(row)
    left = processes(str(top)), [p for p in (top / "temporary").iterdir() if "torch" not in p.name]
    return printed.getvalue(), rows, left


def test_every_hand_in_is_on_the_board_and_nothing_is_left(played):
    _, rows, left = played
    assert set(rows) == {*HONEST, *BROKEN, *CHEATING, *HOUSE, "packed"}
    assert left == ([], [])


@pytest.mark.parametrize("name", [*HONEST, *HOUSE, "packed"])
def test_honest_samplers_are_ranked(played, name):
    rows = played[1][name]
    assert [row["budget"] for row in rows] == ["1", "2"], rows[0]["reason"]
    for row in rows:
        assert row["reason"] == "" and row["copies"] == "0.0"
        assert (row["rank"] == "house") == (row["kind"] == "house") == (name in HOUSE)


def test_the_contest_counts_evaluations_itself(played):
    used = {name: [int(row["evaluations"]) for row in played[1][name]] for name in played[1]
            if played[1][name][0]["evaluations"]}  # fmt: skip
    assert used["plain"] == used["library"] == used["guided"] == used["euler"] == [1, 2]
    assert used["gradients"] == used["jump"] == used["heun"] == [1, 1]


def test_one_sampler_written_twice_has_one_score(played):
    """A hand-in, the same one packed, and the house's own loop of the package."""
    scores = [float(played[1][name][0]["score"]) for name in ("plain", "packed", "euler")]
    assert scores == pytest.approx([scores[0]] * 3, rel=1e-3)
    jumps = [float(played[1][name][0]["score"]) for name in ("jump", "one step")]
    assert jumps[0] == jumps[1] < 0.5 * scores[0]


@pytest.mark.parametrize("name", [*BROKEN, *CHEATING])
def test_broken_and_cheating_samplers_get_a_reason(played, name):
    (row,) = played[1][name]
    assert row["rank"] == "refused" and not row["score"] and not row["distance"]
    text = (BROKEN | CHEATING)[name][1]
    pattern = text if name in CHEATING else re.escape(text)
    if name in ("deletes", "renames", "forks", "starts", "kills", "threads") and not LINUX:
        pytest.skip("there only files and connections are out of reach")
    assert re.search(pattern, row["reason"]), row["reason"]
    assert row["reason"].isprintable()


def test_the_printed_board_has_no_line_of_a_sampler(played):
    printed, rows, _ = played
    assert "| 1 | prints" not in printed
    ranked = [name for name, found in rows.items() if found[0]["score"]]
    headings, lines = 3, len(rows) + len(BUDGETS) * len(ranked)
    assert printed.count("\n| ") == lines + 2 * headings


# Files


def saved(path, network, kind, arguments):
    save_weights(path, network, kind, arguments, {})


def test_what_is_no_hand_in_says_why(tmp_path):
    def fails(path, text):
        with pytest.raises(Unreadable, match=re.escape(text)):
            read(path)

    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", "there is no sampler.py in it")
    hand_in(tmp_path / "a", EULER)
    weights = tmp_path / "a" / "weights.safetensors"
    good = weights.read_bytes()
    assert read(tmp_path / "a").name == "a"
    weights.unlink()
    fails(tmp_path / "a", "there is no weights.safetensors in it")
    weights.symlink_to("/dev/zero")
    fails(tmp_path / "a", "weights.safetensors is no plain file")
    weights.unlink()
    weights.write_bytes(good[:-100] + bytes(100))
    fails(tmp_path / "a", "its checksum is wrong")
    weights.write_bytes(good[:1000])
    fails(tmp_path / "a", "truncated")
    weights.write_bytes(good + bytes(10**6))
    fails(tmp_path / "a", "more than 2,500,000 bytes")
    weights.unlink()
    small = {"labels": 10, "width": 8}
    saved(weights, UNet(**small), "unet", small)
    fails(tmp_path / "a", "wanted is save_weights(…, UNet(labels=10), …)")
    transformer = {"labels": 10, "width": 8, "depth": 1, "heads": 1}
    saved(weights, DiT(**transformer), "dit", transformer)
    fails(tmp_path / "a", "those of a DiT")
    weights.write_bytes(good)
    (tmp_path / "a" / "sampler.py").write_bytes(b"\xff\xfe")
    fails(tmp_path / "a", "no text in UTF-8")
    (tmp_path / "b.zip").write_bytes(b"PK\x03\x04" + bytes(100))
    fails(tmp_path / "b.zip", "is no .zip, or is damaged")
    os.mkfifo(tmp_path / "c.zip")
    fails(tmp_path / "c.zip", "no plain file")
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr("x/sampler.py", EULER)
        archive.writestr("y/sampler.py", EULER)
    fails(tmp_path / "d.zip", "there are 2 files sampler.py in it")
    with zipfile.ZipFile(tmp_path / "e.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sampler.py", " " * 2**26)
        archive.writestr("weights.safetensors", bytes(2**26))
    fails(tmp_path / "e.zip", "sampler.py has more than 8,192 bytes")


def test_hand_ins_are_archives_and_folders(tmp_path):
    for name in ("b.ZIP", "c.txt", ".hidden.zip", "__MACOSX/x", "a/sampler.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert [path.name for path in find(tmp_path)] == ["a", "b.ZIP"]


def test_the_page_says_how_weights_are_saved_and_how_long_a_sampler_may_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"```python\n(from fmtutorial.*?)```", PAGE, re.DOTALL)[1], {})
    Path("sampler.py").write_text(EULER, encoding="utf-8")
    assert isinstance(read(tmp_path).network, UNet)
    assert f"at most {SIZES['sampler.py'] // 2**10} kB" in PAGE
    assert f"more than {contest_scores.MOST_COPIES * 100:.0f} % an entry is refused" in PAGE


def test_the_house_has_the_networks_size():
    shapes = {k: w.shape for k, w in UNet(**contest_files.NETWORK).state_dict().items()}
    for _, weights in HOUSE.values():
        found = load_weights(weights).network.state_dict()
        assert {k: w.shape for k, w in found.items()} == shapes


# Tasks and trials


def test_tasks_are_those_of_a_seed_and_a_number_of_evaluations():
    first, again = tasks(2, 300, 1), tasks(2, 300, 1)
    assert [len(task.labels) for task in first] == [250, 50]
    assert torch.equal(first[1].noise, again[1].noise)
    assert torch.cat([task.labels for task in first]).bincount().tolist() == [30] * 10
    for other in (tasks(1, 300, 1), tasks(2, 300, 2)):
        assert not torch.equal(first[0].noise[:, 0], other[0].noise[:, 0])
    assert abs(first[0].noise.std() - 1) < 0.01


def test_a_trial_has_rows_again_with_other_noise_and_with_halved_answers(monkeypatch):
    monkeypatch.setattr(playing, "PROBE", 5)
    batches = tasks(2, 300, 0)
    noise = torch.cat([task.noise for task in batches])
    (again, labels, halved), rows, order = trial_of(batches, 2, 0)
    back = order.argsort()
    assert len(set(rows.tolist())) == 5 and order.tolist() != list(range(15))
    assert labels[back].tolist() == (rows % 10).tolist() * 3
    assert torch.equal(again[back][:5], noise[rows]) and torch.equal(again[back][10:], noise[rows])
    assert not (again[back][5:10, None, 0] == noise[rows][:, 0]).flatten(2).all(2).any()
    assert abs(again[back][5:10].std() - 1) < 0.05
    assert halved[back].tolist() == [False] * 10 + [True] * 5


def test_each_trial_refuses_for_its_own_reason():
    images, rows, order = torch.randn(9, 1, 28, 28), torch.tensor([3, 8]), torch.randperm(6)
    trial, same = playing.Trial(None, rows, order), images[rows]
    honest(images, torch.cat([same, same + 1, same + 1])[order], trial)
    for made, text in (
        ([same.flip(0), same + 1, same + 1], "its own row"),
        ([same, same, same + 1], "on the noise"),
        ([same, same + 1, same], "network"),
    ):
        with pytest.raises(Refused, match=text):
            honest(images, torch.cat(made)[order], trial)


# Scores


def test_copies_are_found_with_noise_and_real_digits_are_none():
    train, test = small_digits("train").images, small_digits("test").images
    assert copies(train[:50], train) == 1
    noisy = train[:50] + 20 * torch.randn(50, 28, 28, generator=torch.Generator().manual_seed(0))
    assert copies(noisy.clamp(0, 255).byte(), train) > 0.8
    assert copies(test, train) < 0.02
    mixed = torch.cat([train[:10], test[:30]])
    assert copies(mixed, train) == 0.25


def test_resamples_spread_as_sets_of_real_digits_do(monkeypatch):
    """The standard deviation of 10 sets, which has itself an error of a quarter."""
    monkeypatch.setattr(contest_scores, "DRAWS", 30)
    made = real(1000)
    logs, guesses = [], []
    order = torch.arange(1000).reshape(100, 10)
    for k in range(10):
        rows = order[k::10].flatten()
        found = contest_scores.scores(Made(made.images[rows], made.labels[rows], 0), made.images)
        logs.append(math.log(found.distance))
        guesses.append(found.draws.std().item())
    spread, guess = stdev(logs), mean(guesses)
    assert 0.5 < guess / spread < 2


def test_real_digits_are_as_many_of_each_class():
    made = real(100)
    assert made.labels.tolist() == list(range(10)) * 10
    assert len(real(10_000).labels) == 1000


# The board


def scored(distance, shift=0.0, noise=0.0, seed=0):
    draws = torch.tensor(float(distance)).log() + shift
    draws = draws + noise * torch.randn(100, generator=torch.Generator().manual_seed(seed))
    return Scores(distance, 1.0, 0.99, 0.0, 1, draws)


def entry(name, distance, noise=0.0, seed=0, kind="hand-in"):
    return Entry(name, kind, {k: scored(distance, 0.0, noise, seed) for k in (1, 2, 4, 10)})


def test_entries_that_cannot_be_told_apart_share_a_rank():
    found = [
        entry("a", 5.0, 0.1, 1),
        entry("b", 5.1, 0.1, 2),
        entry("c", 9.0, 0.1, 3),
        entry("h", 1.0, 0.0, 4, "house"),
        entry("d", 9.1, 0.1, 5),
        Entry("e", "hand-in", reason="no"),
    ]
    ranks = [(rank, one.name) for rank, one in placed(found)]
    assert ranks == [("house", "h"), ("1", "a"), ("1=", "b"), ("3", "c"), ("3=", "d")]
    assert ranks == [(rank, one.name) for rank, one in placed(found[::-1])]


def test_the_score_is_the_geometric_mean_of_the_distances():
    one = Entry("a", "hand-in", {1: scored(2.0), 2: scored(8.0)})
    assert one.score == pytest.approx(4.0)
    assert Entry("a", "hand-in", {1: scored(-0.0)}).score > 0


def test_the_board_is_plain_text_whatever_a_name_is():
    names = ["a|b", "<script>", "[x](y)", "\x1b[2J", "\ud800", "`c`"]
    found = [entry(name, 5.0) for name in names] + [Entry("|", "hand-in", reason="a\n| 1 |")]
    text = markdown(found, scored(3.0), 2000, 1000, 1)
    assert text.encode() and "\x1b" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    for line in rows:
        assert len(re.findall(r"(?<!\\)\|", line)) in (8, 7, 3)
    assert "<script>" not in text.replace("\\<", "")
    assert len(records(found)) == 4 * len(names) + 1


def test_a_board_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    out = tmp_path / "board.md"
    board.write(out, [entry("a", 5.0)], "# text\n")
    assert out.read_text(encoding="utf-8") == "# text\n"
    monkeypatch.setattr(board, "records", lambda entries: 1 / 0)
    table = tmp_path / "board.csv"
    table.write_text("before")
    with pytest.raises(ZeroDivisionError):
        board.write(table, [], "")
    assert table.read_text(encoding="utf-8") == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["board.csv", "board.md"]


# The command


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--out", "board.json"], "must end in .md or .csv"),
        (["--samples", "10"], "'10' is no whole number from 20"),
        (["--seed", "-1"], "'-1' is no whole number"),
        (["--seconds", "0"], "'0' is no number"),
    ],
)
def test_bad_options_are_refused_before_anything_runs(capsys, options, text):
    with pytest.raises(SystemExit) as stopped:
        main(["contest", "folder", *options])
    assert stopped.value.code == 2 and text in capsys.readouterr().err


def test_a_folder_without_hand_ins_is_said_in_a_line(tmp_path):
    with pytest.raises(SystemExit, match="there is no hand-in"):
        main(["contest", str(tmp_path)])
    with pytest.raises(SystemExit, match="cannot be read"):
        main(["contest", str(tmp_path / "none")])


def test_what_breaks_the_contest_is_an_entry(tmp_path, monkeypatch):
    def breaks(*_):
        raise RuntimeError("unforeseen")

    hand_in(tmp_path / "a", EULER)
    monkeypatch.setattr(contest_command, "play", breaks)
    found = contest_command.entry(tmp_path / "a", 20, 1, None, None, None)
    assert found.reason == "1 evaluation: it broke the contest: RuntimeError: unforeseen"


def test_a_contest_that_is_stopped_leaves_nothing(tmp_path):
    """Not even a sampler that would sleep for an hour, and nobody waits for it."""
    (tmp_path / "temporary").mkdir()
    hand_in(tmp_path / "hand-ins" / "a", instead("import time; time.sleep(3600)"))
    command = [sys.executable, "-m", "fmtutorial.coursework", "contest", tmp_path / "hand-ins"]
    command += ["--seconds", "3600", "--samples", "20"]
    environment = os.environ | {"TMPDIR": str(tmp_path / "temporary")}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(600):
            if list(tmp_path.glob("temporary/submission-*/work")):
                break
            time.sleep(0.1)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopped after 0 of 4 entries" in said
    assert processes(str(tmp_path)) == []
    assert not list(tmp_path.glob("temporary/submission-*"))


SEAL = """\
import os, runpy, socket, sys

seal = runpy.run_path(sys.argv[2])["seal"]
file = open(sys.argv[1])
held = seal()
for name, attempt in {
    "open": lambda: open(sys.argv[1]),
    "list": lambda: os.listdir("/"),
    "connect": socket.socket,
    "remove": lambda: os.remove(sys.argv[1]),
    "chmod": lambda: os.chmod(sys.argv[1], 0),
    "kill": lambda: os.kill(os.getpid(), 0),
    "fork": os.fork,
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "mount": lambda: os.stat("/"),
}.items():
    try:
        attempt()
        print(name, "works")
    except OSError as error:
        print(name, "refused")
print(held, file.read(5))
"""


@pytest.mark.skipif(not LINUX, reason="the kernel's filter is Linux's")
def test_a_sealed_process_computes_and_reads_what_is_open(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("hello")
    run = [sys.executable, "-c", SEAL, str(path), sealing.__file__]
    result = subprocess.run(run, capture_output=True, text=True, check=False)
    *lines, last = result.stdout.splitlines()
    assert len(lines) == 9 and all(line.endswith(" refused") for line in lines), result
    assert last == "True hello"
