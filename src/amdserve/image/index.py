"""Download one pinned file from a Python package index: the standard library only, checked by its hash."""

from __future__ import annotations

import base64
import configparser
import hashlib
import json
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from http.client import HTTPException
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from amdserve.errors import SourceError
from amdserve.image import show

DEFAULT_INDEX = "https://pypi.org/simple"
ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
# Variables that name a bundle of certificate authorities, the most general first.
CA_VARIABLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
ATTEMPTS = 3
TIMEOUT = 60.0
CHUNK = 1 << 20


def ca_bundle(environ: Mapping[str, str] | None = None) -> Path | None:
    """Give the file of certificate authorities that this host names in its environment, if it exists."""
    environ = os.environ if environ is None else environ
    named = (Path(environ[name]) for name in CA_VARIABLES if environ.get(name))
    return next((path for path in named if path.is_file()), None)


def index_url(environ: Mapping[str, str] | None = None) -> str:
    """Give the package index that pip would use: its variable, else its files, else PyPI."""
    environ = os.environ if environ is None else environ
    if environ.get("PIP_INDEX_URL"):
        return environ["PIP_INDEX_URL"].rstrip("/")
    for path in _pip_files(environ):
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            parser.read(path, encoding="utf-8")
        except configparser.Error:
            continue
        if found := parser.get("global", "index-url", fallback=""):
            return found.strip().rstrip("/")
    return DEFAULT_INDEX


def fetch(package: str, filename: str, sha256: str, to: Path, *, index: str | None = None) -> None:
    """Download a file of a package and keep it only if its hash is the pinned one.

    Args:
        package: the package's name.
        filename: the file's name in the index.
        sha256: what it must be, in hex.
        to: where it goes, in one step at the end.
        index: the simple index; None: the one pip would use.

    Raises:
        SourceError: the index cannot be reached, does not have it, or gives something else.
    """
    index = index_url() if index is None else index
    url = _find(f"{index}/{package}/", filename)
    part = to.with_name(f"{to.name}.part")
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                found = _download(url, part, filename)
                break
            except (OSError, HTTPException) as reason:
                refused = isinstance(reason, urllib.error.HTTPError) and reason.code < 500
                if attempt == ATTEMPTS or refused or _is_local(reason):
                    raise _unreachable(filename, url, reason, to) from reason
                time.sleep(attempt)
        if found != sha256:
            raise SourceError(
                f"{filename} is not what was pinned: its sha256 is {found}, the pin says {sha256}",
                cause="it was changed at the index or on the way, or the pin is wrong; nothing was kept",
                fix="compare with the hash on https://pypi.org/project/"
                f"{package}/#files, then fix images/sources.yaml",
            )
        part.replace(to)
    finally:
        part.unlink(missing_ok=True)


def _find(page: str, filename: str) -> str:
    """Give the address of a file from the package's page in the index."""
    for name, address in _links(_page(page, filename)):
        if name == filename:
            return urljoin(page, address)
    raise SourceError(
        f"{filename} is not in the index {_public(page)}",
        cause="this index does not mirror it",
        fix="PIP_INDEX_URL=https://pypi.org/simple",
    )


def listing(package: str) -> list[str]:
    """Give the names of all files that pip's index has of a package.

    Raises:
        SourceError: it cannot be reached.
    """
    return [name for name, _ in _links(_page(f"{index_url()}/{package}/", f"the list of {package}"))]


def files(page: str, what: str) -> list[str]:
    """Give the names of all files that a page on the web links to.

    Raises:
        SourceError: it cannot be reached.
    """
    return [name for name, _ in _links(_page(page, what))]


def _page(page: str, what: str) -> str:
    try:
        with _open(page, ACCEPT) as reply:
            return reply.read().decode("utf-8", "replace")
    except (OSError, HTTPException) as reason:
        raise _unreachable(what, page, reason, None) from reason


def _links(body: str) -> Iterator[tuple[str, str]]:
    """Give file name and address of everything on a page of the index, JSON or HTML."""
    try:
        for entry in json.loads(body)["files"]:
            yield entry["filename"], entry["url"]
    except (ValueError, KeyError, TypeError):
        parser = _Links()
        parser.feed(body)
        for address in parser.found:
            yield unquote(urlsplit(address).path.rpartition("/")[2]), address


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found.extend(value for name, value in attrs if name == "href" and value)


def _download(url: str, to: Path, name: str) -> str:
    """Write the content of an address to a file; give its sha256 in hex."""
    line, known = show.Line(every=10.0), hashlib.sha256()
    with _open(url, "*/*") as reply, to.open("wb") as file:
        size = int(getattr(reply, "headers", {}).get("Content-Length") or 0)
        done = 0
        while chunk := reply.read(CHUNK):
            file.write(chunk)
            known.update(chunk)
            done += len(chunk)
            share = f" of {show.megabytes(size)}, {done * 100 // size} %" if size else ""
            line.update(f"fetching {name}: {show.megabytes(done)}{share}")
        if size and done < size:
            raise ConnectionError(f"the connection ended after {done} of {size} bytes")
    line.say(f"fetched {name}: {show.megabytes(done)}")
    return known.hexdigest()


def _open(url: str, accept: str) -> IO[bytes]:
    parts = urlsplit(url)
    headers = {"Accept": accept, "User-Agent": "amdserve"}
    if parts.username:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
    bundle = ca_bundle()
    trust = ssl.create_default_context(cafile=str(bundle) if bundle else None)
    request = urllib.request.Request(_public(url), headers=headers)
    reply: IO[bytes] = urllib.request.urlopen(request, timeout=TIMEOUT, context=trust)
    return reply


def _public(url: str) -> str:
    """Give an address without the name and password in it."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _is_local(reason: BaseException) -> bool:
    """Tell an error of this machine's disk from one of the network."""
    return isinstance(reason, OSError) and not isinstance(
        reason, urllib.error.URLError | ConnectionError | TimeoutError | ssl.SSLError
    )


def _unreachable(filename: str, url: str, reason: BaseException, to: Path | None) -> SourceError:
    why = str(getattr(reason, "reason", "") or reason)
    where = f" from {urlsplit(url).netloc.rpartition('@')[2] or url}"
    if _is_local(reason):
        return SourceError(
            f"{filename} cannot be written to {to.parent if to else '.'}", cause=why, fix="df -h ."
        )
    if "CERTIFICATE_VERIFY_FAILED" in why:
        fix = "name your network's certificate bundle: SSL_CERT_FILE=/path/to/ca.crt"
    else:
        fix = "check the network, or name a mirror: PIP_INDEX_URL=https://…/simple"
    if to is not None:
        fix += f"; or put the file at {to}"
    return SourceError(f"{filename} cannot be fetched{where}", cause=why, fix=fix)


def _pip_files(environ: Mapping[str, str]) -> list[Path]:
    """Give the places of pip's configuration, the one that wins first."""
    home = Path(environ.get("HOME") or Path.home())
    config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    files = [
        Path(sys.prefix) / "pip.conf",
        config / "pip" / "pip.conf",
        home / ".pip" / "pip.conf",
        Path("/etc/pip.conf"),
    ]
    named = environ.get("PIP_CONFIG_FILE")
    return [Path(named), *files] if named else files


def filename_of(package: str, version: str) -> str:
    """Give the file name of a source distribution."""
    return f"{re.sub(r'[-_.]+', '_', package).lower()}-{version}.tar.gz"
