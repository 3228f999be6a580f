"""A backend that lives and cannot compute any more: its log raises the doubt, a question settles it.

llama-server outlives the loss of its GPU: it answers `/health` with "ok", and every request with an error. A
line of log alone convicts nobody, for what users send may stand in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from amdserve.serve.probe import Probe

SIGNS = re.compile(r"device ?lost|decode\(\) failed|Compute error|failed to decode, ret = -", re.IGNORECASE)
PAUSE = 10.0  # seconds between two questions: nobody's words in a log shall keep a backend busy
BROKEN = 500

# The least that makes llama-server compute, by what it serves.
QUESTIONS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "llm": ("/completion", {"prompt": "a", "n_predict": 1, "cache_prompt": False}),
    "embedding": ("/embedding", {"content": "a"}),
    "rerank": ("/rerank", {"query": "a", "documents": ["b"]}),
}


class Doubt:
    """Whether one backend still computes.

    Args:
        address: host and port where it listens.
        purpose: what it serves, a key of `QUESTIONS`; None where no question is known.
        key: API key.
    """

    def __init__(self, address: tuple[str, int], purpose: str | None, key: str | None) -> None:
        self.probe: Probe | None = None
        if purpose is not None and purpose in QUESTIONS:
            path, body = QUESTIONS[purpose]
            self.probe = Probe(*address, path, key=key, body=body)
        self.sign = ""
        self._asking = False

    def heard(self, line: str) -> None:
        """Take note of a line of its log."""
        if not self.sign and SIGNS.search(line):
            self.sign = line.strip()[:300]

    def look(self, now: float) -> str | None:
        """Ask, if there is doubt; give why it counts as broken once the answer says so.

        Args:
            now: the monotonic clock.
        """
        probe = self.probe
        if probe is None:
            return None
        if self._asking and probe.status is not None:
            self._asking = False
            sign, self.sign = self.sign, ""
            if probe.status == BROKEN:
                return f"it answers every request with an error: {sign}"
        if self.sign and not self._asking and (not probe.begun or now - probe.begun >= PAUSE):
            self._asking = True
            probe.start()
        return None

    @property
    def waiting(self) -> Probe | None:
        """The question under way."""
        return self.probe if self._asking else None

    def close(self) -> None:
        """Ask no more."""
        if self.probe is not None:
            self.probe.close()
