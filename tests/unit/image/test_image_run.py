"""`invoke run`: which image, which mounts and devices, the line that is printed, and the waiting."""

import json
import shlex
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from image_tree import ROOT

from amdserve import errors
from amdserve.gpu.access import ContainerOptions
from amdserve.image import container, launch
from amdserve.image.launch import Launch
from amdserve.image.local import Images, LocalImage
from amdserve.image.show import Line

MACHINES = ROOT / "tests" / "fixtures" / "machines"
KNOWN = ("vulkan", "llama")


def image(name: str, gfx: str = "", tag: str = "") -> dict[str, Any]:
    """Give an image as the engine lists it."""
    backends = "llama-server-vulkan,llama-cpp-python" + (",llama-server-rocm" if gfx else "")
    labels = {
        "io.amdserve.image": name,
        "io.amdserve.gfx": gfx,
        "io.amdserve.backends": backends,
        "io.amdserve.cell": tag,
        "io.amdserve.hash": "sha256:1",
    }
    return {
        "Id": f"sha256:{tag}",
        "RepoTags": [f"amdserve:0.1.0-{tag}-abc", f"amdserve:{tag}"],
        "Labels": labels,
        "Size": 5,
    }


class PretendedEngine:
    """As much of the Docker SDK's low-level interface as is asked."""

    def __init__(self, *images: dict[str, Any]) -> None:
        self.list = list(images)
        self.api = self

    def images(self, filters: dict[str, list[str]]) -> list[dict[str, Any]]:
        wanted = [label.partition("=") for label in filters["label"]]
        return [one for one in self.list if all(one["Labels"].get(k) == v for k, _, v in wanted)]

    def inspect_image(self, reference: str) -> dict[str, Any]:
        from docker.errors import ImageNotFound

        for one in self.list:
            if reference in (*one["RepoTags"], one["Id"]):
                return {**one, "Config": {"Labels": one["Labels"]}}
        raise ImageNotFound(reference)

    def client(self) -> "PretendedEngine":
        return self


def images(*held: dict[str, Any]) -> Images:
    return Images(PretendedEngine(*held))  # type: ignore[arg-type]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "models" / "a.gguf"
    path.parent.mkdir()
    path.touch()
    return path


def prepared(monkeypatch: pytest.MonkeyPatch, machine: str, held: Images, model: Path, **more: Any) -> Launch:
    monkeypatch.setenv("AMDSERVE_SYSROOT", str(MACHINES / machine))
    return launch.prepare(held, KNOWN, str(model), **{"image": "llama", **more})


# What is started


