"""The files that put aioq into containers: they agree with each other; the health check tells the truth."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from aioq.config.urls import parse_servers
from tests.clusters import Cluster
from tests.databases import Database
from tests.forkserver import ForkedPopen
from tests.servers import Login, Server

ROOT = Path(__file__).parents[3]


@pytest.fixture
def services() -> dict[str, Any]:
    return services_of("compose.yaml")


def services_of(file: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / file).read_text())["services"]


def test_compose_has_a_durable_server_and_two_hosts(services: dict[str, Any]) -> None:
    assert set(services) == {"redis", "worker", "client"}
    redis = services["redis"]
    assert redis["command"][1:3] == ["--appendonly", "yes"]
    assert redis["volumes"] == ["redis-data:/data"]
    assert redis["healthcheck"]["test"] == ["CMD", "redis-cli", "ping"]


@pytest.mark.parametrize("name", ["worker", "client"])
def test_both_hosts_run_the_example_in_the_built_image(services: dict[str, Any], name: str) -> None:
    service = services[name]
    assert (ROOT / service["build"] / "Dockerfile").is_file()
    assert service["environment"]["AIOQ_URL"].startswith("redis://redis:")
    assert service["depends_on"]["redis"]["condition"] == "service_healthy"
    [volume] = service["volumes"]
    assert volume == "./examples/two_hosts:/app:ro"


def test_the_workers_health_is_whether_it_fetches(services: dict[str, Any]) -> None:
    assert services["worker"]["healthcheck"]["test"] == ["CMD", "aioq", "check", "--quiet", "proj.app:app"]
    assert services["worker"]["command"][-1] == "proj.app:app"


def test_the_cluster_is_the_same_with_another_url(services: dict[str, Any]) -> None:
    cluster = services_of("compose.cluster.yaml")
    nodes = {name: cluster.pop(name) for name in ("node-1", "node-2", "node-3")}
    made = cluster.pop("cluster")
    assert cluster.keys() == {"worker", "client"}
    for name, service in cluster.items():
        servers = parse_servers(service["environment"]["AIOQ_URL"])
        assert servers is not None
        assert {host for host, _ in servers.addresses} == set(nodes)
        assert service["depends_on"] == {"cluster": {"condition": "service_completed_successfully"}}
        changed = ("environment", "depends_on")
        assert {key: value for key, value in service.items() if key not in changed} == {
            key: value for key, value in services[name].items() if key not in changed
        }
    assert made["depends_on"] == {name: {"condition": "service_healthy"} for name in nodes}
    assert len({node["networks"]["default"]["ipv4_address"] for node in nodes.values()}) == 3
    assert sorted(node["volumes"][0] for node in nodes.values()) == [f"{name}:/data" for name in nodes]
    assert {node["healthcheck"]["test"][-1] for node in nodes.values()} == {"ping"}


def test_everything_the_image_copies_reaches_the_build() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied: set[str] = set()
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            copied.update(line.split()[1:-1])
    assert copied == allowed


def _check_health(url: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "AIOQ_URL"}
    if url is not None:
        environment["AIOQ_URL"] = url
    script = ROOT / "docker" / "healthcheck.py"
    with ForkedPopen(
        [sys.executable, script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
        text=True,
    ) as process:
        printed, errors = process.communicate(timeout=20)
    return subprocess.CompletedProcess(process.args, process.returncode, printed, errors)


def test_health_of_a_server_that_answers(redis_server: Database) -> None:
    assert _check_health(redis_server.url).returncode == 0


def test_health_without_a_url() -> None:
    answer = _check_health(None)
    assert (answer.returncode, answer.stderr) == (1, "AIOQ_URL is not set\n")


def test_health_does_not_tell_the_password(start_server: Callable[..., Server]) -> None:
    server = start_server(login=Login("secret"))
    answer = _check_health(server.url.replace("secret", "guessed-secret"))
    assert (answer.returncode, answer.stderr) == (
        1,
        "no PONG from the server at AIOQ_URL: AuthenticationError\n",
    )


def test_health_of_a_server_that_is_gone(start_server: Callable[..., Server]) -> None:
    server = start_server()
    server.kill()
    answer = _check_health(server.url)
    assert (answer.returncode, answer.stderr) == (1, "no PONG from the server at AIOQ_URL: ConnectionError\n")


def test_health_of_a_cluster_of_which_one_node_answers(cluster: Cluster) -> None:
    assert _check_health(f"valkey+cluster://127.0.0.1:1,127.0.0.1:{cluster.nodes[0].port}").returncode == 0
    answer = _check_health("redis+cluster://:secret@127.0.0.1:1,127.0.0.1:2")
    assert (answer.returncode, answer.stderr) == (1, "no PONG from the server at AIOQ_URL: ConnectionError\n")


def test_health_of_sentinels_of_which_one_answers(start_server: Callable[..., Server]) -> None:
    """A sentinel is asked as any server is."""
    port = start_server(tcp=True).port
    assert _check_health(f"redis+sentinel://127.0.0.1:1,127.0.0.1:{port}/mymaster").returncode == 0
    answer = _check_health("redis+sentinel://127.0.0.1:1")
    assert (answer.returncode, answer.stderr) == (1, "AIOQ_URL is no URL of a server\n")
