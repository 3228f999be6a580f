"""Signatures and signed statements about an image, by cosign, kept beside it in the registry.

With a key nothing leaves for a public log: who has the public key can check, and nobody else needs to be
asked. Without one (in a workflow of GitHub) the workflow's identity signs, and the public log is the proof.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amdserve import process
from amdserve.errors import PublishError, UsageError
from amdserve.image.publish import tools
from amdserve.image.publish.reference import Reference

PROVENANCE = "slsaprovenance1"
SPDX = "spdxjson"
CYCLONEDX = "cyclonedx"
TESTED = "https://in-toto.io/attestation/test-result/v0.1"
# What cosign calls a signature of an image: today's form, and that of older versions.
SIGNATURES = frozenset({"https://sigstore.dev/cosign/sign/v1", "cosign container image signature"})
GITHUB = "https://token.actions.githubusercontent.com"
# Neither a log nor a time stamp nor an authority: the key alone.
ALONE = {
    "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
    "rekorTlogConfig": {},
    "tsaConfig": {},
}
TIMEOUT = 300.0


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signs, and by what a signature is recognised.

    Args:
        key: the private key's file (or a KMS address); empty where a workflow's identity signs, or nobody.
        public: the public key's file; empty with a private key: it is made from that.
        identity: a regular expression for the identity that signed, where no key did.
        issuer: who vouches for that identity.
    """

    key: str = ""
    public: str = ""
    identity: str = ""
    issuer: str = GITHUB

    @property
    def by_key(self) -> bool:
        """Whether a key signs, and not an identity."""
        return bool(self.key or self.public)

    def check(self) -> None:
        """Refuse what cannot work before anything is begun.

        Raises:
            UsageError: nobody is named who signs, or a key's file is missing.
        """
        if not self.by_key and not self.identity:
            raise UsageError(
                "nobody is named who signs, or who should have signed",
                cause="an image is published with a signature, and checked with one",
                fix="--key cosign.key (cosign generate-key-pair makes one), or --identity REGEX",
            )
        for name in (self.key, self.public):
            if name and "://" not in name and not Path(name).is_file():
                raise UsageError(
                    f"there is no key {name}",
                    fix="cosign generate-key-pair makes cosign.key and cosign.pub",
                )

    def complete(self, folder: Path) -> Signer:
        """Give the same with its public key: where only the private one is named, it is made from that.

        Raises:
            UsageError: nobody is named who signs, or a key's file is missing.
            PublishError: cosign cannot be had, or the private key cannot be opened.
        """
        self.check()
        tools.ensure("cosign")
        if self.public or not self.key:
            return self
        done = self._cosign("public-key", "--key", self.key)
        if not done.ok:
            raise PublishError(
                f"{self.key} cannot be opened", cause=_last(done), fix="COSIGN_PASSWORD holds its password"
            )
        folder.mkdir(parents=True, exist_ok=True)
        public = folder / f"{hashlib.sha256(done.out.encode()).hexdigest()[:12]}.pub"
        public.write_text(done.out)
        return replace(self, public=str(public))

    def sign(self, image: Reference) -> None:
        """Sign an image by its digest.

        Raises:
            PublishError: cosign could not.
        """
        self._write("sign", image)

    def attest(self, image: Reference, kind: str, statement: Mapping[str, Any]) -> None:
        """Sign a statement about an image and keep it beside it.

        Raises:
            PublishError: cosign could not.
        """
        with tempfile.NamedTemporaryFile("w", prefix="amdserve-", suffix=".json") as file:
            json.dump(statement, file)
            file.flush()
            self._write("attest", image, "--type", kind, "--predicate", file.name)

    def signed(self, image: Reference) -> str:
        """Say why an image's signature does not hold; empty where it does."""
        done = self._cosign("verify", *self._who(), image.pinned)
        if not done.ok:
            return _last(done)
        # Any signed statement about the image is enough for cosign; here only the signature itself counts.
        try:
            kinds = {one["critical"]["type"] for one in json.loads(done.out)}
        except (LookupError, TypeError, ValueError) as reason:
            return f"cosign's answer cannot be read: {reason}"
        return "" if kinds & SIGNATURES else "there are signed statements about it, and no signature of it"

    def statement(self, image: Reference, kind: str) -> tuple[dict[str, Any] | None, str]:
        """Give a signed statement about an image, or why there is none."""
        done = self._cosign("verify-attestation", *self._who(), "--type", kind, image.pinned)
        if not done.ok:
            return None, _last(done)
        try:
            # One line a statement; the newest is the last.
            envelope = json.loads(done.out.strip().splitlines()[-1])
            found = json.loads(base64.b64decode(envelope["payload"]))["predicate"]
        except (LookupError, TypeError, ValueError) as reason:
            return None, f"it cannot be read: {reason}"
        return dict(found), ""

    def commands(self, image: Reference) -> tuple[str, ...]:
        """Give the lines by which anybody checks the same without this toolkit."""
        who = self._who()
        lines = [["cosign", "verify", *who, image.pinned]]
        lines += [
            ["cosign", "verify-attestation", *who, "--type", kind, image.pinned]
            for kind in (PROVENANCE, SPDX, CYCLONEDX, TESTED)
        ]
        return tuple(process.show(line) for line in (*lines, ["docker", "pull", image.pinned]))

    def _write(self, verb: str, image: Reference, *words: str) -> None:
        with tempfile.NamedTemporaryFile("w", prefix="amdserve-", suffix=".json") as alone:
            json.dump(ALONE, alone)
            alone.flush()
            how = ["--key", self.key, "--signing-config", alone.name] if self.key else []
            done = self._cosign(verb, "--yes", *how, *words, image.pinned)
        if not done.ok:
            raise PublishError(
                f"{image.pinned} could not be signed",
                cause=_last(done),
                fix="COSIGN_PASSWORD opens the key; `docker login` says who may write to the registry",
            )

    def _who(self) -> list[str]:
        if self.by_key:
            return ["--key", self.public or "cosign.pub", "--insecure-ignore-tlog=true"]
        return ["--certificate-identity-regexp", self.identity, "--certificate-oidc-issuer", self.issuer]

    def _cosign(self, *words: str) -> process.Result:
        environ = {"COSIGN_PASSWORD": "", **os.environ}
        return process.run([str(tools.ensure("cosign")), *words], env=environ, timeout=TIMEOUT, check=False)


def _last(done: process.Result) -> str:
    lines = [line.strip() for line in done.err.splitlines() if line.strip() and "WARNING" not in line]
    wrong = [line for line in lines if line.startswith("Error")] or lines[-1:]
    return (wrong or [f"cosign ended with {done.code}"])[0].removeprefix("Error: ")[:300]
