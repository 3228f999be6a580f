"""`amdserve serve` with a real vLLM behind it, as a process of this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from openai import OpenAI
from ports import free_port

from amdserve import process

# A cold start imports gigabytes, on a machine that may do something else besides.
READY = 480.0
ANSWER = 240.0
# What a random model would write into a forced form is white space without end.
FORMS = '{"backend": "xgrammar", "disable_any_whitespace": true}'


class Server:
    """One run: started at once, its log in a file.

    Args:
        image: the image's description.
        folder: for its state and its log.
        model: a folder, or anything else `serve` takes.
        words: more for `amdserve serve`.
        more: what goes to vLLM unchanged.
        environ: variables besides those of this process.
    """

    def __init__(
        self,
        image: Path,
        folder: Path,
        model: Path,
        *,
        words: Sequence[str] = (),
        more: Sequence[str] = (),
        environ: dict[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        self.stopped = False
        self.folder = folder
        self.log_file = folder / "log"
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("VLLM_")},
            "AMDSERVE_IMAGE_JSON": str(image),
            "AMDSERVE_STATE_DIR": str(folder / "state"),
            "AMDSERVE_SYSROOT": str(_bare_machine(folder)),
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "HF_HUB_OFFLINE": "1",
            **(environ or {}),
        }
        argv = [
            *self._amdserve(), "serve", str(model), "--host", "127.0.0.1", "--port", str(self.port),
            "--load-stall", "400", *words,
            "--", "--enforce-eager", "--structured-outputs-config", FORMS, *more,
        ]  # fmt: skip
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                argv, env=self.environ, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    @staticmethod
    def _amdserve() -> list[str]:
        return [sys.executable, "-m", "amdserve.serve.entry"]

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def openai(self, key: str = "none") -> OpenAI:
        """The real client, pointed here."""
        return OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=key, max_retries=0, timeout=ANSWER)

    def ask(self, *words: str) -> process.Result:
        """Run another of amdserve's commands beside it."""
        return process.run([*self._amdserve(), *words], env=self.environ, check=False, timeout=ANSWER)

    def status(self) -> dict[str, Any]:
        try:
            found = json.loads(self.ask("status", "--json").out)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def wait(self, seconds: float = READY) -> Server:
        """Wait until it is ready."""
        self.until(lambda: self.status().get("state") == "ready", "it to be ready", seconds)
        return self

    def until(self, holds: Callable[[], bool], what: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.log}"
            assert time.monotonic() < end, f"{what} took longer than {seconds:.0f} s:\n{self.log}"
            time.sleep(0.5)

    def stop(self) -> None:
        self.stopped = True
        self.process.send_signal(signal.SIGTERM)

    def end(self, seconds: float = READY) -> int:
        """Wait for its end, which was asked for or is a failure; give its exit code."""
        limit = time.monotonic() + seconds
        while self.process.poll() is None:
            told = self.stopped or self.status().get("state") != "ready"
            assert told, f"it serves, where it should have failed:\n{self.log}"
            assert time.monotonic() < limit, f"it does not end:\n{self.log}"
            time.sleep(0.5)
        return int(self.process.returncode)

    def children(self) -> dict[int, str]:
        """Give the processes that descend from it, with the names they gave themselves."""
        above: dict[int, tuple[int, str]] = {}
        for place in Path("/proc").iterdir():
            if place.name.isdigit():
                try:
                    parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
                    above[int(place.name)] = (parent, (place / "cmdline").read_text().replace("\0", " "))
                except (OSError, ValueError):
                    continue
        found = {self.process.pid: ""}
        grown = True
        while grown:
            more = {
                pid: line for pid, (parent, line) in above.items() if parent in found and pid not in found
            }
            found.update(more)
            grown = bool(more)
        del found[self.process.pid]
        return found

    def kill(self, word: str) -> int:
        """Kill the one descendant whose command line holds a word; give its id."""
        (pid,) = [pid for pid, line in self.children().items() if word in line]
        self.stopped = True
        os.kill(pid, signal.SIGKILL)
        return pid

    def remove(self) -> None:
        """End it, whatever it does, with all that it started."""
        left = self.children() if self.process.poll() is None else {}
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def _bare_machine(folder: Path) -> Path:
    """Lay out a machine without a GPU: what this one has plays no part."""
    root = folder / "machine"
    for name in ("dev", "sys", "proc"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "proc/meminfo").write_text("MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n", encoding="utf-8")
    return root
