"""One blob on its way to a registry, in chunks: what has arrived is not sent twice.

Not every registry can go on after a connection dropped inside a chunk: Docker's own then forgets the upload.
There the blob is sent again in one piece, which either arrives or does not.
"""

from __future__ import annotations

import io
from typing import Any, BinaryIO

from amdserve.image.publish.backoff import TRANSIENT
from amdserve.image.publish.transport import FAILURES, Transport, brief, is_full

# Small enough that little is lost when a connection drops, large enough that it costs nothing.
CHUNK = 8 << 20


class Upload:
    """One blob on its way: where it goes, and how much of it has arrived."""

    def __init__(self, transport: Transport, digest: str, file: BinaryIO) -> None:
        self.transport, self.digest, self.file = transport, digest, file
        self.size = file.seek(0, io.SEEK_END)
        self.location, self.arrived, self.most, self.failures = "", 0, 0, 0
        self.whole = False

    def run(self) -> None:
        """Send it to its end."""
        while True:
            try:
                if not self.location:
                    self._begin()
                while self.arrived < self.size and not self.whole:
                    self._chunk()
                self._finish()
                return
            except (*FAILURES, _Again) as reason:
                self.failures += 1
                backoff = self.transport.backoff
                if backoff.spent(self.failures):
                    if isinstance(reason, _Again) and reason.answer is not None:
                        raise self.transport.refused("PATCH", reason.answer) from reason
                    raise self.transport.unreachable(reason) from reason
                self.transport.say(f"  {self.digest[:19]}: {brief(reason, 100)}; trying again")
                backoff.wait(self.failures)
                self._ask()

    def _begin(self) -> None:
        self.arrived = 0
        self._moved(self._send("POST", f"/v2/{self.transport.reference.path}/blobs/uploads/", 202))

    def _chunk(self) -> None:
        self.file.seek(self.arrived)
        piece = self.file.read(CHUNK)
        last = self.arrived + len(piece) - 1
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Range": f"{self.arrived}-{last}",
        }
        self._moved(self._send("PATCH", self.location, 202, data=piece, headers=headers))
        self.arrived = last + 1
        # Only what is further than ever counts as progress, or a blob could begin again for ever.
        if self.arrived > self.most:
            self.most, self.failures = self.arrived, 0

    def _finish(self) -> None:
        joint = "&" if "?" in self.location else "?"
        options: dict[str, Any] = {}
        if self.whole:
            self.file.seek(0)
            options = {"data": self.file, "headers": {"Content-Type": "application/octet-stream"}}
        self._send("PUT", f"{self.location}{joint}digest={self.digest}", 201, **options)

    def _ask(self) -> None:
        """Ask how much has arrived; where the registry has forgotten the upload, all is sent again."""
        if not self.location or self.whole:
            self.location = ""
            return
        location, self.location, self.whole = self.location, "", True
        try:
            answer = self.transport.once("GET", location)
        except FAILURES:
            return
        _, dash, last = answer.headers.get("Range", "").rpartition("-")
        if answer.status_code == 204 and dash and last.isdigit() and int(last) > 0:
            self.location, self.whole = location, False
            self._moved(answer)
            self.arrived = int(last) + 1

    def _moved(self, answer: Any) -> None:
        self.location = answer.headers.get("Location", "") or self.location

    def _send(self, method: str, url: str, expect: int, **options: Any) -> Any:
        answer = self.transport.once(method, url, **options)
        if answer.status_code == expect:
            return answer
        if is_full(answer) or answer.status_code in (401, 403, 413):
            raise self.transport.refused(method, answer)
        if answer.status_code not in TRANSIENT:
            # The upload is not what the registry remembers of it.
            self.location, self.whole = "", True
        raise _Again(answer)


class _Again(Exception):  # noqa: N818 - no error that anybody sees
    """An answer after which the blob is tried again."""

    def __init__(self, answer: Any) -> None:
        super().__init__(f"the registry answers {answer.status_code}")
        self.answer = answer
