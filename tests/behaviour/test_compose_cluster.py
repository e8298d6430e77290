"""compose.cluster.yaml without Docker: the commands of its containers, as processes on loopback ports."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from tests.behaviour.kit import ROOT
from tests.behaviour.test_two_hosts import LONG, Program
from tests.clusters import free_ports
from tests.conftest import PREFERENCE
from tests.servers import available, find

pytestmark = [pytest.mark.needs_host("redis-cli"), pytest.mark.timeout(120)]

SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "compose.cluster.yaml").read_text())["services"]
NODES = [name for name in SERVICES if name.startswith("node-")]


class Containers:
    """What the services run, each node at a port of its own instead of an address of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: list[Program] = []
        self._places: dict[str, str] = {}
        for name in NODES:
            place = f"127.0.0.1:{free_ports()}"
            self._places[f"{name}:6379"] = place
            self._places[f"{SERVICES[name]['networks']['default']['ipv4_address']}:6379"] = place

    def placed(self, text: str) -> str:
        """A text of the file, as a container has it, with the addresses that the nodes have here."""
        for address, place in self._places.items():
            text = text.replace(address, place)
        return text.replace("$$", "$")

    def start_nodes(self) -> None:
        binary = find(next(name for name in PREFERENCE if name in available()))
        assert binary is not None
        for name in NODES:
            program, *options = SERVICES[name]["command"]
            assert program == "redis-server"
            data = self._directory / name  # its volume, on /data, which is the image's working directory
            data.mkdir(exist_ok=True)
            port = self._places[f"{name}:6379"].rpartition(":")[2]
            here = ["--port", port, "--bind", "127.0.0.1", "--dir", str(data)]
            self._running.append(Program([binary, *options, *here]))
            self._running[-1].wait_for("Ready to accept connections")

    def stop(self) -> None:
        while self._running:
            self._running.pop().stop()

    def make_cluster(self) -> str:
        """Run the service that makes the cluster, and give what it printed."""
        command = [self.placed(word) for word in SERVICES["cluster"]["command"]]
        made = subprocess.run(command, capture_output=True, text=True, timeout=LONG, check=False)
        assert made.returncode == 0, made.stdout + made.stderr
        return made.stdout

    def states(self) -> set[str]:
        found: set[str] = set()
        for place in set(self._places.values()):
            with redis.Redis.from_url(f"redis://{place}") as client:
                info: Any = client.execute_command("CLUSTER INFO")
                found.add(f"{info['cluster_state']} {info['cluster_slots_ok']} {info['cluster_known_nodes']}")
        return found

    def run(self, service: str) -> Program:
        """The worker or the client, where its image would run it."""
        program, *rest = SERVICES[service]["command"]
        python = [sys.executable] if program == "python" else [sys.executable, "-m", program]
        url = self.placed(SERVICES[service]["environment"]["AIOQ_URL"])
        self._running.append(Program([*python, *rest], {"AIOQ_URL": url}))
        return self._running[-1]


@pytest.fixture
def containers(tmp_path: Path) -> Iterator[Containers]:
    made = Containers(tmp_path)
    try:
        yield made
    finally:
        made.stop()


def test_the_cluster_of_compose_forms_and_runs_the_example(containers: Containers) -> None:
    containers.start_nodes()
    assert "All 16384 slots covered" in containers.make_cluster()
    assert containers.states() == {"ok 16384 3"}

    worker = containers.run("worker")
    worker.wait_for("schedule add-every-30-seconds: stored")
    client = containers.run("client")
    assert client.wait() == 0, client.output
    worker.wait_for(r"succeeded in 2\.\d\ds: 30\n", r"succeeded in 2\.\d\ds: 1024\n")
    worker.stop()
    assert "WARNING" not in worker.output

    containers.stop()
    containers.start_nodes()  # with their data, as after `docker compose down` and `up`
    assert containers.make_cluster() == ""
    assert containers.states() == {"ok 16384 3"}
