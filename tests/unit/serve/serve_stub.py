"""A backend that fails on command: it speaks as much of llama-server as the supervisor hears.

Run as `python -I -S serve_stub.py BEHAVIOUR.json [llama-server's arguments]`; it starts in some 20 ms. The
behaviour is one JSON object. A fault is `{"how": HOW, "after": SECONDS, "log": [LINES], "stamp": true}` (say
when), HOW one of
`signal:NAME`, `exit:CODE`, `stop`, `hang`, `spin`, `deaf` (the port is open, nothing is answered), `eat`,
`broken` (`/health` is fine, every request ends with an error), `talk` (no fault: only the lines).

Keys: `devices` (lines of --list-devices), `list`, `start`, `loading`, `serving` (faults), `load` (seconds),
`offload` ("3/3" or null), `weights` (names of buffers), `ignore_term`, `child` (start a helper),
`record` and `lists` (files to write each start, and each list of devices, to), `list_seconds`,
`busy` (a file: while it is there, /slots says busy), `asked` (a file: made when a completion is asked for),
`deaf_slots`, `quiet`, `fetch` (a file to write to while loading),
`request` (one is under way; so many tokens further at each look).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from typing import Any, NoReturn

Fault = dict[str, Any]


def say(line: str) -> None:
    os.write(2, (line + "\n").encode())


def rest() -> NoReturn:
    while True:
        time.sleep(3600)


def eat() -> NoReturn:
    hoard = []
    while True:
        hoard.append(bytearray(os.urandom(1 << 20)) * 8)


class Stub:
    def __init__(self, plan: dict[str, Any], arguments: list[str]) -> None:
        self.plan = plan
        self.arguments = arguments
        self.deaf = False
        self.broken = False
        self.tokens = 0
        self.held: list[socket.socket] = []

    def fail(self, fault: Fault) -> None:
        for line in fault.get("log", ()):
            say(line)
        how, _, what = fault["how"].partition(":")
        if fault.get("stamp"):
            say(f"dies at {time.time():.4f}")
        if how == "signal":
            number = getattr(signal, what)
            if what not in ("SIGKILL", "SIGSTOP"):
                signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            time.sleep(1)
        elif how == "exit":
            os._exit(int(what))
        elif how == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif how == "hang":
            rest()
        elif how == "spin":
            while True:
                pass
        elif how == "eat":
            eat()
        self.deaf = how == "deaf"
        self.broken = how == "broken"

    def list_devices(self) -> int:
        self.note("lists")
        time.sleep(self.plan.get("list_seconds", 0))
        if "list" in self.plan:
            self.fail(self.plan["list"])
        print("Available devices:")
        for line in self.plan.get("devices", ["Stub0: AMD Stub (RADV GFX1151) (1000 MiB, 900 MiB free)"]):
            print("  " + line)
        if not self.plan.get("devices", True):
            print("  (none)")
        return 0

    def note(self, where: str) -> None:
        """Write this start to the file that is meant for such, if any."""
        if where in self.plan:
            seen = {"argv": self.arguments, "env": dict(os.environ), "pid": os.getpid(), "at": time.time()}
            handle = os.open(self.plan[where], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(handle, (json.dumps(seen) + "\n").encode())
            os.close(handle)

    def prepare(self) -> None:
        if self.plan.get("ignore_term"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.note("record")
        if self.plan.get("child") and os.fork() == 0:
            # A helper in the same group, which must not outlive us; its arguments name the test's folder.
            os.execv(
                sys.executable,
                [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)", sys.argv[1]],
            )
        if "start" in self.plan:
            self.fail(self.plan["start"])

    def value(self, flag: str) -> str:
        return self.arguments[self.arguments.index(flag) + 1]

    def listen(self) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self.value("--host"), int(self.value("--port"))))
        except OSError as reason:
            say(f"srv  start: couldn't bind HTTP server socket: {reason}")
            os._exit(1)
        listener.listen(64)
        listener.settimeout(0.01)
        return listener

    def serve(self) -> NoReturn:
        listener = self.listen()
        begun, ready, line_at = time.monotonic(), None, 0.0
        faults: dict[str, Fault] = {
            name: dict(self.plan[name]) for name in ("loading", "serving") if name in self.plan
        }
        while True:
            now = time.monotonic()
            if ready is None:
                if not self.plan.get("quiet") and now - line_at > 0.1:
                    # Who hangs may still repeat himself.
                    done = "" if self.deaf else f", {1000 * (now - begun):.0f} done"
                    say(f"load_tensors: loading model tensors{done}")
                    line_at = now
                if "fetch" in self.plan:
                    self.fetch()
                self.due(faults, "loading", begun)
                if now - begun >= self.plan.get("load", 0.0) and not self.deaf:
                    ready = self.loaded()
            else:
                self.due(faults, "serving", ready)
            self.accept(listener, loaded=ready is not None)

    def fetch(self) -> None:
        handle = os.open(self.plan["fetch"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, bytes(1 << 18))
        os.close(handle)

    def due(self, faults: dict[str, Fault], name: str, since: float) -> None:
        if name in faults and time.monotonic() - since >= faults[name].get("after", 0.0):
            self.fail(faults.pop(name))

    def loaded(self) -> float:
        if self.plan.get("offload", "3/3"):
            say(f"load_tensors: offloaded {self.plan.get('offload', '3/3')} layers to GPU")
        for name in self.plan.get("weights", ()):
            say(f"load_tensors: {name:>12} model buffer size =     1.55 MiB")
        say("srv  main: model loaded")
        return time.monotonic()

    def accept(self, listener: socket.socket, *, loaded: bool) -> None:
        try:
            peer, _ = listener.accept()
        except TimeoutError:
            return
        if self.deaf:
            self.held.append(peer)
            return
        peer.settimeout(1)
        with contextlib.suppress(OSError):
            self.answer(peer, loaded=loaded)

    def answer(self, peer: socket.socket, *, loaded: bool) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            part = peer.recv(65536)
            if not part:
                peer.close()
                return
            request += part
        path = request.split()[1].decode()
        if path == "/slots" and self.plan.get("deaf_slots"):
            self.held.append(peer)
            return
        code, body = self.page(path) if loaded else (503, {"error": {"message": "Loading model"}})
        text = json.dumps(body).encode()
        head = f"HTTP/1.1 {code} X\r\nContent-Length: {len(text)}\r\nContent-Type: application/json\r\n\r\n"
        peer.sendall(head.encode() + text)
        peer.close()

    def page(self, path: str) -> tuple[int, Any]:
        if path == "/slots":
            busy = "busy" in self.plan and os.path.exists(self.plan["busy"])  # noqa: PTH110
            slots: list[dict[str, Any]] = [{"id": 0, "is_processing": busy}]
            if "request" in self.plan:
                self.tokens += self.plan["request"]
                task = {"id_task": 1, "next_token": [{"n_decoded": self.tokens}], "params": {}}
                slots.append({"id": 1, "is_processing": True, **task})
            return 200, slots
        if path == "/completion":
            if "asked" in self.plan:
                os.close(os.open(self.plan["asked"], os.O_WRONLY | os.O_CREAT))
            return (
                (500, {"error": {"message": "decode() failed"}}) if self.broken else (200, {"content": "b"})
            )
        if path == "/who":
            return 200, {"backend": self.plan.get("name", "?"), "pid": os.getpid()}
        if path in ("/health", "/v1/models"):
            return 200, {"status": "ok"}
        return 404, {"error": "no such page"}


def main() -> int:
    with open(sys.argv[1], encoding="utf-8") as file:  # noqa: PTH123 - pathlib costs 10 ms
        plan = json.load(file)
    stub = Stub(plan, sys.argv[2:])
    if "--list-devices" in sys.argv:
        return stub.list_devices()
    stub.prepare()
    return stub.serve()


if __name__ == "__main__":
    sys.exit(main())
