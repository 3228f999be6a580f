"""What makes an image large: the bytes of its layers by package, backend and folder, and what has changed.

Every file of every layer counts, also one that a later layer replaces or removes: it is pulled all the same.
"""

from __future__ import annotations

import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amdserve.errors import VerifyError
from amdserve.image import show
from amdserve.image.local import Images, answering
from amdserve.image.verify import layers

if TYPE_CHECKING:
    from amdserve.image.engine import Engine

MOST = 10
_LIST = re.compile(r"^var/lib/dpkg/info/([^:/]+)(?::\w+)?\.list$")
_MERGED = re.compile(r"^(?:bin|sbin|lib|lib64)/")
_SITE = re.compile(r"^(.*/site-packages)/([^/]+)")
_SUFFIX = re.compile(r"(?:\.libs|-[^-/]+\.dist-info)$")


@dataclass(frozen=True, slots=True)
class Thing:
    """A package, a program's file or a folder: its bytes in all layers, and what they were before."""

    name: str
    size: int
    before: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Give it as one JSON object."""
        return {"name": self.name, "bytes": self.size, "before": self.before}


@dataclass(frozen=True, slots=True)
class Sizes:
    """An image's bytes: all, and the largest things in it; `against` is the image it is compared with."""

    ref: str
    size: int
    things: tuple[Thing, ...]
    against: str = ""
    before: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Give it as one JSON object."""
        compared = {"against": self.against, "before": self.before} if self.against else {}
        largest = [one.to_dict() for one in self.things]
        return {"ref": self.ref, "bytes": self.size, **compared, "largest": largest}

    def __str__(self) -> str:
        head = ["what", "size", "share", *(["change"] if self.against else [])]
        whole = Thing("all of it", self.size, self.before)
        rows = [
            [
                one.name,
                show.megabytes(one.size),
                f"{one.size / self.size:.0%}" if self.size else "-",
                *([_change(one)] if self.against else []),
            ]
            for one in (*self.things, whole)
        ]
        return show.table(rows, head)


def _change(thing: Thing) -> str:
    difference = thing.size - (thing.before or 0)
    return f"{'+' if difference > 0 else '-'}{show.megabytes(abs(difference))}" if difference else "none"


def compare(engine: Engine, ref: str, against: str = "", most: int = MOST) -> Sizes:
    """Measure an image, and another one beside it.

    Args:
        engine: has both.
        ref: the image.
        against: the image that it is compared with, such as the last release; none where empty.
        most: how many things to name.

    Raises:
        VerifyError: the engine has no such image, or its layers cannot be read.
    """
    now = measure(engine, ref)
    then = measure(engine, against) if against else None
    # What has gone is as much of a change as what has come.
    names = sorted(now | (then or {}), key=lambda name: -max(now[name], (then or now)[name]))[:most]
    things = tuple(Thing(name, now[name], then[name] if then else None) for name in names)
    return Sizes(ref, now.total(), things, against, then.total() if then else None)


def measure(engine: Engine, ref: str) -> Counter[str]:
    """Give the bytes of each thing in an image.

    Raises:
        VerifyError: the engine has no such image, or its layers cannot be read.
    """
    image = Images(engine).find(ref)
    if image is None:
        raise VerifyError(
            f"the engine has no image {ref!r}",
            cause="it was not built or pulled here",
            fix="./inv build, or `docker pull`; `docker image ls` says what there is",
        )
    show.say(f"reading all layers of {ref} ({show.megabytes(image.size)})")
    client: Any = engine.client(timeout=600)
    with answering():
        return grouped(client.api.get_image(image.id, layers.CHUNK))


def grouped(archive: Iterable[bytes]) -> Counter[str]:
    """Give the bytes of each thing in an image's archive, as `docker save` gives it.

    Raises:
        VerifyError: it cannot be read.
    """
    files: list[tuple[str, int]] = []
    owners: dict[str, str] = {}
    for _, layer in layers.opened(archive):
        if isinstance(layer, tarfile.TarFile):
            files += _files(layer, owners)
    sizes: Counter[str] = Counter()
    for path, size in files:
        sizes[_thing(path, owners)] += size
    return sizes


def _files(layer: tarfile.TarFile, owners: dict[str, str]) -> Iterator[tuple[str, int]]:
    """Give the files of a layer, and take in what dpkg says of whose they are."""
    for member in layer:
        path = member.name.removeprefix("./")
        if not member.isreg():
            continue
        yield path, member.size
        if (found := _LIST.match(path)) and (content := layer.extractfile(member)):
            for line in content.read().decode("utf-8", "replace").splitlines():
                owners[_one_name(line.removeprefix("/"))] = found[1]


def _one_name(path: str) -> str:
    """Give the name of a file where /bin and /lib are links into /usr, which packages may not know."""
    return f"usr/{path}" if _MERGED.match(path) else path


def _thing(path: str, owners: Mapping[str, str]) -> str:
    if owner := owners.get(_one_name(path)):
        return owner
    if path.startswith("opt/llama/"):
        return f"/{path}"
    if found := _SITE.match(path):
        return f"{_SUFFIX.sub('', found[2])} (Python)"
    return "/" + "/".join(path.split("/")[:3])
