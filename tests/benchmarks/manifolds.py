"""Points of the airports, and our curved spaces beside geoopt's and flow_matching's.

    PYTHONPATH=. python tests/benchmarks/manifolds.py          # the comparison
    PYTHONPATH=. python tests/benchmarks/manifolds.py airports  # fmtutorial/data/airports.npz

Chapter 14.
"""

import sys
from pathlib import Path

import numpy as np

import fmtutorial

DATA = Path(fmtutorial.__file__).parent / "data"


def write_airports():
    """Store latitude and longitude of all airports with a code of IATA, in 2^15ths of 180°."""
    import airportsdata

    found = airportsdata.load("IATA")
    degrees = np.array([(found[code]["lat"], found[code]["lon"]) for code in sorted(found)])
    angles = np.round(degrees * 2**15 / 180).clip(-(2**15), 2**15 - 1).astype(np.int16)
    shuffled = np.random.default_rng(0).permutation(angles)
    np.savez_compressed(DATA / "airports.npz", angles=shuffled)
    print(f"{len(angles)} airports, {(DATA / 'airports.npz').stat().st_size} bytes")


if __name__ == "__main__":
    if sys.argv[1:] == ["airports"]:
        write_airports()
