"""docs/examples/kubernetes.yaml fits the images and the settings; a cluster is not here."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.api.key_files import KeyFile
from app.configuration.settings import Settings, variable
from model.spec import VARIANTS
from tests.docker.containers import ROOT

IMAGE = (ROOT / "docker" / "cpu.Dockerfile").read_text()


@pytest.fixture(scope="module")
def objects() -> dict[str, Any]:
    text = (ROOT / "docs" / "examples" / "kubernetes.yaml").read_text()
    return {one["kind"]: one for one in yaml.safe_load_all(text)}


@pytest.fixture(scope="module")
def pod(objects: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = objects["Deployment"]["spec"]["template"]["spec"]
    return spec


@pytest.fixture(scope="module")
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod["containers"]
    found: dict[str, Any] = only
    return found


def test_everything_is_for_the_pods_of_the_deployment(objects: dict[str, Any]) -> None:
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert objects["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert objects["Service"]["spec"]["selector"] == labels
    assert objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels


def test_the_variables_are_settings_and_the_service_adds_none(pod: dict[str, Any], container: dict[str, Any]) -> None:
    names = {each["name"] for each in container["env"]}
    assert names <= {variable(name) for name in Settings.model_fields}
    assert pod["enableServiceLinks"] is False


def test_it_runs_as_the_images_user_and_writes_where_the_image_does(
    pod: dict[str, Any], container: dict[str, Any]
) -> None:
    user, group = map(int, re.findall(r"^USER (\d+):(\d+)$", IMAGE, re.MULTILINE)[-1])
    security = pod["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"], security["fsGroup"]) == (user, group, group)
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {re.findall(r"XDG_CACHE_HOME=(\S+)", IMAGE)[0], "/tmp"}  # noqa: S108


def test_the_weights_are_fetched_beside_the_service_where_it_looks_for_bundles(
    pod: dict[str, Any], container: dict[str, Any]
) -> None:
    (pull,) = pod["initContainers"]
    assert (pull["image"], pull["securityContext"]) == (container["image"], container["securityContext"])
    folder = re.findall(r"CROSSVIT_BUNDLE=(\S+)", IMAGE)[0]
    mounts = [{mount["mountPath"]: mount for mount in each["volumeMounts"]}[folder] for each in (pull, container)]
    assert [mount.get("readOnly", False) for mount in mounts] == [False, True]
    command, source, *options = pull["args"]
    assert (command, options[: options.index("--out") + 2]) == ("pull", ["--out", f"{folder}/{source}"])
    assert source in VARIANTS


def test_the_keys_are_where_the_setting_has_them(
    objects: dict[str, Any], pod: dict[str, Any], container: dict[str, Any], tmp_path: Path
) -> None:
    path = Path(next(each["value"] for each in container["env"] if each["name"] == variable("api_keys_file")))
    mount = next(mount for mount in container["volumeMounts"] if mount["mountPath"] == str(path.parent))
    volume = next(volume for volume in pod["volumes"] if volume["name"] == mount["name"])
    assert "subPath" not in mount
    secret = objects["Secret"]
    assert volume["secret"]["secretName"] == secret["metadata"]["name"]
    (tmp_path / "keys").write_text(secret["stringData"][path.name])
    assert list(KeyFile(tmp_path / "keys").keys.values()) == ["someone"]


def test_probes_and_the_service_ask_where_the_image_listens(objects: dict[str, Any], container: dict[str, Any]) -> None:
    (port,) = container["ports"]
    assert port["containerPort"] == int(re.findall(r"^EXPOSE (\d+)$", IMAGE, re.MULTILINE)[0])
    assert objects["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert {kind: probe["path"] for kind, probe in probes.items()} == {
        "startup": "/livez",
        "liveness": "/livez",
        "readiness": "/readyz",
    }
    assert {probe["port"] for probe in probes.values()} == {port["name"]}


def test_a_pod_has_time_for_a_stop_that_loses_nothing(pod: dict[str, Any], container: dict[str, Any]) -> None:
    settings = Settings()
    assert pod["terminationGracePeriodSeconds"] > settings.grace_seconds + settings.drain_seconds
    readiness = container["readinessProbe"]
    seen_after = (readiness["periodSeconds"] + readiness["timeoutSeconds"]) * readiness["failureThreshold"]
    assert seen_after < settings.grace_seconds


def test_cpus_are_whole(container: dict[str, Any]) -> None:
    assert {float(each["cpu"]) % 1 for each in container["resources"].values()} == {0}
