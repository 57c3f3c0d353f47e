"""What the tests share: event shapes, schedules, a generator; a browser and the built site."""

import os
import signal

import chromium
import pytest
import torch
from browser import HTML, SEED, served

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
def draw() -> torch.Generator:
    print(f"seed {SEED}")  # shown when a test fails
    return torch.Generator().manual_seed(SEED)


@pytest.fixture
def displayed(monkeypatch):
    shown = []
    monkeypatch.setattr(
        "IPython.display.display", lambda *data, **options: shown.append((data, options))
    )
    return shown


@pytest.fixture(scope="module")
def address():
    if not (HTML / "index.html").exists():
        pytest.fail("there is no _build/html: run `make book` first")
    with served() as place:
        yield place


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    try:
        chrome = chromium.start(tmp_path_factory.mktemp("profile"), logs=("browser", "performance"))
    except FileNotFoundError as error:
        pytest.fail(str(error)) if os.environ.get("CI") else pytest.skip(str(error))
    chrome.set_script_timeout(120)
    yield chrome
    chrome.quit()
