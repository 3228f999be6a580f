"""Requests to one registry: its address, who asks, which certificates count, and trying again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import requests

from amdserve.errors import PublishError
from amdserve.image import index, show
from amdserve.image.publish.backoff import TRANSIENT, Backoff, retry_after
from amdserve.image.publish.reference import HUB, Reference

TIMEOUT = (20.0, 120.0)
PROBE = (5.0, 10.0)
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
# Errors that no repetition mends: no space left, a quota.
_FULL = re.compile(rb'"Err":\s*28\b|no space left|ENOSPC|quota', re.IGNORECASE)
FAILURES = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who asks: a name and a password or token, as `docker login` keeps them."""

    user: str
    password: str


def credentials(registry: str) -> Credentials | None:
    """Give what `docker login` stored for a registry (in its file or a credential helper), if anything."""
    from docker import auth  # noqa: PLC0415 - the SDK costs a third of a second
    from docker.errors import DockerException  # noqa: PLC0415

    try:
        found = auth.load_config().resolve_authconfig(HUB if registry == HUB else registry) or {}
    except DockerException as reason:
        show.say(f"note: what `docker login` stored for {registry} cannot be read: {reason}")
        return None
    user = found.get("username") or found.get("Username")
    password = found.get("password") or found.get("Password") or found.get("IdentityToken")
    return Credentials(str(user or ""), str(password)) if password else None


