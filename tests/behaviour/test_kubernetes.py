"""The manifests of examples/kubernetes: valid by the schema of Kubernetes, and true of what aioq does."""

import math
import re
from typing import Any

import kubernetes_validate
import msgspec
import pytest
import yaml

from aioq import App
from aioq.config.settings import Settings, load_settings
from aioq.config.urls import parse_servers
from aioq.store.redis.keys import base_key, lane_key
from tests.behaviour.kit import ROOT
from tests.behaviour.test_files_shown import statuses
from tests.databases import Database

PLACE = ROOT / "examples" / "kubernetes"
SHARING = 64
"""The most jobs in one entry of a stream; `lua/lib/lanes.lua` has the same."""

VERSION = "1.30"  # the oldest one that is meant: those after it have removed nothing that is used here


def documents(file: str) -> dict[str, Any]:
    """The resources of a manifest by their kinds."""
    return {each["kind"]: each for each in yaml.safe_load_all((PLACE / file).read_text())}


WORKER = documents("worker.yaml")
POD = WORKER["Deployment"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
ENVIRONMENT = {each["name"]: each for each in CONTAINER["env"]}


@pytest.mark.parametrize("file", ["worker.yaml", "hpa.yaml"])
@pytest.mark.parametrize("version", [VERSION, kubernetes_validate.latest_version()])
def test_the_schema_knows_every_line(file: str, version: str) -> None:
    """KEDA's kinds are not part of Kubernetes."""
    for resource in documents(file).values():
        kubernetes_validate.validate(resource, version, strict=True)


def test_all_speak_of_the_same_workers() -> None:
    labels = WORKER["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert WORKER["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert WORKER["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert WORKER["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    (spread,) = POD["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"] == labels
    name = WORKER["Deployment"]["metadata"]["name"]
    assert documents("hpa.yaml")["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == name
    assert documents("keda.yaml")["ScaledObject"]["spec"]["scaleTargetRef"]["name"] == name
    assert "replicas" not in WORKER["Deployment"]["spec"]


def test_the_settings_are_such() -> None:
    reference = ENVIRONMENT["AIOQ_URL"]["valueFrom"]["secretKeyRef"]
    secret = WORKER["Secret"]
    assert secret["metadata"]["name"] == reference["name"]
    values = {"AIOQ_URL": secret["stringData"][reference["key"]]}
    values |= {name: each["value"] for name, each in ENVIRONMENT.items() if "value" in each}
    settings = load_settings({}, environ=values)
    defaults = {field.name: field.default for field in msgspec.structs.fields(Settings)}
    assert parse_servers(settings.url or "") is not None
    assert settings.shutdown_timeout == defaults["shutdown_timeout"]
    assert settings.health_host == "0.0.0.0"


def test_the_worker_has_the_time_to_stop() -> None:
    """Its jobs' time, 5 s for those that swallow their cancellation, and what the page says of the rest."""
    seconds = float(ENVIRONMENT["AIOQ_SHUTDOWN_TIMEOUT"]["value"])
    assert POD["terminationGracePeriodSeconds"] >= seconds + 5 + 10
    assert CONTAINER["command"][:2] == ["aioq", "worker"]  # process 1, which gets the SIGTERM


def test_the_user_is_that_of_the_image() -> None:
    (user,) = re.findall(r"useradd --uid (\d+)", (ROOT / "Dockerfile").read_text())
    assert POD["securityContext"]["runAsUser"] == int(user)


def test_the_probes_ask_what_is_answered() -> None:
    command = CONTAINER["command"]
    (port,) = CONTAINER["ports"]
    assert command[command.index("--health-port") + 1] == str(port["containerPort"])
    probes = {name: CONTAINER[name]["httpGet"] for name in ("livenessProbe", "readinessProbe")}
    assert {probe["port"] for probe in probes.values()} == {port["name"]}
    answers = statuses({name: probe["path"] for name, probe in probes.items()})
    assert answers == {"livenessProbe": 200, "readinessProbe": 503}


def test_the_network_policy_lets_through_what_a_worker_needs() -> None:
    policy = WORKER["NetworkPolicy"]["spec"]
    ((probed,),) = [rule["ports"] for rule in policy["ingress"]]
    assert probed["port"] == CONTAINER["ports"][0]["containerPort"]
    servers, names = policy["egress"]
    url = parse_servers(WORKER["Secret"]["stringData"]["url"])
    sentinels = parse_servers("redis+sentinel://host/name")
    assert url is not None
    assert sentinels is not None
    wanted = {port for _, port in (*url.addresses, *sentinels.addresses)}
    assert {each["port"] for each in servers["ports"]} == wanted
    assert {(each["protocol"], each["port"]) for each in names["ports"]} == {("UDP", 53), ("TCP", 53)}


@pytest.mark.anyio
async def test_keda_reads_the_stream_of_the_jobs_that_wait(redis_server: Database, app_name: str) -> None:
    """Jobs that are sent one by one are an entry each; those that are sent together share entries."""
    (trigger,) = documents("keda.yaml")["ScaledObject"]["spec"]["triggers"]
    assert trigger["metadata"]["stream"] == lane_key(base_key("shop", "default"), "normal")
    app = App(app_name, url=redis_server.url)
    stream = lane_key(base_key(app_name, "default"), "normal")
    async with app:
        for _ in range(3):
            await app.send("task")
        with redis_server.client() as client:
            assert client.xlen(stream) == 3
        await app.send_many([app.by_name("task").call() for _ in range(1_000)])
        with redis_server.client() as client:
            assert client.xlen(stream) == 3 + math.ceil(1_000 / SHARING)
