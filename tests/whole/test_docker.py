"""The containers' files, as far as they can be checked without Docker: linted, pinned, and made of what exists.

Nothing is built here; docs/containers.md says so.
"""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DOCKERFILE = ROOT / "docker" / "Dockerfile"
HEALTH = ROOT / "docker" / "healthcheck.py"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))
TARGETS = ("cpu", "cuda")


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage of the Dockerfile: name of the instruction, and the rest of its line."""
    lines = [line for line in DOCKERFILE.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found: dict[str, list[tuple[str, str]]] = {"": []}
    for line in filter(None, text.splitlines()):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            found[rest.split(" AS ")[1]] = []
        found[list(found)[-1]].append((instruction, rest))
    return found


STAGES = stages()


def rest_of(stage: str, instruction: str) -> list[str]:
    return [rest for name, rest in STAGES[stage] if name == instruction]


# -- the Dockerfile --------------------------------------------------------------------------------------------


def test_hadolint_finds_nothing() -> None:
    command: list[str | Path] = [BIN / "hadolint", "--config", ROOT / "docker" / ".hadolint.yaml"]
    done = subprocess.run([*command, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    bad = subprocess.run([*command, "-"], input="FROM python:latest\n", capture_output=True, text=True, check=False)
    assert bad.returncode == 1
    assert "DL3007" in bad.stdout


def test_shellcheck_finds_nothing() -> None:
    scripts = sorted([*(ROOT / "requirements").glob("*.sh"), *(ROOT / "examples").glob("*.sh"), ROOT / ".ci" / "run"])
    assert len(scripts) >= 5
    done = subprocess.run([BIN / "shellcheck", *scripts], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    bad = subprocess.run(
        [BIN / "shellcheck", "-"], input="#!/bin/sh\nrm $1\n", capture_output=True, text=True, check=False
    )
    assert "SC2086" in bad.stdout


def test_every_base_image_is_pinned_by_version_and_digest() -> None:
    images = dict(rest.split("=", 1) for rest in rest_of("", "ARG"))
    assert sorted(images) == ["CUDA_IMAGE", "PYTHON_IMAGE"]
    for image in images.values():
        assert re.fullmatch(r"[a-z/]+:\d+\.\d+\.\d+-[a-z0-9.-]+@sha256:[0-9a-f]{64}", image), image
    bases = [rest_of(stage, "FROM")[0].split(" AS ")[0] for stage in STAGES if stage]
    assert set(bases) == {f"${{{name}}}" for name in images}


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_gets_the_finished_environment_and_no_build_tools(target: str) -> None:
    assert f"--from={target}-environment /opt/judge /opt/judge" in rest_of(target, "COPY")
    assert not any("pip" in rest for rest in rest_of(target, "RUN"))


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_judge_as_a_plain_user_on_volumes(target: str) -> None:
    assert rest_of(target, "USER") == ["10001"]
    assert STAGES[target].index(("USER", "10001")) > max(
        i for i, (name, _) in enumerate(STAGES[target]) if name in ("RUN", "COPY")
    )
    assert rest_of(target, "ENTRYPOINT") == ['["judge"]']
    assert rest_of(target, "VOLUME") == ['["/cache", "/data", "/models"]']


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_neither_asks_the_network_nor_reports_to_anybody(target: str) -> None:
    settings = dict(item.split("=", 1) for rest in rest_of(target, "ENV") for item in rest.split())
    assert settings["HOME"] == "/cache"
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "VLLM_NO_USAGE_STATS"):
        assert settings[name] == "1"
    assert settings["RAY_USAGE_STATS_ENABLED"] == "0"
    assert settings["PYTHONUNBUFFERED"] == "1"


def test_no_secret_is_asked_for_or_written_down() -> None:
    text = DOCKERFILE.read_text(encoding="utf-8") + (ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8")
    assert re.findall(r"(?i)[A-Z_]*(?:token|secret|password|api_?key)[A-Z_]*", text) == []


def test_the_images_are_made_from_the_lock_files_of_make() -> None:
    script = (ROOT / "requirements" / "install.sh").read_text(encoding="utf-8")
    (torch,) = re.findall(r"torch==\S+", script)
    (cpu,) = (rest for rest in rest_of("cpu-environment", "RUN") if "torch" in rest)
    assert re.findall(r"torch==\S+", cpu) == [torch]
    assert cpu.index(torch) < cpu.index("--no-deps -r /src/requirements/cpu.txt")
    assert any("-r /src/requirements/cuda.txt" in rest for rest in rest_of("cuda-environment", "RUN"))
    for stage in ("wheel", "cpu-environment", "cuda-environment"):
        installs = [rest for rest in rest_of(stage, "RUN") if "pip" in rest]
        assert installs
        for rest in installs:
            assert len(re.findall(r"pip (?:install|wheel)", rest)) == rest.count("--no-cache-dir")


def copied() -> set[str]:
    """What the Dockerfile copies from the repository."""
    lines = [rest for stage in STAGES for rest in rest_of(stage, "COPY") if not rest.startswith("--from=")]
    return {source for line in lines for source in line.split()[:-1]}


def test_what_is_copied_exists_and_is_what_the_build_may_see() -> None:
    sources = copied()
    assert {"pyproject.toml", "judge", "prompts", "quantize", "requirements/cpu.txt"} <= sources
    assert [source for source in sources if not (ROOT / source).exists()] == []
    rules = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] not in "#"]
    assert rules[0] == "*"  # only what is named after it is sent to the daemon
    allowed = [rule[1:] for rule in rules if rule.startswith("!")]
    for source in sources:
        assert any(fnmatch.fnmatch(source, rule) or source.startswith(f"{rule}/") for rule in allowed), source
    assert all(any(s == rule or s.startswith(f"{rule}/") for s in sources) for rule in allowed), "more than is copied"


# -- the compose file ------------------------------------------------------------------------------------------

SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["profiles"]  # nothing starts by itself
    assert service["read_only"] is True
    assert service["init"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    volumes = {volume["target"]: volume for volume in service["volumes"]}
    assert volumes["/models"]["read_only"] is True
    assert sorted(volumes) == ["/cache", "/data", "/models"]


def test_services_use_the_dockerfiles_targets_and_tags() -> None:
    assert sorted(SERVICES) == ["score", "score-cpu", "score-server", "server"]
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert version
    for service in SERVICES.values():
        target = service["build"]["target"]
        assert target in TARGETS
        assert service["image"] == f"judge:{version[1]}-{target}"
        assert (ROOT / "docker" / service["build"]["context"] / service["build"]["dockerfile"]).samefile(DOCKERFILE)


def test_only_what_needs_a_gpu_or_a_network_gets_one() -> None:
    for name, service in SERVICES.items():
        devices = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
        assert [device["capabilities"] for device in devices] == ([["gpu"]] if name in ("score", "server") else [])
        assert (service.get("network_mode") == "none") == (name in ("score", "score-cpu"))
    assert SERVICES["server"]["ports"] == ["127.0.0.1:8000:8000"]


def test_the_server_is_asked_for_its_health_and_waited_for() -> None:
    health = SERVICES["server"]["healthcheck"]
    assert health["test"] == ["CMD", "/opt/judge/bin/python", "/opt/judge/healthcheck.py"]
    for target in TARGETS:
        assert "docker/healthcheck.py /opt/judge/healthcheck.py" in rest_of(target, "COPY")
    seconds = re.search(r"^SECONDS = ([\d.]+)", HEALTH.read_text(encoding="utf-8"), re.MULTILINE)
    assert seconds
    assert float(seconds[1]) < int(health["timeout"].removesuffix("s"))
    assert SERVICES["server"]["environment"]["PORT"] in SERVICES["server"]["command"]
    assert SERVICES["score-server"]["depends_on"] == {"server": {"condition": "service_healthy"}}
    assert [name for name, service in SERVICES.items() if "healthcheck" in service] == ["server"]


# -- the health check ------------------------------------------------------------------------------------------


@contextmanager
def server(status: int, wait: float = 0.0) -> Iterator[int]:
    """A server on loopback that answers /health with `status` after `wait` seconds, anything else with 404."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(wait)
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield running.server_port
        finally:
            running.shutdown()
            thread.join()


def healthy(port: int) -> int:
    command: list[str | Path] = [sys.executable, "-S", HEALTH]
    done = subprocess.run(command, env={"PORT": str(port)}, capture_output=True, text=True, check=False, timeout=30)
    assert done.stderr == ""
    return done.returncode


@pytest.mark.parametrize(("status", "expected"), [(200, 0), (503, 1), (404, 1)])
def test_a_server_is_healthy_when_it_says_so(status: int, expected: int) -> None:
    with server(status) as port:
        assert healthy(port) == expected


def test_a_server_that_is_gone_or_hangs_is_not_healthy() -> None:
    with server(200) as port:
        pass
    assert healthy(port) == 1
    with server(200, wait=3) as port:
        begun = time.monotonic()
        assert healthy(port) == 1
        assert time.monotonic() - begun < 3
