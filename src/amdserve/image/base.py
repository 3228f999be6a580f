"""The image that every other starts from: pulled by its digest, or made here from signed packages.

Neither needs the other: a machine without a registry makes the same distribution itself, and a machine that
has neither registry nor mirror says so before anything is built.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

from amdserve.errors import EngineError, SourceError
from amdserve.image import bootstrap
from amdserve.image.catalog import Base, Sources
from amdserve.image.engine.models import Engine, Say, say_aside
from amdserve.image.plan import LABEL

REPOSITORY = "amdserve-base"
RECIPE = f"{LABEL}base.recipe"
# Until a registry's first word. `auto` has another way, so it does not wait for one that never answers.
AUTO_SECONDS = 8.0
PULL_SECONDS = 60.0


def ensure(
    engine: Engine,
    sources: Sources,
    mode: str = "auto",
    *,
    name: str = "debian",
    dry: bool = False,
    say: Say = say_aside,
) -> str:
    """Have a base image in the engine.

    Args:
        engine: where it has to be.
        sources: what is pinned.
        mode: `pull` it by digest, `bootstrap` it from packages, or `auto`: what is there already, else
            pull, else bootstrap.
        name: the key in `base:` of images/sources.yaml.
        dry: tell what would be done, and do none of it.
        say: is told what is done, and why; nothing where the image is there already.

    Returns:
        the reference that FROM can name.

    Raises:
        SourceError: it cannot be had in this mode.
        EngineError: the engine refuses it.
    """
    work = _Work(engine, name, sources.base[name], dry, say)
    match mode:
        case "pull":
            return work.pulled() or work.pull(PULL_SECONDS)
        case "bootstrap":
            return work.made() or work.make()
        case _:
            return work.pulled() or work.made() or work.either()


@dataclass(frozen=True, slots=True)
class _Work:
    engine: Engine
    name: str
    base: Base
    dry: bool
    say: Say

    @property
    def pinned(self) -> str:
        """What is pulled: by digest, where one is pinned."""
        repository = self.base.image.rpartition(":")[0] or self.base.image
        return f"{repository}@{self.base.digest}" if self.base.digest else self.base.image

    @property
    def own(self) -> str:
        """The tag of the image that is made here."""
        return f"{REPOSITORY}:{self.name}-{self.base.suite}"

    def pulled(self) -> str:
        return self.pinned if self._image(self.pinned) is not None else ""

    def made(self) -> str:
        image = self._image(self.own)
        if image is None:
            return ""
        labels = (image.get("Config") or {}).get("Labels") or {}
        return self.own if labels.get(RECIPE) == bootstrap.recipe(self.base) else ""

    def either(self) -> str:
        try:
            return self.pull(AUTO_SECONDS)
        except SourceError as unpulled:
            self.say(f"{self.pinned} cannot be pulled here: {unpulled.cause}")
            try:
                return self.make()
            except SourceError as unmade:
                raise SourceError(
                    f"the base {self.base.image} can neither be pulled nor made here",
                    cause=f"pull: {unpulled.cause}; bootstrap: {unmade.what}: {unmade.cause}",
                    fix=unmade.fix or unpulled.fix,
                ) from unmade

    def pull(self, seconds: float) -> str:
        """Pull the pinned image; `seconds` without a word from the registry end it."""
        self.say(f"pulling {self.pinned} …")
        if self.dry:
            return self.pinned
        if not self.base.digest:
            self.say(f"note: no digest is pinned for {self.pinned}, so it is whatever the registry has today")
        began = time.monotonic()
        repository, tag = (
            (self.pinned.partition("@")[0], self.base.digest)
            if self.base.digest
            else (self.pinned.rpartition(":")[0], self.pinned.rpartition(":")[2])
        )
        with _words(
            SourceError, f"{self.pinned} cannot be pulled", "--base bootstrap makes it from packages"
        ):
            for event in _progress(self.engine, repository, tag, seconds):
                if "error" in event:
                    raise OSError(event["error"])
        self.say(f"pulled {self.pinned} in {time.monotonic() - began:.0f} s")
        return self.pinned

    def make(self) -> str:
        """Make the image from packages; it gets its tag only when it is complete."""
        mirror = bootstrap.mirror_of(self.base)
        if self.dry:
            self.say(f"making {self.own} from the packages of {mirror} …")
            return self.own
        began = time.monotonic()
        labels = {RECIPE: bootstrap.recipe(self.base), f"{LABEL}base.mirror": mirror}
        with tempfile.TemporaryDirectory(prefix="amdserve-base-") as folder:
            # The tool may give up its rights on the way, and has to get back in.
            Path(folder).chmod(0o755)
            archive = bootstrap.make(self.name, self.base, self.own, labels, work=Path(folder), say=self.say)
            what = f"the engine does not take {self.own}"
            with (
                _words(EngineError, what, "docker system df (is its disk full?)"),
                archive.open("rb") as file,
            ):
                self.engine.client(timeout=600).images.load(file)
        self.say(f"made {self.own} in {time.monotonic() - began:.0f} s")
        return self.own

    def _image(self, reference: str) -> Mapping[str, Any] | None:
        if not self.engine.version:  # a dry run, and the engine is not there yet
            return None
        from docker.errors import ImageNotFound  # noqa: PLC0415

        try:
            with _words(EngineError, "the engine does not answer", "./inv engine", keep=ImageNotFound):
                found: Mapping[str, Any] = self.engine.client().api.inspect_image(reference)
        except ImageNotFound:
            return None
        return found


def _progress(engine: Engine, repository: str, tag: str, seconds: float) -> Iterator[Mapping[str, Any]]:
    """Pull an image and give what the engine says of it; the SDK itself would wait for ever.

    Raises:
        TimeoutError: the registry said nothing for `seconds`, or later for a minute.
    """
    said: Queue[Mapping[str, Any] | Exception | None] = Queue()

    def work() -> None:
        try:
            for event in engine.client().api.pull(repository, tag=tag, stream=True, decode=True):
                said.put(event)
            said.put(None)
        except Exception as reason:
            said.put(reason)

    Thread(target=work, daemon=True).start()
    while True:
        try:
            event = said.get(timeout=seconds)
        except Empty:
            raise TimeoutError(f"no answer in {seconds:g} s") from None
        if event is None:
            return
        if isinstance(event, Exception):
            raise event
        yield event
        seconds = max(seconds, PULL_SECONDS)


@contextmanager
def _words(
    error: type[EngineError | SourceError], what: str, fix: str, *, keep: type[Exception] | tuple[()] = ()
) -> Iterator[None]:
    """Turn what the docker SDK and its HTTP library raise into one of our errors."""
    from docker.errors import APIError, DockerException  # noqa: PLC0415
    from requests.exceptions import RequestException  # noqa: PLC0415

    try:
        yield
    except keep:
        raise
    except APIError as reason:
        raise error(what, cause=str(reason.explanation or reason), fix=fix) from reason
    except (DockerException, RequestException, OSError) as reason:
        raise error(what, cause=str(reason), fix=fix) from reason