def test_image_for_the_gpu_that_is_here(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    held = images(image("llama", "gfx1100", "llama-gfx1100"), image("llama", "gfx1151", "llama-gfx1151"))
    started = prepared(monkeypatch, "strix-halo", held, model)
    assert started.image == "amdserve:llama-gfx1151"
    assert "/dev/kfd" in started.options.devices
    assert all(isinstance(group, int) for group in started.options.groups)


def test_an_image_made_on_one_of_ours_is_not_taken_for_it(
    monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    derived = image("llama", "gfx1151", "llama-gfx1151") | {"RepoTags": ["somebody:latest"], "Id": "sha256:0"}
    ours = image("llama", "gfx1151", "llama-gfx1151")
    assert prepared(monkeypatch, "strix-halo", images(derived, ours), model).image == "amdserve:llama-gfx1151"
    # Where it is all there is, it will do.
    assert prepared(monkeypatch, "strix-halo", images(derived), model).image == "somebody:latest"


def test_image_without_rocm_needs_no_kfd(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    started = prepared(
        monkeypatch, "strix-halo", images(image("vulkan", "", "vulkan")), model, image="vulkan"
    )
    assert started.image == "amdserve:vulkan"
    assert started.options.devices == ("/dev/dri",)


def test_host_without_gpu_is_told_and_serves_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = prepared(monkeypatch, "no-gpu", images(image("llama", "gfx1151", "llama-gfx1151")), model)
    assert started.options.devices == ()
    assert "on the CPU" in capsys.readouterr().err


def test_image_for_another_gpu_is_refused_with_what_there_is(
    monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    held = images(image("llama", "gfx1100", "llama-gfx1100"))
    with pytest.raises(errors.UsageError) as caught:
        prepared(monkeypatch, "strix-halo", held, model)
    assert caught.value.what == "no image 'llama' for gfx1151 has been built in this engine"
    assert "amdserve:llama-gfx1100" in caught.value.cause
    assert caught.value.fix == "./inv build --image llama --gfx gfx1151"


def test_named_gfx_wins_over_the_one_that_is_here(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    held = images(image("llama", "gfx1100,gfx1101", "llama-gfx1100-gfx1101"))
    started = prepared(monkeypatch, "strix-halo", held, model, gfx=("gfx1101",))
    assert started.image == "amdserve:llama-gfx1100-gfx1101"


def test_reference_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    held = images(image("llama", "gfx1100", "mine"))
    assert prepared(monkeypatch, "strix-halo", held, model, image="amdserve:mine").image == "amdserve:mine"
    with pytest.raises(errors.UsageError, match="the engine has no image amdserve:yours"):
        prepared(monkeypatch, "strix-halo", held, model, image="amdserve:yours")


def test_missing_model_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError, match="no such file or folder"):
        prepared(monkeypatch, "strix-halo", images(), tmp_path / "b.gguf")


def test_open_quote_is_refused(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    held = images(image("llama", "gfx1151", "x"))
    with pytest.raises(errors.UsageError, match="cannot be taken apart"):
        prepared(monkeypatch, "strix-halo", held, model, more="--alias 'a")


def test_file_is_mounted_alone(model: Path) -> None:
    assert launch.model_mounts(str(model)) == ({model: "/models/a.gguf"}, "/models/a.gguf")


def test_link_is_mounted_as_what_it_leads_to(model: Path) -> None:
    link = model.with_name("link.gguf")
    link.symlink_to(model)
    assert launch.model_mounts(str(link)) == ({model: "/models/link.gguf"}, "/models/link.gguf")


def test_first_of_several_files_brings_its_folder(model: Path) -> None:
    first = model.with_name("big-00001-of-00003.gguf")
    first.touch()
    mounts, inside = launch.model_mounts(str(first))
    assert mounts == {first.parent: "/models/models"}
    assert inside == "/models/models/big-00001-of-00003.gguf"


def test_folder_is_mounted_whole(model: Path) -> None:
    assert launch.model_mounts(str(model.parent)) == ({model.parent: "/models/models"}, "/models/models")


# The line and what the SDK is told are the same


OPTIONS = ContainerOptions(
    ("/dev/kfd", "/dev/dri"), (44, 993), ("memlock=-1:-1",), "host", ("label=disable",)
)


def started(**more: Any) -> Launch:
    mounts = {Path("/srv/m/a b.gguf"): "/models/a b.gguf"}
    given = {"host": "127.0.0.1", "port": 8081, "name": "x", **more}
    return Launch("amdserve:vulkan", OPTIONS, mounts, ("/models/a b.gguf", "--n-ctx", "512"), **given)


def test_line_can_be_pasted_and_says_everything() -> None:
    line = shlex.join(started().argv(detach=True))
    assert shlex.split(line) == list(started().argv(detach=True))
    for words in (
        "--publish 127.0.0.1:8081:8080",
        "--device /dev/kfd --device /dev/dri",
        "--group-add 44 --group-add 993",
        "--ulimit memlock=-1:-1",
        "--ipc host",
        "--volume '/srv/m/a b.gguf:/models/a b.gguf:ro'",
        "--volume amdserve-state:/var/lib/amdserve",
        "amdserve:vulkan serve '/models/a b.gguf' --n-ctx 512",
    ):
        assert words in line
    assert "--detach" in line
    assert "--rm" in started().argv(detach=False)


def test_sdk_is_told_the_same() -> None:
    told = started().arguments()
    assert told["command"] == ["serve", "/models/a b.gguf", "--n-ctx", "512"]
    assert told["ports"] == {"8080/tcp": ("127.0.0.1", 8081)}
    assert told["devices"] == ["/dev/kfd:/dev/kfd:rwm", "/dev/dri:/dev/dri:rwm"]
    assert told["group_add"] == ["44", "993"]
    assert told["ulimits"] == [{"Name": "memlock", "Soft": -1, "Hard": -1}]
    assert told["ipc_mode"] == "host"
    assert told["security_opt"] == ["label=disable"]
    assert told["volumes"]["/srv/m/a b.gguf"] == {"bind": "/models/a b.gguf", "mode": "ro"}
    assert told["name"] == "x"


def test_url_is_one_that_can_be_opened() -> None:
    assert started().url == "http://127.0.0.1:8081"
    assert started(host="0.0.0.0").url == "http://127.0.0.1:8081"
    assert started(host="10.0.0.5").url == "http://10.0.0.5:8081"


def test_curl_line_is_valid() -> None:
    words = shlex.split(container.curl("http://127.0.0.1:8081"))
    assert words[2] == "http://127.0.0.1:8081/v1/chat/completions"
    assert json.loads(words[-1])["messages"]


def test_dry_run_prints_the_line_and_starts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    container.start(started(), SimpleNamespace(), detach=True, wait=1, dry=True)  # type: ignore[arg-type]
    assert capsys.readouterr().err.startswith("docker run --detach")


# Ports


def test_taken_port_is_refused() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(errors.PortInUseError) as caught:
            container.check_port("127.0.0.1", port)
        assert f"--port {port + 1}" in caught.value.fix
        assert caught.value.exit_code == 7
    container.check_port("127.0.0.1", port)


def test_address_of_somebody_else_is_refused() -> None:
    with pytest.raises(errors.UsageError, match="cannot be listened on"):
        container.check_port("192.0.2.1", 8080)


def test_number_that_is_no_port_is_refused() -> None:
    with pytest.raises(errors.UsageError, match="70000 is no port"):
        container.check_port("127.0.0.1", 70000)


# Waiting


class PretendedContainer:
    """Goes through states; the last one stays."""

    name = "x"

    def __init__(self, *states: str | dict[str, str], code: int = 0) -> None:
        self.states = list(states)
        self.status = "running"
        self.code = code
        self.removed = self.stopped = self.started = False
        self.refuses: list[Exception] = []

    def stop(self, *, timeout: int) -> None:
        self.stopped = timeout > 0

    def start(self) -> None:
        if self.refuses:
            raise self.refuses.pop(0)
        self.started = True

    def reload(self) -> None:
        if self.states and self.states[0] == "exited":
            self.status = "exited"

    @property
    def attrs(self) -> dict[str, Any]:
        return {"State": {"ExitCode": self.code}}

    def exec_run(self, argv: list[str], *, demux: bool) -> SimpleNamespace:
        assert argv == ["amdserve", "status", "--json"]
        assert demux
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        text = state if isinstance(state, str) else json.dumps(state)
        return SimpleNamespace(output=(text.encode(), b"noise"))

    def logs(self, **_options: Any) -> bytes:
        return b"first words\nlast words\n"

    def remove(self, *, force: bool) -> None:
        self.removed = force


LOADING = {"state": "loading", "backend": "llama-server-vulkan"}
READY = {"state": "ready", "backend": "llama-server-vulkan", "device": "Vulkan0"}


def waited(one: PretendedContainer, wait: float = 60) -> str:
    return container.until_ready(one, wait, Line(), pause=lambda _seconds: None)


def test_ready_is_waited_for() -> None:
    assert waited(PretendedContainer("", "not json", LOADING, READY)) == "llama-server-vulkan on Vulkan0"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (2, errors.UsageError),
        (3, errors.ModelError),
        (4, errors.NoGPUError),
        (5, errors.BackendsFailedError),
        (6, errors.OutOfMemoryError),
        (137, errors.BackendsFailedError),
    ],
)
def test_end_before_ready_is_the_error_of_its_code(code: int, kind: type[errors.AmdserveError]) -> None:
    with pytest.raises(kind, match=f"ended with {code}") as caught:
        waited(PretendedContainer("exited", code=code))
    # A wrong word or a damaged file is no fault of the host's.
    assert ("doctor" in caught.value.fix) == (code not in (2, 3))


def test_waiting_has_an_end() -> None:
    with pytest.raises(errors.BackendsFailedError, match="it is still loading"):
        waited(PretendedContainer(LOADING), wait=-1)


class Engine:
    """An engine whose one container is given."""

    def __init__(self, one: PretendedContainer | Exception) -> None:
        self.one = one
        self.containers = self
        self.asked: list[dict[str, Any]] = []

    def client(self) -> "Engine":
        return self

    def create(self, **arguments: Any) -> PretendedContainer:
        self.asked.append(arguments)
        if isinstance(self.one, Exception):
            raise self.one
        return self.one


def run(one: PretendedContainer | Exception) -> Engine:
    engine = Engine(one)
    container.start(started(port=0), engine, detach=True, wait=60)  # type: ignore[arg-type]
    return engine


def test_detached_container_stays_and_tells_how_to_use_it(capsys: pytest.CaptureFixture[str]) -> None:
    one = PretendedContainer(READY)
    run(one)
    told = capsys.readouterr().err
    assert "docker run --detach" in told.splitlines()[0]
    assert "ready: http://127.0.0.1" in told
    assert "curl -s" in told
    assert not one.removed


def test_failed_container_leaves_its_last_words_and_goes(capsys: pytest.CaptureFixture[str]) -> None:
    one = PretendedContainer("exited", code=3)
    with pytest.raises(errors.ModelError):
        run(one)
    assert "  | last words" in capsys.readouterr().err
    assert one.removed


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ('Conflict. The container name "/x" is already in use by container "1".', errors.UsageError),
        ("driver failed: Bind for 127.0.0.1:8081 failed: port is already allocated", errors.PortInUseError),
        ("error gathering device information: no such file", errors.EngineError),
    ],
)
def test_refusal_of_the_engine_is_told(said: str, kind: type[errors.AmdserveError]) -> None:
    with pytest.raises(kind):
        run(refused(said))


def refused(said: str) -> Any:
    from docker.errors import APIError

    return APIError("500", explanation=said)


def test_limit_that_the_engine_may_not_set_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    one = PretendedContainer(READY)
    one.refuses.append(refused("runc create failed: error setting rlimits for ready process"))
    engine = run(one)
    assert [len(arguments["ulimits"]) for arguments in engine.asked] == [1, 0]
    assert one.started
    assert "note: this engine may not set --ulimit memlock=-1:-1" in capsys.readouterr().err


def test_container_that_cannot_be_started_does_not_stay() -> None:
    one = PretendedContainer(READY)
    one.refuses.append(refused("no such device"))
    with pytest.raises(errors.EngineError, match="refuses to start"):
        run(one)
    assert one.removed


# The engine's images


def test_image_knows_what_it_was_built_from() -> None:
    found = images(image("llama", "gfx1151", "a")).find("amdserve:a")
    assert found is not None
    assert (found.hash, found.size) == ("sha256:1", 5)
    assert images().find("amdserve:a") is None


@pytest.mark.parametrize("label", ["", "{", "[]", "{}", "null"])
def test_image_that_does_not_say_is_said_not_to(label: str) -> None:
    one = LocalImage("sha256:1", ("a:b",), {"io.amdserve.inputs": label}, 1)
    assert one.differs(SimpleNamespace(inputs={"x": "1"})) == (  # type: ignore[arg-type]
        "a:b does not say what it was built from",
    )


def test_engine_that_goes_away_is_told() -> None:
    from requests.exceptions import ConnectionError as Lost

    class Gone(PretendedEngine):
        def inspect_image(self, reference: str) -> dict[str, Any]:
            raise Lost(f"no {reference}")

        remove_image = inspect_image

    held = Images(Gone())  # type: ignore[arg-type]
    with pytest.raises(errors.EngineError, match="does not answer any more"):
        held.find("amdserve:a")
    # Cleaning up after something that failed hides nothing of it.
    held.remove("amdserve:a")


def test_interrupted_wait_stops_the_container_and_takes_it_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = PretendedContainer(LOADING)

    def interrupted(*_args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(container, "until_ready", interrupted)
    run(one)
    assert one.stopped
    assert one.removed
    assert "stopping x" in capsys.readouterr().err


def test_podman_keeps_the_groups_of_who_starts_it() -> None:
    options = ContainerOptions(devices=("/dev/dri",), groups=(44,))
    words = Launch("amdserve:vulkan", options, {}, ()).argv(detach=True, podman=True)
    assert words[0] == "podman"
    assert words[words.index("--group-add") + 1] == "keep-groups"
    assert "44" not in words
