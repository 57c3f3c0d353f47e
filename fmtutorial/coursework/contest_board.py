"""The board of a few-steps contest: ranks with their ties, a Markdown table and a CSV file."""

import csv
import io
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from fmtutorial.checkpoints import writing
from fmtutorial.coursework.contest import BUDGETS
from fmtutorial.coursework.contest_scores import NEAR, Scores
from fmtutorial.coursework.grading import clean

DOUBT = 0.025
"""Share of resamples in which a worse entry has to win, to be no worse."""

COLUMNS = (
    *("entry", "kind", "rank", "score", "reason"),
    *("budget", "evaluations", "distance", "accuracy", "spread", "copies"),
)


@dataclass(frozen=True)
class Entry:
    """A hand-in, or an entry of the house: its scores at each number of evaluations, or why not."""

    name: str
    kind: str
    scores: dict[int, Scores] = field(default_factory=dict)
    reason: str = ""

    @property
    def score(self) -> float:
        """The geometric mean of the distances."""
        logs = [math.log(max(one.distance, 1e-9)) for one in self.scores.values()]
        return math.exp(sum(logs) / len(logs))


def placed(entries: list[Entry]) -> list[tuple[str, Entry]]:
    """Return what was not refused, best first, with its rank; entries of the house have none.

    An entry has the rank of the first one before it that leads a rank, if in one resample of
    forty, or more, it would be better than that.
    """
    found, leader, rank, count = [], None, "", 0
    for entry in sorted((e for e in entries if not e.reason), key=lambda e: (e.score, e.name)):
        if entry.kind == "house":
            found.append(("house", entry))
            continue
        count += 1
        if leader is None or not _alike(leader, entry):
            leader, rank = entry, str(count)
            found.append((rank, entry))
        else:
            found.append((f"{rank}=", entry))
    return found


def _alike(leader: Entry, entry: Entry) -> bool:
    first, second = (sum(one.draws for one in e.scores.values()) for e in (leader, entry))
    return float((second <= first).float().mean()) >= DOUBT


def markdown(entries: list[Entry], floor: Scores, known: int, samples: int, seed: int) -> str:
    """Return the board as Markdown.

    Args:
        entries: all of them.
        floor: of real digits.
        known: digits that copies were looked for among.
        samples: digits at each number of evaluations.
        seed: of the noise.
    """
    steps = [str(k) for k in BUDGETS]
    ranked = placed(entries)
    lines = ["# A few-steps contest", ""]
    lines += [
        f"Distances of {samples} digits at {', '.join(steps[:-1])} and {steps[-1]} evaluations, "
        f"noise of seed {seed}. The score is their geometric mean: less is better. With `=` the "
        "digits are too few to tell an entry from the first of its rank.",
        "",
    ]
    lines += _table(["rank", "entry", "score", *steps])
    for rank, entry in ranked:
        distances = [f"{one.distance:.1f}" for one in entry.scores.values()]
        lines += _row([rank, _plain(entry.name), f"{entry.score:.1f}", *distances])
    lines += [
        "",
        f"As many test digits, up to 1000: distance {floor.distance:.1f}, accuracy "
        f"{floor.accuracy:.3f}, spread {floor.spread:.2f}. A copy is nearer to one of {known} "
        f"digits of MNIST than {NEAR:g} times the distance to the next.",
        "",
    ]
    lines += _table(["entry", "allowed", "used", "accuracy", "spread", "copies"])
    for _, entry in ranked:
        for budget, one in entry.scores.items():
            numbers = f"{one.accuracy:.3f}", f"{one.spread:.2f}", f"{one.copies:.3f}"
            lines += _row([_plain(entry.name), str(budget), str(one.evaluations), *numbers])
    refused = [entry for entry in entries if entry.reason]
    if refused:
        lines += ["", *_table(["refused", "reason"])]
        lines += [line for e in refused for line in _row([_plain(e.name), _plain(e.reason)])]
    return "\n".join([*lines, ""])


def _table(names: list[str]) -> list[str]:
    return _row(names) + _row(["---"] * len(names))


def _row(cells: list[str]) -> list[str]:
    return [f"| {' | '.join(cells)} |"]


def _plain(text: str) -> str:
    """Return a text without marks that Markdown would read."""
    return re.sub(r"([\\`*_\[\]<>|#&$~])", r"\\\1", clean(text))


def records(entries: list[Entry]) -> list[dict[str, str | int | float]]:
    """Return a row for each entry and number of evaluations, ranked ones first."""
    rows = []
    refused = [("refused", entry) for entry in entries if entry.reason]
    for rank, entry in placed(entries) + refused:
        row = {"entry": clean(entry.name), "kind": entry.kind, "rank": rank}
        row |= {"score": "" if entry.reason else entry.score, "reason": clean(entry.reason)}
        for budget, one in entry.scores.items():
            measured = {"distance": one.distance, "accuracy": one.accuracy, "spread": one.spread}
            used = {"budget": budget, "evaluations": one.evaluations, "copies": one.copies}
            rows.append(row | measured | used)
        if not entry.scores:
            rows.append(row)
    return rows


def write(path: Path, entries: list[Entry], text: str) -> None:
    """Write the board as Markdown or CSV, by the name of the file, whole or not at all.

    Raises:
        OSError, ValueError: it cannot be written.
    """
    if path.suffix == ".csv":
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, COLUMNS)
        writer.writeheader()
        writer.writerows(records(entries))
        text = table.getvalue()
    with writing(path) as file:
        file.write(text.encode())
