"""What every experiment writes beside its results: on what, with what and for how long it ran."""

import json
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

import fmtutorial
from fmtutorial.labs import hardware

RESULTS = Path(fmtutorial.__file__).parent / "results"


def save(
    name: str,
    results: dict[str, Any],
    seeds: list[int],
    started: float,
    device: str | torch.device = "cpu",
) -> None:
    """Write fmtutorial/results/NAME.json.

    Args:
        name: of the script, without ".py".
        results: numbers, strings, lists and dictionaries.
        seeds: of the runs that the results summarise.
        started: time.perf_counter() at the start.
        device: where they ran.
    """
    provenance = {
        "script": f"tests/benchmarks/{name}.py",
        "seeds": seeds,
        "minutes": round((time.perf_counter() - started) / 60, 1),
        **hardware(torch.device(device)),
    }
    text = json.dumps(results | {"provenance": provenance}, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def summarise(runs: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, list[float]]]:
    """Return [mean, standard deviation] over the runs for every number of every row."""
    return {
        name: {
            key: [round(f([run[name][key] for run in runs]), 5) for f in (mean, stdev)]
            for key in row
        }
        for name, row in runs[0].items()
    }
