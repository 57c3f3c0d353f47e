"""What the tests share: event shapes, schedules, a generator; a browser and the built site."""

import os
import shutil
import signal

import pytest
import torch
from browser import BROWSERS, HTML, SEED, served
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

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
    chromium = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        message = "no Chromium with its driver: apt-get install chromium chromium-driver"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    chrome.set_script_timeout(120)
    yield chrome
    chrome.quit()
