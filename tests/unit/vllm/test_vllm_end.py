"""A backend of several processes is told to end, and what that reaches."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from amdserve.serve.child import Child

# The helper notes a signal to end; the parent takes one, waits a moment, and ends both.
PROGRAM = """
(trap "touch $0.told" TERM; touch "$0.up"; while :; do sleep 0.02; done) &
trap "sleep 0.3; kill -9 $!; exit 0" TERM
while :; do sleep 0.02; done
"""


def test_only_the_process_itself_is_told_to_end(tmp_path: Path) -> None:
    child = Child(["bash", "-c", PROGRAM, str(tmp_path / "helper")], dict(os.environ))
    try:
        limit = time.monotonic() + 30
        while not (tmp_path / "helper.up").exists():
            assert time.monotonic() < limit
            time.sleep(0.01)
        child.ask(signal.SIGTERM)
        assert child.process.wait(30) == 0
        assert not (tmp_path / "helper.told").exists()
    finally:
        child.send(signal.SIGKILL)
        child.close()
