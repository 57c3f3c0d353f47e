"""The grader's end of a keeper: started when it is needed, asked, and started again if lost."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from typing import Any

from fmtutorial.coursework.keeper import remove

MODULE = "fmtutorial.coursework.keeper"
START, GRACE = 120.0, 10.0
"""Seconds that a keeper may need to start, and beyond those of a job."""


class Lost(Exception):
    """The keeper is gone, or does not answer."""


class Keeper:
    """A process that runs submissions, one at a time, by a module; to be closed."""

    def __init__(self, worker: str = "worker") -> None:
        self.worker = worker
        self.process: subprocess.Popen | None = None
        self.folder = ""

    def ready(self) -> None:
        """Start the process, if there is none.

        Raises:
            Lost: it does not start.
        """
        if self.process is None:
            self._start()
            self._answer(START)

    def ask(self, job: dict[str, Any]) -> tuple[bytes, str]:
        """Have a job done; return what its worker said and why it ended, "" at its own end.

        Raises:
            Lost: there is no answer. The next job needs a new process.
        """
        self.ready()
        return self._answer(job["total"] + GRACE, json.dumps(job).encode() + b"\n")

    def _answer(self, seconds: float, question: bytes = b"") -> tuple[bytes, str]:
        timer = threading.Timer(seconds, self.process.kill)
        timer.daemon = True
        timer.start()
        try:
            self.process.stdin.write(question)
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline())
            return self.process.stdout.read(answer["size"]), answer["why"]
        except (OSError, ValueError) as error:
            self.close()
            raise Lost from error
        finally:
            timer.cancel()

    def _start(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="submission-")
        work = os.path.join(self.folder, "work")
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        settings = {"TMPDIR": work, "IPYTHONDIR": f"{self.folder}/ipython", "MPLBACKEND": "agg"}
        settings |= {"CUDA_VISIBLE_DEVICES": ""} | threads
        self.process = subprocess.Popen(
            [sys.executable, "-m", MODULE, self.folder, self.worker],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=self.folder,
            env=os.environ | settings,
            start_new_session=True,  # Ctrl-C is for the grader, which closes its keepers
        )

    def close(self) -> None:
        """End the process, what it runs, and its folder."""
        process, self.process = self.process, None
        if process is None:
            return
        with suppress(OSError):
            process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        remove(self.folder)
