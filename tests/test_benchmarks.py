"""Longer experiments: every script has its results, and they say where they come from."""

import importlib
import json
import math
import re
import time
from pathlib import Path

import pytest
import torch

from fmtutorial.labs import stored_results

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {path.stem for path in (ROOT / "tests" / "benchmarks").glob("*.py")} - {"provenance"}
RESULTS = {path.stem for path in (ROOT / "fmtutorial" / "results").glob("*.json")}
every_result = pytest.mark.parametrize("name", sorted(RESULTS))


@pytest.fixture
def provenance(monkeypatch):
    """The module that scripts find beside themselves."""
    monkeypatch.syspath_prepend(ROOT / "tests" / "benchmarks")
    return importlib.import_module("provenance")


def numbers(value):
    """Every number in nested lists and dictionaries."""
    if isinstance(value, dict | list):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from numbers(entry)
    elif isinstance(value, int | float):
        yield value


def check_provenance(found, name):
    assert set(found) == {
        *("script", "seeds", "minutes", "python", "torch", "device", "cpu", "threads")
    }
    assert found["script"] == f"tests/benchmarks/{name}.py"
    assert all(type(seed) is int for seed in found["seeds"])
    assert len(set(found["seeds"])) == len(found["seeds"])
    assert type(found["minutes"]) is float and found["minutes"] >= 0
    assert type(found["threads"]) is int and found["threads"] >= 1
    for key in ("python", "torch"):
        assert re.match(r"\d+\.\d+", found[key])
    for key in ("device", "cpu"):
        assert isinstance(found[key], str) and found[key]


def test_every_script_has_results_and_the_other_way_round():
    assert not SCRIPTS - RESULTS, "run the script: python tests/benchmarks/NAME.py"
    assert not RESULTS - SCRIPTS, "results whose script is gone"


@every_result
def test_results_say_where_they_come_from(name):
    """And from at least three runs, or they say why not."""
    results = stored_results(name)
    check_provenance(results["provenance"], name)
    assert len(results["provenance"]["seeds"]) >= 3 or results["few_seeds_because"]
    assert len(results) > 1, "nothing but its provenance"


@every_result
def test_results_are_finite(name):
    found = list(numbers(stored_results(name)))
    assert found and all(math.isfinite(value) for value in found)


def test_numbers_are_found_wherever_they_are():
    nested = json.loads('{"a": [1, {"b": NaN}], "c": "Infinity", "d": [[-Infinity, 1e999]]}')
    found = list(numbers(nested))
    assert len(found) == 4 and [math.isfinite(value) for value in found] == [True, *[False] * 3]


def test_what_a_script_saves_is_what_a_lab_reads(provenance, monkeypatch, tmp_path):
    assert provenance.RESULTS == ROOT / "fmtutorial" / "results"
    folder = tmp_path / "fmtutorial" / "results"
    folder.mkdir(parents=True)
    monkeypatch.setattr(provenance, "RESULTS", folder)
    monkeypatch.setattr("fmtutorial.labs.resources.files", lambda package: tmp_path / package)
    results = {"W₂": {"mean": 0.25, "sd": [1e-3, 2.0]}, "name": "ring"}
    provenance.save("some-name", results, [3, 1, 4], time.perf_counter() - 90)
    read = stored_results("some-name")
    found = read.pop("provenance")
    assert read == results
    check_provenance(found, "some-name")
    assert found["seeds"] == [3, 1, 4]
    assert found["minutes"] == 1.5
    assert (found["torch"], found["threads"]) == (torch.__version__, torch.get_num_threads())
    assert (folder / "some-name.json").read_text(encoding="utf-8").endswith("}\n")


def test_speed_names_its_peers_and_its_ratios_are_those_of_its_times():
    """Every size, dimension, width and processor, ours beside theirs; ratios to their rounding."""
    results = stored_results("speed")
    assert set(results["versions"]) == {"torchcfm", "flow_matching", "pot", "scipy", "numpy"}
    assert results["provenance"]["threads"] == 1
    sizes = {"128", "256", "512", "1024", "2048"}
    assert {key: set(rows) for key, rows in results["pairing"].items()} == {
        "2": sizes,
        "784": sizes,
    }
    assert set(results["likelihood"]) == {"128", "256"}
    assert set(results["training"]) == {"as it is", "until AVX2"}
    rows = [*results["pairing"]["2"].values(), *results["pairing"]["784"].values()]
    for row in rows:
        # their plan may be unfinished, ours is the best there is; their costs are float32
        assert row["torchcfm_excess"] >= -1e-5
    rows += [*results["likelihood"].values(), *results["training"].values()]
    for row in rows:
        theirs = row["flow_matching" if "flow_matching" in row else "torchcfm"]
        assert row["ours"] > 0 and theirs > 0
        assert row["times_as_fast"] == pytest.approx(theirs / row["ours"], abs=0.005, rel=1e-3)
