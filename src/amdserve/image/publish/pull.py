"""An image of the registry in the engine, as anybody would get it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from amdserve.errors import PublishError
from amdserve.image import show
from amdserve.image.local import Images, answering
from amdserve.image.publish.published import Published

if TYPE_CHECKING:
    from amdserve.image.engine import Engine


@contextmanager
def pulled(engine: Engine, image: Published, *, say: Callable[[str], None] = show.say) -> Iterator[str]:
    """Pull an image by its digest and give the reference; it goes afterwards unless it was there before.

    Raises:
        PublishError: what the engine has then is not what is in the registry.
        EngineError: the engine cannot pull it.
    """
    reference, images = image.reference, Images(engine)
    before = images.find(reference.pinned)
    if before is None:
        say(f"docker pull {reference.pinned}")
        with answering():
            engine.client(timeout=1800).images.pull(reference.repository, tag=reference.digest)
    found = images.find(reference.pinned)
    # One kind of engine knows an image by its configuration, the other by its manifest.
    if found is None or found.id not in (image.manifest.config, reference.digest):
        raise PublishError(
            f"{reference.pinned} is another image once it is pulled",
            cause=f"the registry says {image.manifest.config}, the engine {found.id if found else 'nothing'}",
            fix=f"docker image rm {reference.pinned}, then try again",
        )
    try:
        yield reference.pinned
    finally:
        if before is None:
            images.remove(reference.pinned)
