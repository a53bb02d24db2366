"""The manifests in deploy/kubernetes: by Kubernetes' own schemas, by what its restricted profile asks, and by what our programs take."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge import __main__ as edge_command
from edge.settings import EdgeSettings, load_edge
from origin import __main__ as origin_command
from origin.node_settings import OriginSettings, load_origin
from origin.words import listen_address

KUBERNETES = Path(__file__).resolve().parents[1] / "deploy" / "kubernetes"

FILES = sorted(path for path in KUBERNETES.glob("*.yaml") if path.name != "kustomization.yaml")

WRITING_S = 15
"""How long a node may still write after it has drained: what has landed, and the catalogue's log."""

PARSERS = {"edge": edge_command._parser(), "origin": origin_command._parser()}


class Strict(yaml.SafeLoader):
    """YAML as a cluster reads it, but for keys that are given twice, which are mistakes."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"twice the same key{node.start_mark}"
        return super().construct_mapping(node, deep)


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.load_all(path.read_text(), Strict))


def objects() -> Iterator[dict[str, Any]]:
    for path in FILES:
        yield from documents(path)


def one(kind: str, name: str) -> dict[str, Any]:
    [found] = [each for each in objects() if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


@dataclass(frozen=True)
class Workload:
    """What runs one program."""

    program: str
    object: dict[str, Any]

    @property
    def pod(self) -> dict[str, Any]:
        found: dict[str, Any] = self.object["spec"]["template"]["spec"]
        return found

    @property
    def container(self) -> dict[str, Any]:
        [found] = self.pod["containers"]
        assert isinstance(found, dict)
        return found

    @property
    def asked(self) -> argparse.Namespace:
        """What the container's command means to the program."""
        program, *words = self.container["command"]
        assert program == self.program
        return PARSERS[program].parse_args(words)

    def labels(self) -> dict[str, str]:
        found: dict[str, str] = self.object["spec"]["template"]["metadata"]["labels"]
        return found


EDGE = Workload("edge", one("StatefulSet", "leeward-edge"))
ORIGIN = Workload("origin", one("Deployment", "leeward-origin"))

each_workload = pytest.mark.parametrize("workload", [EDGE, ORIGIN], ids=["edge", "origin"])


def settings_text(workload: Workload) -> str:
    """The settings file that the container is pointed at, from its ConfigMap."""
    mounts = {mount["mountPath"]: mount["name"] for mount in workload.container["volumeMounts"]}
    path = Path(workload.asked.config)
    [volume] = [each for each in workload.pod["volumes"] if each["name"] == mounts[str(path.parent)]]
    text: str = one("ConfigMap", volume["configMap"]["name"])["data"][path.name]
    return text


def settings_of(workload: Workload, tmp_path: Path) -> EdgeSettings | OriginSettings:
    return edge_settings(tmp_path) if workload is EDGE else origin_settings(tmp_path)


def edge_settings(tmp_path: Path) -> EdgeSettings:
    path = tmp_path / "edge.toml"
    path.write_text(settings_text(EDGE))
    return load_edge({"config": str(path)}, {}).settings


def origin_settings(tmp_path: Path) -> OriginSettings:
    path = tmp_path / "origin.toml"
    path.write_text(settings_text(ORIGIN))
    return load_origin({"config": str(path)}, {}).settings


# ---- as Kubernetes sees them -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.29", "1.37"])
def test_every_manifest_is_what_kubernetes_understands(version: str) -> None:
    for path in FILES:
        told = subprocess.run(
            [sys.executable, "-m", "kubernetes_validate", "--strict", "--no-warn", "-k", version, path],
            capture_output=True,
            text=True,
            check=False,
        )
        assert told.returncode == 0, told.stdout + told.stderr


def test_the_kustomization_names_every_file_and_the_image_of_the_pods() -> None:
    [kustomization] = documents(KUBERNETES / "kustomization.yaml")
    assert sorted(kustomization["resources"]) == [path.name for path in FILES]
    images = {image["name"] for image in kustomization["images"]}
    for workload in (EDGE, ORIGIN):
        for container in (*workload.pod["containers"], *workload.pod.get("initContainers", ())):
            assert {container["image"]} == images
    [namespace] = documents(KUBERNETES / "namespace.yaml")
    assert namespace["metadata"]["name"] == kustomization["namespace"]


