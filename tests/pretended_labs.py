"""Run labs, sheets and the commands of chapter 8 on the pretended device.

    python tests/pretended_labs.py 06-reflow solutions/06-reflow     # as a reader runs them
    python tests/pretended_labs.py --small 06-reflow                 # every line, few times
    python tests/pretended_labs.py --command "train --data small --out run" "sample --steps 5"

It plays "cuda": the package and the labs are read with its name in place of that word, and
``torch.cuda`` says that there is a GPU as old as Colab's T4. With --single it plays Apple's "mps",
without double precision. Instead of all of MNIST there are the digits that the package ships.
"""

import argparse
import functools
import importlib.abc
import importlib.machinery
import shlex
import sys
import warnings
from pathlib import Path

import lab_runner
import torch
from lab_runner import ROOT, keep_quiet, replaced, shorten
from pretended import MODULE, NAME, Generator, Watch

ON_THE_CPU = 'pipeline.to("cpu"); pipeline.save_pretrained(folder)'
NO_DRIVER = """from unittest import mock
with mock.patch("torch.cuda.is_available", return_value=False):"""

PRETENDED = {
    "08-mnist": [("({} if full else small)", "small")],  # twelve thousand steps are too many
    "16-other-models": [
        # its tensors have no address, which is how diffusers tells them apart
        ("pipeline.save_pretrained(folder)", f"{ON_THE_CPU}; unet.to(device)"),
        # an export asks the driver for the state of its generator
        ("to_onnx(load_weights", f"{NO_DRIVER}\n    to_onnx(load_weights"),
    ],
}
"""Texts of a lab and others for them, on this device."""


def heard(text):
    """Return a text with the name of the pretended device for that of the device it plays."""
    return text.replace('"cuda"' if MODULE.double else '"mps"', f'"{NAME}"')


class Loader(importlib.machinery.SourceFileLoader):
    """Read a file of the package as ``heard``."""

    def get_code(self, name):
        return self.source_to_code(heard(Path(self.path).read_text(encoding="utf-8")), self.path)


class Finder(importlib.abc.MetaPathFinder):
    """Find the package beside these tests."""

    def find_spec(self, name, path, target=None):
        if name.split(".")[0] != "fmtutorial":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path or [str(ROOT)])
        spec.loader = Loader(name, spec.origin)
        return spec


def play():
    """Let all that is imported from here on find the device."""
    sys.meta_path.insert(0, Finder())
    torch.Generator = Generator
    torch.cuda.is_available = lambda: MODULE.double
    torch.cuda.device_count = lambda: 1
    torch.cuda.get_device_capability = lambda device=None: (7, 5)
    torch.cuda.get_device_name = lambda device=None: NAME
    from fmtutorial.images import data

    data.mnist = data.small_digits
    data.DATA["full"] = data.small_digits


def changed(lab, text):
    """Return a lab's text as it is run on the pretended device."""
    text = heard(text)
    for old, new in PRETENDED.get(lab, ()):
        text = replaced(lab, text, old, new)
    return text


run = functools.partial(lab_runner.run, change=changed)
"""Run a lab on the pretended device."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--small", action="store_true", help="every line, few times")
    parser.add_argument("--single", action="store_true", help="play mps")
    parser.add_argument("--command", action="store_true", help="not labs: of fmtutorial.images")
    parser.add_argument("names", nargs="+", help="labs, as 06-reflow or a file; or commands")
    options = parser.parse_args()
    MODULE.double = not options.single
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    keep_quiet()
    play()
    if options.small:
        shorten()
    with Watch():
        if options.command:
            from fmtutorial.images.command import main
        for name in options.names:
            main(shlex.split(name)) if options.command else run(name, options.small)
