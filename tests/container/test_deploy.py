"""What `deploy` prints, given to the tools that it is for: compose starts it, podman's generator takes it."""

from __future__ import annotations

import json
import os
import shlex
import time
import urllib.request
from pathlib import Path

import yaml
from asked import READY
from openai import OpenAI
from ports import free_port

from amdserve import process
from amdserve.image import deploy
from amdserve.image.engine import Engine
from amdserve.image.project import Project
from amdserve.image.publish import tools

WEB = Path(__file__).resolve().parents[2] / "examples" / "open-webui" / "compose.yaml"


def test_compose_serves(
    vulkan: str, engine: Engine, project: Project, model_folder: Path, tmp_path: Path
) -> None:
    """The rendered file is started as it is: here without a GPU, and with its capabilities taken away."""
    port = free_port()
    name = f"amdserve-test-{os.getpid()}"
    wish = deploy.wish(
        project,
        format_="compose",
        image=vulkan,
        model=str(model_folder / "llama.gguf"),
        name=name,
        port=port,
        serve="--n-ctx 512",
    )
    file = tmp_path / "compose.yaml"
    text = deploy.render(wish, "compose", project.renderer)
    # The volume of whoever runs this test on a machine in use is left alone.
    text = text.replace("amdserve-state", f"{name}-state")
    # An engine in a container may not raise limits, as the file itself says.
    document = yaml.safe_load(text)
    document["services"][name].pop("ulimits")
    file.write_text(json.dumps(document))
    compose = [str(tools.ensure("docker-compose")), "--file", str(file)]
    process.run([*compose, "up", "--detach", "--quiet-pull"], env=engine.env(), timeout=300)
    try:
        end = time.monotonic() + READY
        while not healthy(port):
            logs = process.run([*compose, "logs"], env=engine.env()).out
            assert time.monotonic() < end, logs
            states = process.run([*compose, "ps", "--format", "json"], env=engine.env()).out
            assert "restarting" not in states, logs
            time.sleep(1)
        client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=180)
        answer = client.chat.completions.create(
            model="any", messages=[{"role": "user", "content": "hello"}], max_tokens=8
        )
        assert answer.usage
        assert answer.usage.completion_tokens > 0
        container = engine.client().containers.list(filters={"label": f"com.docker.compose.project={name}"})[
            0
        ]
        code, out = container.exec_run(["/bin/sh", "-c", "grep -h ^Cap.*Eff /proc/[0-9]*/status | sort -u"])
        assert code == 0
        assert "CapEff:\t0000000000000000" in out.decode()
    finally:
        process.run([*compose, "down", "--volumes", "--timeout", "20"], env=engine.env(), timeout=300)


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_quadlet_is_taken_by_podmans_generator(project: Project, tmp_path: Path) -> None:
    model = tmp_path / "a model $1 100%.gguf"
    model.touch()
    units = tmp_path / "units"
    units.mkdir()
    wish = deploy.wish(
        project, format_="quadlet", image="ghcr.io/somebody/amdserve:vulkan", model=str(model), cdi=True
    )
    text = deploy.render(wish, "quadlet", project.renderer)
    (units / "amdserve.container").write_text(text)
    generator = [str(tools.ensure("quadlet")), "-dryrun", "-user"]
    environ = {**os.environ, "QUADLET_UNIT_DIRS": str(units)}
    done = process.run(generator, env=environ, check=False)
    assert done.ok, done.err
    (line,) = [one for one in done.out.splitlines() if one.startswith("ExecStart=")]
    for words in (
        "--cap-drop all",
        "--device amd.com/gpu=all",
        "--publish 127.0.0.1:8080:8080",
        "--health-cmd",
    ):
        assert words in line, line
    # As systemd reads it: two `$` and two `%` are one.
    read = [word.replace("$$", "$").replace("%%", "%") for word in shlex.split(line.replace(r"\x20", " "))]
    assert read[-2:] == ["serve", "/models/a model $1 100%.gguf"]
    assert f"{model}:/models/{model.name}:ro" in read

    (units / "amdserve.container").write_text(text.replace("PublishPort=", "PublishPrt="))
    assert not process.run(generator, env=environ, check=False).ok, "it takes anything"


# In Open WebUI's place: asks for a chat where the example tells Open WebUI to ask, as it would.
CLIENT = """
import json, os, urllib.request
url = os.environ["OPENAI_API_BASE_URL"] + "/chat/completions"
body = {"model": "any", "max_tokens": 8, "messages": [{"role": "user", "content": "hello"}]}
headers = {"Content-Type": "application/json", "Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
request = urllib.request.Request(url, json.dumps(body).encode(), headers)
print(json.load(urllib.request.urlopen(request, timeout=180))["usage"]["completion_tokens"])
"""
# What a machine without a GPU and without Open WebUI's image changes of the example, and nothing else.
INSTEAD = """
services:
  amdserve:
    devices: !reset []
  open-webui:
    image: ${{IMAGE}}
    restart: !reset null
    ports: !reset []
    entrypoint: [/opt/amdserve/bin/python, -c, {client}]
    healthcheck: {{disable: true}}
"""


def test_example_beside_open_webui_serves_it(
    vulkan: str, engine: Engine, model_folder: Path, tmp_path: Path
) -> None:
    """Its other image cannot be had everywhere: a small client asks in its place, by the same words."""
    instead = tmp_path / "instead.yaml"
    # Compose reads `$` as the beginning of a variable.
    instead.write_text(INSTEAD.format(client=json.dumps(CLIENT.replace("$", "$$"))))
    environ = {**engine.env(), "IMAGE": vulkan, "MODEL": str(model_folder / "llama.gguf")}
    compose = [str(tools.ensure("docker-compose")), "--project-name", f"amdserve-test-web-{os.getpid()}"]
    compose += ["--file", str(WEB), "--file", str(instead)]
    try:
        done = process.run([*compose, "up", "--detach"], env=environ, timeout=READY, check=False)
        logs = process.run([*compose, "logs"], env=environ).out
        assert done.ok, done.err + logs
        # It has begun only once the health check of the other held, and ends when it is answered.
        process.run([*compose, "wait", "open-webui"], env=environ, timeout=300)
        said = process.run([*compose, "logs", "--no-log-prefix", "open-webui"], env=environ).out
        assert said.strip().isdigit(), said
        assert int(said) > 0
    finally:
        process.run([*compose, "down", "--volumes", "--timeout", "20"], env=environ, timeout=300)
