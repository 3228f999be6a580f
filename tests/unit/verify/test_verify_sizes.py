"""What makes an image large is named as people know it: by package, backend and folder."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from test_verify_layers import image, pieces, tar

from amdserve.errors import VerifyError
from amdserve.image import sizes

LOWER = tar(
    {
        "./var/lib/dpkg/info/libc6:amd64.list": b"/.\n/lib\n/lib/x86_64-linux-gnu/libc.so.6\n",
        "./usr/lib/x86_64-linux-gnu/libc.so.6": bytes(3000),
        "./opt/amdserve/lib/python3.14/site-packages/numpy/core.py": bytes(40),
        "./opt/amdserve/lib/python3.14/site-packages/numpy.libs/libblas.so": bytes(50),
        "./opt/amdserve/lib/python3.14/site-packages/numpy-2.5.5.dist-info/METADATA": bytes(5),
    }
)
UPPER = tar(
    {
        "opt/llama/vulkan/libggml-vulkan.so": bytes(700),
        "etc/amdserve/reference/model.gguf": bytes(60),
        "etc/amdserve/image.json": bytes(1),
        "usr/lib/x86_64-linux-gnu/libc.so.6": bytes(4),
    }
)


def grouped(*layers: bytes) -> Counter[str]:
    return sizes.grouped(pieces(image(*layers)))


def test_files_are_counted_for_whom_they_belong_to() -> None:
    found = grouped(LOWER, UPPER)
    assert found["libc6"] == 3004, "what a layer replaces is still pulled"
    assert found["numpy (Python)"] == 95
    assert found["/opt/llama/vulkan/libggml-vulkan.so"] == 700
    assert found["/etc/amdserve/reference"] == 60
    assert found.total() == 3004 + 95 + 700 + 61 + len("/.\n/lib\n/lib/x86_64-linux-gnu/libc.so.6\n")


def test_the_change_names_also_what_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"now": grouped(UPPER), "then": grouped(LOWER, UPPER)}
    monkeypatch.setattr(sizes, "measure", lambda _, ref: known[ref])
    engine: Any = None
    found = sizes.compare(engine, "now", "then", most=2)
    assert [(one.name, one.size, one.before) for one in found.things] == [
        ("libc6", 0, 3004),
        ("/opt/llama/vulkan/libggml-vulkan.so", 700, 700),
    ]
    assert (found.size, found.before) == (known["now"].total(), known["then"].total())
    text = str(found)
    assert "-0.0 MB" in text
    assert "none" in text
    assert str(sizes.compare(engine, "now")).count("change") == 0


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(VerifyError, match="cannot be read"):
        sizes.grouped(pieces(b"no archive" * 100))
