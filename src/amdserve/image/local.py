"""The images that an engine holds: found by reference or label, tagged, removed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amdserve.errors import EngineError
from amdserve.image.inputs import changed
from amdserve.image.models import Cell
from amdserve.image.plan import LABEL

if TYPE_CHECKING:
    from amdserve.image.engine import Engine


@dataclass(frozen=True, slots=True)
class LocalImage:
    """An image in the engine; `size` in bytes."""

    id: str
    tags: tuple[str, ...]
    labels: Mapping[str, str]
    size: int

    @property
    def hash(self) -> str:
        """The content hash of what it was built from, empty where it is not ours."""
        return self.labels.get(LABEL + "hash", "")

    def differs(self, cell: Cell) -> tuple[str, ...]:
        """Name the inputs in which it differs from a planned cell."""
        try:
            before = json.loads(self.labels.get(LABEL + "inputs", ""))
        except ValueError:
            before = {}
        if not isinstance(before, dict) or not before:
            return (f"{self.tags[0] if self.tags else self.id[:19]} does not say what it was built from",)
        return tuple(changed(before, cell.inputs))


@contextmanager
def answering() -> Iterator[None]:
    """Turn what the Docker SDK raises where an engine refuses or goes away into this project's error.

    Raises:
        EngineError: it did.
    """
    from docker.errors import APIError, DockerException  # noqa: PLC0415 - it costs a third of a second
    from requests.exceptions import RequestException  # noqa: PLC0415 - what the SDK lets through

    try:
        yield
    except (DockerException, RequestException) as reason:
        why = reason.explanation if isinstance(reason, APIError) else None
        raise EngineError(
            "the engine does not do what it is asked" if why else "the engine does not answer any more",
            cause=str(why or reason),
            fix="./inv engine says whether it runs, and starts it",
        ) from reason


class Images:
    """The images of one engine, asked through the Docker SDK; none where the engine is not there yet."""

    def __init__(self, engine: Engine | None) -> None:
        self._client: Any = engine.client() if engine else None

    def find(self, reference: str) -> LocalImage | None:
        """Give the image of a reference, None where there is none."""
        if self._client is None:
            return None
        from docker.errors import ImageNotFound  # noqa: PLC0415 - it costs a third of a second

        with answering():
            try:
                attributes = self._client.api.inspect_image(reference)
            except ImageNotFound:
                return None
        return LocalImage(
            attributes["Id"],
            tuple(attributes.get("RepoTags") or ()),
            (attributes.get("Config") or {}).get("Labels") or {},
            int(attributes.get("Size") or 0),
        )

    def labelled(self, labels: Mapping[str, str]) -> list[LocalImage]:
        """Give the images that carry all these labels, the newest first."""
        wanted = [f"{LABEL}{name}={value}" for name, value in labels.items()]
        with answering():
            found = self._client.api.images(filters={"label": wanted})
        found.sort(key=lambda one: -int(one.get("Created") or 0))
        return [
            LocalImage(one["Id"], tuple(one.get("RepoTags") or ()), one.get("Labels") or {}, int(one["Size"]))
            for one in found
        ]

    def history(self, reference: str) -> list[dict[str, Any]]:
        """Give the steps that made an image, the oldest first, as the engine tells them."""
        with answering():
            found: list[dict[str, Any]] = self._client.api.history(reference)
        return found[::-1]

    def tag(self, reference: str, tags: tuple[str, ...]) -> None:
        """Give an image more tags, the ones that never move first."""
        for name in reversed(tags):
            repository, _, tag = name.rpartition(":")
            with answering():
                self._client.api.tag(reference, repository, tag, force=True)

    def remove(self, reference: str) -> None:
        """Take a tag away, and the image with its last one.

        It cleans up after something else, which may have failed: that it cannot is no error of its own.
        """
        from docker.errors import DockerException  # noqa: PLC0415
        from requests.exceptions import RequestException  # noqa: PLC0415

        with suppress(DockerException, RequestException):
            self._client.api.remove_image(reference)

    def data_root(self) -> str:
        """Give the folder on the engine's machine where it keeps its data."""
        if self._client is None:
            return ""
        with answering():
            return str(self._client.info().get("DockerRootDir", ""))

    def cache_bytes(self) -> int:
        """Give how much the build cache holds, in bytes."""
        with answering():
            return sum(int(entry.get("Size") or 0) for entry in self._client.df().get("BuildCache") or ())
