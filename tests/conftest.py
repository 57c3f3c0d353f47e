"""What the tests of the package share: event shapes, schedules, a generator."""

import signal

import pytest
import torch

from fmtutorial.paths import COSINE, LINEAR, SQRT, VP, Schedule, lipman

# A shell that runs the tests in the background has them, and all they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=[(2,), (1, 4, 4), (), (3,)], ids=str)
def event(request: pytest.FixtureRequest) -> tuple[int, ...]:
    """Event shapes; batches have 3 samples, so (3,) is the case B = D."""
    return request.param


@pytest.fixture(params=[LINEAR, lipman(0.1), COSINE, SQRT, VP], ids=repr)
def schedule(request: pytest.FixtureRequest) -> Schedule:
    return request.param


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def displayed(monkeypatch):
    shown = []
    monkeypatch.setattr(
        "IPython.display.display", lambda *data, **options: shown.append((data, options))
    )
    return shown
