"""A few-steps contest played by three sets of hand-ins: the house, improvements, and cheats.

    FMTUTORIAL_DATA=FOLDER .venv/bin/python tests/benchmarks/contest.py

Its board is fmtutorial/results/contest.md, which the page of the contest shows. What a resample of
the digits says of chance is compared with what six seeds say.
"""

import base64
import math
import tempfile
import time
import zlib
from contextlib import closing
from importlib import resources
from pathlib import Path
from statistics import mean, stdev

import torch
from provenance import RESULTS, save

from fmtutorial.coursework import contest_board as board
from fmtutorial.coursework.contest import play
from fmtutorial.coursework.contest_command import PLAYER, entries
from fmtutorial.coursework.contest_files import HOUSE, house
from fmtutorial.coursework.contest_scores import known_digits, real, scores
from fmtutorial.coursework.grading import Limits
from fmtutorial.coursework.process import Keeper
from fmtutorial.images.data import small_digits

SAMPLES, SEED, SEEDS = 1000, 1, range(2, 8)
LIMITS = Limits(seconds=600, total=3600)

DPM = """\
import torch

from fmtutorial.paths import LINEAR, AffinePath
from fmtutorial.solvers import dpm_solver


def sample(evaluate, noise, labels, budget):
    times = torch.linspace(0, 1, budget + 1) ** (1.0 if budget < 10 else 1.3)

    def field(x, t):
        return evaluate(x, t, labels)

    return dpm_solver(field, noise[:, 0], times, AffinePath(LINEAR)).last
"""
IMPROVED = {
    "dpm": (DPM, "mnist"),
    "reflow": (HOUSE["euler"][0], "mnist-reflow"),
    "matched": (HOUSE["one step"][0], "mnist-matched"),
}


def carrying_digits():
    """A sampler with a training digit of each class in its source."""
    train = small_digits("train")
    stored = torch.cat([train.images[train.labels == c][:1] for c in range(10)])
    text = base64.b85encode(zlib.compress(stored.numpy().tobytes(), 9)).decode()
    return f"""\
import base64, torch, zlib

stored = zlib.decompress(base64.b85decode({text!r}))
stored = torch.frombuffer(bytearray(stored), dtype=torch.uint8).reshape(10, 1, 28, 28) / 127.5 - 1


def sample(evaluate, noise, labels, budget):
    return stored[labels] + 0.02 * noise[:, 0] + 0.001 * evaluate(noise[:, 0], 0.0, labels)
"""


EULER_TWICE = HOUSE["euler"][0].replace("budget).last", "2 * budget).last")
OWN_NOISE = "import torch\n\n\n" + HOUSE["one step"][0].replace(
    "noise[:, 0]", "torch.randn(noise[:, 0].shape)"
)
READS = """\
from fmtutorial.images.data import small_digits


def sample(evaluate, noise, labels, budget):
    train = small_digits("train")
    return train.images[labels][:, None] / 127.5 - 1
"""
CHEATS = {
    "twice the steps": (EULER_TWICE, "mnist"),
    "digits in the source": (carrying_digits(), "mnist"),
    "digits of the package": (READS, "mnist"),
    "its own noise": (OWN_NOISE, "mnist-one-step"),
}


def hand_in(folder, name, source, weights):
    """Write a hand-in as a student would."""
    data = resources.files("fmtutorial") / "data" / f"{weights}.safetensors"
    (folder / name).mkdir()
    (folder / name / "sampler.py").write_text(source, encoding="utf-8")
    (folder / name / "weights.safetensors").write_bytes(data.read_bytes())
    return folder / name


def by_chance(known):
    """How far one sampler's log distance is from seed to seed, and by resamples of one seed."""
    with closing(Keeper(PLAYER)) as keeper:
        found = [
            scores(play(house("one step"), 1, SAMPLES, seed, LIMITS, keeper), known)
            for seed in SEEDS
        ]
    between = stdev(math.log(one.distance) for one in found)
    within = mean(one.draws.std().item() for one in found)
    return {"between seeds": between, "between resamples": within}


def main():
    started = time.perf_counter()
    train, test = known_digits()
    known = torch.cat([train.images, test.images])
    floor = scores(real(SAMPLES), train.images)
    done = []
    with tempfile.TemporaryDirectory() as folder:
        sets = (CHEATS | IMPROVED).items()
        paths = [hand_in(Path(folder), name, *parts) for name, parts in sets]
        with closing(entries(paths, SAMPLES, SEED, LIMITS, known)) as played:
            for one in played:
                minutes = (time.perf_counter() - started) / 60
                print(f"{minutes:.1f} min", one.name, one.reason or one.score, flush=True)
                done.append(one)
    text = board.markdown(done, floor, len(known), SAMPLES, SEED)
    print(text)
    board.write(RESULTS / "contest.md", done, text)
    refused = {one.name: one.reason for one in done if one.reason}
    distances = {
        one.name: {str(k): s.distance for k, s in one.scores.items()} | {"score": one.score}
        for one in done
        if not one.reason
    }
    results = {"samples": SAMPLES, "floor": floor.distance, "distances": distances}
    results |= {"refused": refused, "sd of a log distance": by_chance(known[:2])}
    results["few_seeds_because"] = "the board is of one seed, as a lecturer's; chance by six more"
    save("contest", results, [SEED, *SEEDS], started)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