@each_workload
def test_pods_keep_to_the_restricted_profile_with_a_root_that_cannot_be_written(workload: Workload) -> None:
    pod = workload.pod["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert pod["runAsUser"] == pod["runAsGroup"] == pod["fsGroup"] > 0
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert workload.pod["automountServiceAccountToken"] is False
    for container in (*workload.pod["containers"], *workload.pod.get("initContainers", ())):
        confined = container["securityContext"]
        assert confined["allowPrivilegeEscalation"] is False
        assert confined["readOnlyRootFilesystem"] is True
        assert confined["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        # A node that may not use a core that is free is slow for nothing.
        assert container["resources"]["limits"].keys() == {"memory"}
    [namespace] = documents(KUBERNETES / "namespace.yaml")
    assert namespace["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}


def test_whatever_selects_pods_selects_those_of_one_workload() -> None:
    selecting = [each for each in objects() if each["kind"] in {"Service", "PodDisruptionBudget", "NetworkPolicy"}]
    for each in selecting:
        spec = each["spec"]
        if each["metadata"]["name"] == "leeward-nothing":
            assert spec == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
            continue
        selector = spec["podSelector"] if "podSelector" in spec else spec["selector"]
        labels = selector.get("matchLabels", selector)
        chosen = [workload for workload in (EDGE, ORIGIN) if labels.items() <= workload.labels().items()]
        assert len(chosen) == 1, each["metadata"]["name"]
        assert each["metadata"]["name"].startswith(chosen[0].object["metadata"]["name"])
    for workload in (EDGE, ORIGIN):
        assert workload.object["spec"]["selector"]["matchLabels"] == workload.labels()


def test_services_and_policies_name_ports_that_the_pods_have() -> None:
    ports = {
        workload.program: {port["name"]: port["containerPort"] for port in workload.container["ports"]}
        for workload in (EDGE, ORIGIN)
    }
    for each in objects():
        program = each["metadata"].get("labels", {}).get("app.kubernetes.io/component")
        if each["kind"] == "Service":
            assert {port["targetPort"] for port in each["spec"]["ports"]} <= ports[program].keys()
        if each["kind"] == "NetworkPolicy" and "ingress" in each["spec"]:
            program = each["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
            assert {port["port"] for rule in each["spec"]["ingress"] for port in rule["ports"]} == ports[program].keys()


def test_an_edge_reaches_the_origin_by_the_service_and_its_siblings_by_their_own_names(tmp_path: Path) -> None:
    settings = edge_settings(tmp_path)
    service = one("Service", "leeward-origin")
    assert settings.origin == f"https://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    headless = one("Service", EDGE.object["spec"]["serviceName"])
    assert headless["spec"]["clusterIP"] == "None"
    name, port = headless["metadata"]["name"], headless["spec"]["ports"][0]["port"]
    assert list(settings.siblings) == [f"http://leeward-edge-{i}.{name}:{port}" for i in range(EDGE.object["spec"]["replicas"])]
    policy = one("NetworkPolicy", "leeward-edge")["spec"]
    reached = [to["podSelector"]["matchLabels"] for rule in policy["egress"] for to in rule["to"] if "podSelector" in to]
    assert EDGE.labels() in reached
    assert ORIGIN.labels() in reached


# ---- as our programs see them ----------------------------------------------------------------------------------------


@each_workload
def test_a_node_listens_where_its_pod_says_and_keeps_its_data_in_the_volume(workload: Workload, tmp_path: Path) -> None:
    settings = settings_of(workload, tmp_path)
    assert listen_address(settings.listen) == ("0.0.0.0", workload.container["ports"][0]["containerPort"])  # noqa: S104 -- in a pod
    assert str(settings.data) == workload.asked.data
    mounts = {mount["mountPath"] for mount in workload.container["volumeMounts"] if not mount.get("readOnly")}
    assert any(settings.data.is_relative_to(mount) for mount in mounts)


@each_workload
def test_a_store_fits_its_volume_with_room_for_the_catalogue(workload: Workload, tmp_path: Path) -> None:
    claims = workload.object["spec"].get("volumeClaimTemplates") or [one("PersistentVolumeClaim", "leeward-origin")]
    size = int(claims[0]["spec"]["resources"]["requests"]["storage"].removesuffix("Gi")) << 30
    limit = settings_of(workload, tmp_path).store.limit_bytes
    assert limit is not None
    assert limit < size * 0.9


@each_workload
def test_probes_ask_what_depends_on_nothing_else(workload: Workload) -> None:
    container = workload.container
    assert container["livenessProbe"]["httpGet"]["path"] == container["startupProbe"]["httpGet"]["path"] == "/-/live"
    assert container["readinessProbe"]["httpGet"]["path"] == "/-/ready"
    scheme = {"edge": None, "origin": "HTTPS"}[workload.program]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = container[probe]["httpGet"]
        assert asked.get("scheme") == scheme
        assert asked["port"] in {port["name"] for port in container["ports"]}
    # A node that is merely busy is left alone for a minute.
    liveness = container["livenessProbe"]
    assert liveness["periodSeconds"] * liveness["failureThreshold"] >= 60


@each_workload
def test_a_pod_is_given_longer_to_end_than_its_node_drains(workload: Workload, tmp_path: Path) -> None:
    drain_s = settings_of(workload, tmp_path).server.drain_s
    hook = workload.container.get("lifecycle", {}).get("preStop", {"exec": {"command": ["sleep", "0"]}})
    _, before = hook["exec"]["command"]
    assert workload.pod["terminationGracePeriodSeconds"] >= float(before) + drain_s + WRITING_S


def test_an_edge_is_enrolled_by_the_secret_of_its_pod_and_only_once(tmp_path: Path) -> None:
    [enrol] = EDGE.pod["initContainers"]
    environ = {each["name"]: each.get("value", "leeward-edge-1") for each in enrol["env"]}
    assert environ["EDGE_DATA"] == EDGE.asked.data
    assert environ["EDGE_CONFIG"] == EDGE.asked.config
    [secret] = [volume["secret"] for volume in EDGE.pod["volumes"] if "secret" in volume]
    assert secret["secretName"] in (KUBERNETES / "kustomization.yaml").read_text()
    enrolment = next(mount["mountPath"] for mount in enrol["volumeMounts"] if mount["name"] == "enrolment")
    given, data = tmp_path / "enrolment", tmp_path / "data"
    given.mkdir()
    data.mkdir()
    (given / "origin").write_text("https://leeward-origin:9090")
    (given / "leeward-edge-0").write_text("lw1.another")
    (given / "leeward-edge-1").write_text("lw1.mine")
    stand_in = tmp_path / "edge"
    stand_in.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\ncat\n')
    stand_in.chmod(0o755)

    def run() -> list[str]:
        command = [word.replace(f"{enrolment}/", f"{given}/") for word in enrol["command"]]
        done = subprocess.run(
            command,
            env=environ | {"PATH": f"{tmp_path}:/usr/bin:/bin", "EDGE_DATA": str(data)},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.splitlines()

    *words, token = run()
    asked = PARSERS["edge"].parse_args(words)
    assert (asked.url, asked.token, token) == ("https://leeward-origin:9090", "-", "lw1.mine")
    (data / "origin.json").write_text("{}")
    assert run() == []


def test_there_is_one_origin_at_a_time_on_its_data() -> None:
    assert ORIGIN.object["spec"]["replicas"] == 1
    assert ORIGIN.object["spec"]["strategy"] == {"type": "Recreate"}
    [data] = [volume for volume in ORIGIN.pod["volumes"] if volume["name"] == "data"]
    assert one("PersistentVolumeClaim", data["persistentVolumeClaim"]["claimName"])


def test_clients_reach_the_edge_of_their_node_and_never_lose_more_than_one() -> None:
    balancer = one("Service", "leeward-edge")["spec"]
    assert (balancer["type"], balancer["externalTrafficPolicy"]) == ("LoadBalancer", "Local")
    budget = one("PodDisruptionBudget", "leeward-edge")["spec"]
    assert budget["maxUnavailable"] == 1 < EDGE.object["spec"]["replicas"]