class Transport:
    """Sends requests to one registry; gives answers, or this project's errors."""

    def __init__(
        self,
        reference: Reference,
        *,
        who: Credentials | None = None,
        backoff: Backoff | None = None,
        say: Callable[[str], None] = show.say,
    ) -> None:
        self.reference = reference
        self.backoff = backoff or Backoff()
        self.say = say
        self._who = who
        self._tokens: dict[str, str] = {}
        self._session = requests.Session()
        self._trust = str(index.ca_bundle() or "") or True
        self._base = ""

    @property
    def base(self) -> str:
        """The registry's address: https, or http where the registry is on this machine and speaks no TLS.

        Raises:
            requests.RequestException: it is on this machine and says neither yet.
        """
        if not self._base:
            tls = not self.reference.loopback or self._speaks_tls()
            self._base = f"{'https' if tls else 'http'}://{self.reference.api}"
        return self._base

    def _speaks_tls(self) -> bool:
        """Tell whether a registry on this machine wants TLS: by its own word, for it may still be starting.

        A server that wants TLS refuses plain HTTP with 400 or hangs up. So does the port of a container that
        is not up yet: only an answer to TLS tells the two apart.
        """
        try:
            if self._request("GET", f"http://{self.reference.api}/v2/", timeout=PROBE).status_code != 400:
                return False
        except requests.RequestException:
            pass
        try:
            self._request("GET", f"https://{self.reference.api}/v2/", timeout=PROBE)
        except requests.exceptions.SSLError as reason:
            if not is_certificate(reason):
                raise
        return True

    def _request(self, method: str, url: str, **options: Any) -> requests.Response:
        # Named each time: requests lets variables of its own go before what a session trusts.
        return self._session.request(method, url, verify=self._trust, **{"timeout": TIMEOUT, **options})

    def once(self, method: str, url: str, **options: Any) -> requests.Response:
        """Send one request, with an answer to the registry's question who asks; no repetition."""
        url = url if "://" in url else self.base + url
        headers = dict(options.pop("headers", {}))
        scope = self._scope(method)
        if token := self._tokens.get(scope):
            headers["Authorization"] = token
        answer = self._request(method, url, headers=headers, **options)
        if answer.status_code == 401 and (granted := self._grant(answer, scope)):
            self._tokens[scope] = headers["Authorization"] = granted
            answer.close()
            if (body := options.get("data")) is not None and not isinstance(body, bytes):
                body.seek(0)
            answer = self._request(method, url, headers=headers, **options)
        return answer

    def send(self, method: str, url: str, *, expect: Iterable[int], **options: Any) -> requests.Response:
        """Send a request until it is answered as expected.

        Args:
            method: GET, HEAD, PUT and so on.
            url: a path of the registry, or a whole URL that it gave.
            expect: the statuses that are an answer; any other is a refusal.
            options: those of `requests`.

        Raises:
            PublishError: the registry refuses, or does not answer after several attempts.
        """
        failures = 0
        while True:
            try:
                answer = self.once(method, url, **options)
            except FAILURES as reason:
                failures += 1
                if self.backoff.spent(failures) or is_certificate(reason):
                    raise self.unreachable(reason) from reason
                self.say(f"  {self.reference.registry}: {brief(reason)}; trying again")
                self.backoff.wait(failures)
                continue
            if answer.status_code in expect:
                return answer
            failures += 1
            if answer.status_code not in TRANSIENT or is_full(answer) or self.backoff.spent(failures):
                raise self.refused(method, answer)
            self.say(f"  {self.reference.registry}: answers {answer.status_code}; trying again")
            self.backoff.wait(failures, retry_after(answer.headers.get("Retry-After")))

    def unreachable(self, reason: Exception) -> PublishError:
        """Give the error for a registry that does not answer."""
        if is_certificate(reason):
            return PublishError(
                f"the certificate of {self.reference.registry} does not hold",
                cause=brief(reason),
                fix="SSL_CERT_FILE names the file of the authorities that this host trusts",
            )
        return PublishError(
            f"{self.reference.registry} does not answer",
            cause=f"{brief(reason)} ({self.backoff.attempts} attempts)",
            fix="run it again: what has arrived is not sent twice",
        )

    def refused(self, method: str, answer: requests.Response) -> PublishError:
        """Give the error for an answer that is a refusal."""
        status, said = answer.status_code, brief(answer.text or answer.reason)
        what = f"{self.reference.registry} refuses to {_DOES.get(method, method)} {self.reference.path}"
        if status in (401, 403):
            known = (
                "it knows who asks"
                if self._who
                else f"`docker login` stored nothing for {self.reference.registry}"
            )
            return PublishError(
                what, cause=f"{status}: {said or known}", fix=f"docker login {self.reference.registry}"
            )
        if is_full(answer):
            return PublishError(
                f"the disk of {self.reference.registry} is full, or a quota is reached",
                cause=said,
                fix="make room there, then run it again: what has arrived is not sent twice",
            )
        return PublishError(
            f"{what} ({status})", cause=said, fix="run it again, or ask who runs the registry"
        )

    def _scope(self, method: str) -> str:
        action = "pull" if method in ("GET", "HEAD") else "pull,push"
        return f"repository:{self.reference.path}:{action}"

    def _grant(self, answer: requests.Response, scope: str) -> str | None:
        """Give what the Authorization header must say, asked of the server that the registry names."""
        kind, _, rest = answer.headers.get("WWW-Authenticate", "").partition(" ")
        if kind.lower() == "basic" and self._who:
            pair = requests.auth._basic_auth_str(self._who.user, self._who.password)
            return str(pair)
        if kind.lower() != "bearer":
            return None
        asked: Mapping[str, str] = dict(_CHALLENGE.findall(rest))
        query = {"scope": scope, **({"service": asked["service"]} if "service" in asked else {})}
        who = (self._who.user, self._who.password) if self._who else None
        given = self._request("GET", asked.get("realm", ""), params=query, auth=who)
        if not given.ok:
            return None
        token = given.json().get("token") or given.json().get("access_token")
        return f"Bearer {token}" if token else None


_DOES: Mapping[str, str] = {"GET": "give", "HEAD": "give", "PUT": "take", "POST": "take", "PATCH": "take"}


def brief(reason: object, most: int = 200) -> str:
    """Give a reason on one line that a person reads to its end."""
    text = " ".join(str(reason).split())
    return text if len(text) <= most else text[: most - 1] + "…"


def is_certificate(reason: Exception) -> bool:
    """Tell whether the other side's certificate was the reason."""
    return isinstance(reason, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(reason)


def is_full(answer: requests.Response) -> bool:
    """Tell whether the registry has no room: repeating does not help."""
    return answer.status_code == 507 or bool(answer.status_code >= 400 and _FULL.search(answer.content))
