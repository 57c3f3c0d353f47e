"""Play a few-steps contest: python -m fmtutorial.coursework contest --help."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from fmtutorial.coursework import contest_board as board
from fmtutorial.coursework.contest import BUDGETS, Refused, play
from fmtutorial.coursework.contest_board import Entry
from fmtutorial.coursework.contest_files import HOUSE, called, find, house, read
from fmtutorial.coursework.contest_scores import MOST_COPIES, known_digits, real, scores
from fmtutorial.coursework.grading import LOST, Limits, Unreadable, clean
from fmtutorial.coursework.process import Keeper, Lost

PLAYER = "contest_player"


def entry(
    path: Path | str, samples: int, seed: int, limits: Limits, keeper: Keeper, known: Tensor
) -> Entry:
    """Play one hand-in, whatever it does, or an entry of the house by its name.

    Args:
        path: of the hand-in, or a name in ``HOUSE``.
        samples: digits at each number of evaluations.
        seed: of the noise.
        limits: of its process.
        keeper: for "contest_player".
        known: digits to look for copies among, unsigned bytes of shape (K, 28, 28).
    """
    own = isinstance(path, Path)
    kind, name = ("hand-in", called(path)) if own else ("house", path)
    where, found = "", {}
    try:
        hand_in = read(path) if own else house(path)
        for budget in BUDGETS:
            where = f"{budget} evaluation{'s' * (budget > 1)}: "
            made = play(hand_in, budget, samples, seed, limits, keeper)
            found[budget] = scores(made, known)
            if found[budget].copies > MOST_COPIES:
                share = f"{found[budget].copies:.0%}"
                raise Refused(f"{share} of its digits are nearly digits of MNIST, pixel by pixel")
    except (Unreadable, Refused) as error:
        return Entry(name, kind, reason=where + str(error))
    except Lost:
        return Entry(name, kind, reason=where + LOST)
    except Exception as error:
        text = f"it broke the contest: {type(error).__name__}: {error}"
        return Entry(name, kind, reason=where + text)
    return Entry(name, kind, found)


def entries(
    paths: list[Path], samples: int, seed: int, limits: Limits, known: Tensor
) -> Iterator[Entry]:
    """Play hand-ins one after another, and the house's own entries after them."""
    with closing(Keeper(PLAYER)) as keeper:
        for path in [*paths, *HOUSE]:
            yield entry(path, samples, seed, limits, keeper, known)


def contest(o: argparse.Namespace) -> None:
    """Play all hand-ins of a folder, print the board and write it after each."""
    try:
        paths = find(o.folder)
    except OSError as error:
        sys.exit(f"{o.folder} cannot be read: {error.strerror}")
    if not paths:
        sys.exit(f"there is no hand-in in {o.folder}: a .zip or a folder for each is wanted")
    limits = Limits(o.seconds, int(o.memory * 2**30), o.total)
    try:
        train, test = known_digits()
    except (OSError, ValueError) as error:
        sys.exit(f"MNIST cannot be had: {error}")
    known = torch.cat([train.images, test.images])
    floor = scores(real(o.samples), train.images)
    done: list[Entry] = []
    try:
        with closing(entries(paths, o.samples, o.seed, limits, known)) as played:
            for one in tqdm(played, total=len(paths) + len(HOUSE), unit="entry", file=sys.stderr):
                done.append(one)
                line = f"refused. {one.reason}" if one.reason else f"score {one.score:.1f}"
                tqdm.write(f"{clean(one.name)}: {clean(line)}", file=sys.stderr)
                text = board.markdown(done, floor, len(known), o.samples, o.seed)
                if o.out:
                    board.write(o.out, done, text)
    except (OSError, ValueError) as error:
        sys.exit(f"{o.out} cannot be written: {error}")
    except KeyboardInterrupt:
        print(f"stopped after {len(done)} of {len(paths) + len(HOUSE)} entries", file=sys.stderr)
        sys.exit(130)
    print(text, end="")
