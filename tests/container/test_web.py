"""The web page of llama-server is in the image: it is served, a browser draws it, and one can chat in it."""

from __future__ import annotations

import gzip
import os
import re
from pathlib import Path

import pytest

from . import browser
from .server import Serve

MODEL = "/models/llama.gguf"
SERVER = ["--model", MODEL, "--device", "none", "--host", "0.0.0.0", "--port", "8080"]


def test_the_page_is_served(serve: Serve, llama: str) -> None:
    server = serve(llama, *SERVER, entrypoint=["llama-server-rocm"]).wait()
    # It is stored compressed, and only given to who takes it so: every browser does.
    status, body = server.ask("/", headers={"Accept-Encoding": "gzip"})
    assert status == 200
    page = gzip.decompress(body)
    assert b"<html" in page
    (script,) = set(re.findall(rb'"\./(_app/[^"]+\.js)"', page))
    status, body = server.ask(f"/{script.decode()}", headers={"Accept-Encoding": "gzip"})
    assert status == 200
    assert len(body) > 100_000


def test_one_can_chat_in_a_browser(serve: Serve, llama: str, tmp_path: Path) -> None:
    program = browser.find()
    if program is None:
        pytest.skip(f"no browser is here (looked for {', '.join(browser.NAMES)})")
    argv = [*SERVER, "--alias", "tiny-model", "--n-predict", "16"]
    server = serve(llama, *argv, entrypoint=["llama-server-vulkan"]).wait()
    shot = Path(os.environ.get("AMDSERVE_SCREENSHOT") or tmp_path / "page.png")
    with browser.page(program, server.url, tmp_path) as page:
        page.until("!!document.querySelector('textarea')")
        page.until("document.body.innerText.includes('tiny-model')")
        page.ask("document.querySelector('textarea').focus() || true")
        page.type("a question")
        # The page counts the tokens of an answer under it when it is complete.
        page.until(r"/\b16 tokens/.test(document.body.innerText)")
        assert "a question" in page.ask("document.body.innerText")
        page.screenshot(shot)
    assert shot.stat().st_size > 5_000
