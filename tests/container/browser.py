"""A headless Chromium that is asked through its DevTools protocol: what a page shows once its code has run.

`--dump-dom` gives the page when it has loaded, which for a page that its own code draws is before there is
anything; here a test waits for what it wants to see.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from amdserve import process

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_ENDPOINT = re.compile(r"^DevTools listening on (ws://\S+)$", re.MULTILINE)


def find() -> str | None:
    """Give the first browser that is installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """An open page."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self._session: str | None = None

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command of the protocol and give its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._connection.send(json.dumps(message))
        while True:
            reply = json.loads(self._connection.recv(timeout=60))
            if reply.get("id") == number:
                assert "error" not in reply, f"{method}: {reply['error']}"
                result: dict[str, Any] = reply["result"]
                return result

    def open(self, url: str) -> None:
        """Open a page and talk to it from now on."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.send("Page.navigate", url=url)

    def ask(self, expression: str) -> Any:
        """Give the value of a JavaScript expression in the page."""
        reply = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in reply, reply["exceptionDetails"]
        return reply["result"].get("value")

    def until(self, expression: str, seconds: float = 90) -> Any:
        """Wait until an expression is true in the page and give its value: no element, but `!!element`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            # Between two documents there is nothing to ask.
            with contextlib.suppress(AssertionError):
                if value := self.ask(expression):
                    return value
            time.sleep(0.1)
        raise AssertionError(f"never true: {expression}\n{self.ask('document.body.innerText')}")

    def type(self, text: str) -> None:
        """Type into what has the focus, and press Enter."""
        self.send("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            self.send(
                "Input.dispatchKeyEvent",
                type=kind,
                key="Enter",
                code="Enter",
                windowsVirtualKeyCode=13,
                text="\r",
            )

    def screenshot(self, file: Path) -> None:
        """Write what is seen as a PNG."""
        file.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))


@contextlib.contextmanager
def page(program: str, url: str, folder: Path, size: tuple[int, int] = (1280, 800)) -> Iterator[Page]:
    """Open a page in a browser of its own, which ends with the block.

    Args:
        program: the browser.
        url: the page.
        folder: for its profile and its log.
        size: of the window in pixels.
    """
    log = folder / "browser.log"
    argv = [
        program,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--no-first-run",
        "--remote-debugging-port=0",
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={size[0]},{size[1]}",
        "about:blank",
    ]
    with log.open("wb") as output:
        browser = process.spawn(argv, stdout=output, stderr=output)
    try:
        end = time.monotonic() + 90
        while not (found := _ENDPOINT.search(log.read_text("utf-8", "replace"))):
            assert browser.poll() is None, log.read_text("utf-8", "replace")
            assert time.monotonic() < end, "the browser did not say where it listens"
            time.sleep(0.1)
        with connect(found.group(1), max_size=None, open_timeout=60) as connection:
            opened = Page(connection)
            opened.open(url)
            yield opened
    finally:
        browser.terminate()
        browser.wait(30)
