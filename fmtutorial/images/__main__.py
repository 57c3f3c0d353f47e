"""python -m fmtutorial.images --help: see ``command``."""

import os
import signal
import sys
import warnings
from types import FrameType

from fmtutorial.images.process import handle


def leave(number: int, frame: FrameType | None) -> None:
    """End at once: while PyTorch is being imported there is nothing to put in order."""
    os.write(2, f"stopped by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)


handle(leave)
sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))
warnings.formatwarning = lambda message, *where: f"warning: {message}\n"
try:
    from fmtutorial.images.command import main

    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack a letter
    main()
finally:
    handle(signal.SIG_IGN)  # what is left to do has no use for them
