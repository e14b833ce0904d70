"""The image and the compose file, as far as they can be checked without a Docker engine (docs/deployment.md)."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from orchestrator.settings import Settings, read_settings
from tests.architecture.checkout import tracked_files
from tests.packaging.installing import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("migrate", "bridge", "worker", "beat", "flower", "cli")
SERVERS = ("postgres", "valkey", "kafka")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
SETTINGS = {str(field.alias) for field in Settings.model_fields.values()}
FOR_COMPOSE = {
    *("POSTGRES_PASSWORD", "REDIS_PASSWORD", "REDIS_MAXMEMORY", "ORCHESTRATOR_VERSION", "ORCHESTRATOR_MEMORY"),
    *("KAFKA_HOST_PORT", "KAFKA_CLUSTER_ID", "KAFKA_HEAP_OPTS", "FLOWER_HOST_PORT", "SAMPLE_AGENTS_TOKEN"),
}


def interpolated(text: str, values: dict[str, str]) -> str:
    """Fill in ``${NAME}``, ``${NAME:-default}`` and ``${NAME:?text}`` as docker compose does."""
    pattern = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")
    return pattern.sub(lambda found: values.get(found[1]) or (found[3] if found[2] == "-" else ""), text)


def test_the_system_is_complete() -> None:
    assert set(SERVICES) == {*OURS, *SERVERS, "sample-agents"}


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_is_pinned_kept_and_watched(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"[\w/]+:\d+\.\d+(\.\d+)?", service["image"]), "a version, never `latest`"
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"]
    (volume,) = service["volumes"]
    assert volume.split(":")[0] in COMPOSE["volumes"]


@pytest.mark.parametrize("name", OURS)
def test_a_process_of_ours_is_confined_and_waits_for_what_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    if name == "migrate":
        assert service["depends_on"] == {"postgres": {"condition": "service_healthy"}}
        return
    conditions = {needed: entry["condition"] for needed, entry in service["depends_on"].items()}
    assert conditions["migrate"] == "service_completed_successfully"
    assert conditions["valkey"] == conditions["kafka"] == "service_healthy"


@pytest.mark.parametrize("name", ["worker", "bridge"])
def test_a_process_can_be_scaled(name: str) -> None:
    """``--scale worker=4`` needs a service without a name or a port of the host of its own."""
    assert not {"container_name", "ports", "hostname"} & set(SERVICES[name])


def test_ports_are_open_to_this_machine_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_broker_keeps_messages_and_drops_none() -> None:
    command = [str(part) for part in SERVICES["valkey"]["command"]]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"
    assert "REDIS_PASSWORD" in options["--requirepass"]


def test_the_processes_get_settings_that_are_right() -> None:
    values = {"POSTGRES_PASSWORD": "a1", "REDIS_PASSWORD": "b2", "FLOWER_BASIC_AUTH": "user:c3"}
    for name in OURS:
        environment = {key: interpolated(str(text), values) for key, text in SERVICES[name]["environment"].items()}
        assert set(environment) <= SETTINGS | {"SAMPLE_AGENTS_URL"}, "a name that no process reads"
        settings = read_settings(environment, dotenv=None)
        assert settings.database_url.get_secret_value() == "postgresql://orchestrator:a1@postgres:5432/orchestrator"
        assert settings.redis_url.get_secret_value() == "redis://:b2@valkey:6379/0"


def test_a_worker_may_end_before_docker_kills_it() -> None:
    worker = SERVICES["worker"]
    period = float(interpolated(worker["environment"]["ORCHESTRATOR_STOP_PERIOD"], {}))
    assert period < float(worker["stop_grace_period"].removesuffix("s"))


def test_no_secret_is_written_down() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    for name in ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "FLOWER_BASIC_AUTH"):
        uses = re.findall(rf"\$\{{{name}(.{{2}})", text)
        assert uses, name
        assert set(uses) == {":?"}, f"{name} must be asked for, without a default"


def test_the_example_of_an_env_file_names_what_is_read() -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    lines = re.findall(r"^#?([A-Z][A-Z0-9_]+)=(.*)$", text, re.MULTILINE)
    unknown = {name for name, _ in lines} - SETTINGS - FOR_COMPOSE
    assert not unknown, "no process reads these"
    filled = {name for name, value in lines if value and name.endswith(("PASSWORD", "KEY", "AUTH", "SECRET", "TOKEN"))}
    assert not filled, "an example holds no secret"
    asked_for = set(re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yml").read_text(encoding="utf-8")))
    assert asked_for <= {name for name, _ in lines}


def test_every_variable_of_the_compose_file_is_known() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"\$\{(\w+)", text)) <= SETTINGS | FOR_COMPOSE


def test_the_image_is_built_from_hashes_and_runs_without_root() -> None:
    build, final = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    assert build.count("--require-hashes") == 2
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    assert "pip install" not in final
    assert not re.search(r"apt-get|gcc|build-essential", DOCKERFILE)
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.\d+-slim-\w+$", DOCKERFILE, re.MULTILINE)


def test_the_build_gets_what_it_copies_and_nothing_secret() -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignore
    offered = {line[1:] for line in ignore if line.startswith("!")}
    copies = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
    copied = {part.removeprefix("./") for line in copies for part in line.split()[:-1]}
    assert copied == offered
    assert copied <= {file.parts[0] for file in tracked_files()}
    assert not {".env", ".git", "."} & copied
