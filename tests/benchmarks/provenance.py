"""What every experiment writes beside its results: on what, with what and for how long it ran."""

import json
import platform
import time
from pathlib import Path
from typing import Any

import torch

import fmtutorial

RESULTS = Path(fmtutorial.__file__).parent / "results"


def save(name: str, results: dict[str, Any], seeds: list[int], started: float) -> None:
    """Write fmtutorial/results/NAME.json.

    Args:
        name: of the script, without ".py".
        results: numbers, strings, lists and dictionaries.
        seeds: of the runs that the results summarise.
        started: time.perf_counter() at the start.
    """
    cpu = platform.processor() or platform.machine()
    lines = Path("/proc/cpuinfo")
    if lines.exists():
        named = [row for row in lines.read_text().splitlines() if row.startswith("model name")]
        cpu = named[0].split(":")[1].strip() if named else cpu
    provenance = {
        "script": f"tests/benchmarks/{name}.py",
        "seeds": seeds,
        "minutes": round((time.perf_counter() - started) / 60, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": "cpu",
        "cpu": cpu,
        "threads": torch.get_num_threads(),
    }
    text = json.dumps(results | {"provenance": provenance}, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
