"""The one door for subprocesses: what an error keeps of a command that failed."""

from __future__ import annotations

import pytest

from amdserve import process
from amdserve.errors import ProcessError


def test_the_last_words_are_words() -> None:
    """git says what is wrong first, and then a paragraph with blank lines."""
    script = (
        "printf 'fatal: no such repository\\n\\nPlease make sure\\n\\n  that it exists.\\n\\n' >&2; exit 128"
    )
    with pytest.raises(ProcessError) as caught:
        process.run(["sh", "-c", script])
    assert caught.value.cause == "fatal: no such repository / Please make sure / that it exists."


def test_a_command_without_words_says_so() -> None:
    with pytest.raises(ProcessError) as caught:
        process.run(["sh", "-c", "echo; exit 3"])
    assert caught.value.cause == "it said nothing"
    assert "exit status 3" in str(caught.value)
