"""The chart, rendered by Helm's own SDK: what Kubernetes would take, and what the service takes of it.

A cluster is not here: nothing of this has been applied to one.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from app.configuration.settings import Settings, variable
from app.main import create_app
from deploy.chart import CHART, Manifest, rendered
from export import pull
from model.spec import VARIANTS
from tests.support.chart_values import CASES, KUBERNETES, OPERATORS, Values, accepted, deployed

IMAGE = (CHART.parents[2] / "docker" / "cpu.Dockerfile").read_text()


def test_lint_finds_nothing(case: str) -> None:
    report = helm_python.lint(str(CHART), CASES[case], strict=True)
    assert report["errors"] == []
    assert {message["error"] for message in report["messages"]} == {"icon is recommended"}


def test_kubernetes_knows_every_field(objects: list[Manifest]) -> None:
    for manifest in objects:
        if manifest["kind"] not in OPERATORS:
            assert kubernetes_validate.validate(manifest, KUBERNETES, strict=True) == KUBERNETES


def test_every_object_is_of_the_release_and_its_namespace(objects: list[Manifest]) -> None:
    name = "vision" if any(manifest["metadata"]["name"] == "vision" for manifest in objects) else "crossvit"
    for manifest in objects:
        assert manifest["metadata"]["namespace"] == "vision"
        assert manifest["metadata"]["name"].startswith(name)


def test_selectors_find_the_pods_of_the_deployment_and_not_that_of_the_test(objects: list[Manifest]) -> None:
    deployment = next(manifest for manifest in objects if manifest["kind"] == "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    test = next(manifest for manifest in objects if manifest["kind"] == "Pod")
    selectors = [deployment["spec"]["selector"]["matchLabels"]]
    for manifest in objects:
        spec = manifest.get("spec", {})
        match manifest["kind"]:
            case "Service":
                selectors.append(spec["selector"])
            case "PodDisruptionBudget":
                selectors.append(spec["selector"]["matchLabels"])
            case "NetworkPolicy":
                selectors.append(spec["podSelector"]["matchLabels"])
    assert len(selectors) >= 4
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert not selector.items() <= test["metadata"]["labels"].items()


def test_the_service_accepts_its_settings_and_its_arguments(
    environment: Mapping[str, str], container: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert environment.keys() <= {variable(name) for name in Settings.model_fields}
    command, *arguments = container["args"]
    assert command == "serve"
    settings = accepted(environment, arguments, monkeypatch)
    assert (settings.host, settings.port, settings.health_access) == ("0.0.0.0", 8000, "open")  # noqa: S104


def test_settings_reach_the_service_as_they_were_written(monkeypatch: pytest.MonkeyPatch) -> None:
    _, environment = deployed(CASES["settings"])
    settings = accepted(environment, [], monkeypatch)
    for name, value in CASES["settings"]["settings"].items():
        assert getattr(settings, name) == value
    assert (settings.instances, settings.grace_seconds, settings.drain_seconds) == (4, 12.5, 61)


def test_pull_accepts_its_arguments_and_makes_the_bundle_that_is_served(
    case: str, pod: dict[str, Any], environment: Mapping[str, str]
) -> None:
    steps = {step["name"]: step for step in pod.get("initContainers", ())}
    assert bool(steps) is (CASES[case].get("model", {}).get("from", "source") == "source")
    if not steps:
        return
    command, *arguments = steps["pull"]["args"]
    assert command == "pull"
    parsed = typer.main.get_command(pull._app).make_context("pull", arguments).params
    assert str(parsed["out"]) == environment[variable("bundle")]
    assert parsed["if_changed"] is True
    assert parsed["source"] in VARIANTS or parsed["source"].startswith("hf:")


def test_containers_have_no_rights_and_write_only_where_the_image_does(pod: dict[str, Any]) -> None:
    assert pod["enableServiceLinks"] is False
    assert pod["automountServiceAccountToken"] is False
    user, group = map(int, re.findall(r"^USER (\d+):(\d+)$", IMAGE, re.MULTILINE)[-1])
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True
    assert (security["runAsUser"], security["runAsGroup"], security["fsGroup"]) == (user, group, group)
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    for each in (*pod["containers"], *pod.get("initContainers", ())):
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    (container,) = pod["containers"]
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {re.findall(r"XDG_CACHE_HOME=(\S+)", IMAGE)[0], "/tmp"}  # noqa: S108
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert all("sizeLimit" in volume["emptyDir"] for volume in volumes.values() if "emptyDir" in volume)
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()


def test_probes_ask_paths_of_the_service_on_a_port_that_it_listens_on(
    container: dict[str, Any], objects: list[Manifest]
) -> None:
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports["http"] == int(re.findall(r"^EXPOSE (\d+)$", IMAGE, re.MULTILINE)[0])
    probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert {kind: probe["path"] for kind, probe in probes.items()} == {
        "startup": "/livez",
        "liveness": "/livez",
        "readiness": "/readyz",
    }
    assert {probe["port"] for probe in probes.values()} == {"http"}
    services = [manifest for manifest in objects if manifest["kind"] == "Service"]
    assert {port["targetPort"] for service in services for port in service["spec"]["ports"]} == ports.keys()


def test_what_an_ingress_passes_on_is_served_and_is_neither_metrics_nor_admin(bundle: Path) -> None:
    (ingress,) = [manifest for manifest in rendered(CASES["ingress"]) if manifest["kind"] == "Ingress"]
    routes = [path["path"] for path in ingress["spec"]["rules"][0]["http"]["paths"]]
    exact = {path["path"] for path in ingress["spec"]["rules"][0]["http"]["paths"] if path["pathType"] == "Exact"}
    app = create_app(Settings(bundle=bundle))
    served = {getattr(route, "path", "") for route in app.routes} | app.openapi()["paths"].keys()
    for path in routes:
        assert any(f"{known}/".startswith(f"{path}/".replace("//", "/")) for known in served), path
    assert exact == {"/"}
    kept_inside = ("/metrics", "/admin", "/livez")  # for Prometheus, admins, the kubelet
    for known in served - {"", "/"}:
        passed_on = any(f"{known}/".startswith(f"{path}/") for path in routes)
        assert passed_on is not known.startswith(kept_inside), known
    assert not any(f"{closed}/".startswith(f"{path}/") for closed in ("/metrics", "/admin") for path in routes)


@given(
    grace=st.floats(0, 3600, allow_nan=False).map(lambda value: round(value, 2)),
    drain=st.floats(0.01, 86400, allow_nan=False).map(lambda value: round(value, 2)),
)
@settings(max_examples=20, deadline=None)
def test_a_pod_has_time_for_a_stop_that_loses_nothing(grace: float, drain: float) -> None:
    pod, _ = deployed({"stop": {"graceSeconds": grace, "drainSeconds": drain}})
    assert pod["terminationGracePeriodSeconds"] >= math.ceil(grace) + math.ceil(drain) + 10


def test_readiness_is_seen_before_the_port_closes(container: dict[str, Any], environment: Mapping[str, str]) -> None:
    readiness = container["readinessProbe"]
    seen_after = (readiness["periodSeconds"] + readiness["timeoutSeconds"]) * readiness["failureThreshold"]
    assert seen_after < float(environment[variable("grace_seconds")])


def test_cpus_are_whole_and_only_the_service_has_a_gpu(case: str, pod: dict[str, Any]) -> None:
    for each in (*pod["containers"], *pod.get("initContainers", ())):
        assert all(float(each["resources"][kind]["cpu"]) % 1 == 0 for kind in ("requests", "limits"))
    gpus = {
        each["name"]
        for each in (*pod["containers"], *pod.get("initContainers", ()))
        if "nvidia.com/gpu" in each["resources"]["limits"]
    }
    assert gpus == {"gpu": {"crossvit"}, "gpu engines": {"crossvit", "build-engines"}}.get(case, set())


def test_keys_are_files_of_the_secret_that_change_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pod, environment = deployed(CASES["keys"])
    settings = accepted(environment, [], monkeypatch)
    (container,) = pod["containers"]
    mount = next(mount for mount in container["volumeMounts"] if mount["name"] == "keys")
    assert "subPath" not in mount
    secret = next(volume["secret"] for volume in pod["volumes"] if volume["name"] == "keys")
    assert secret["secretName"] == "crossvit-keys"
    files = {item["key"]: Path(mount["mountPath"]) / item["path"] for item in secret["items"]}
    assert files == {"api": settings.api_keys_file, "admins": settings.admin_keys_file}


def test_other_settings_make_other_pods_and_the_same_ones_the_same() -> None:
    def hashed(values: Values) -> str:
        (deployment,) = [manifest for manifest in rendered(values) if manifest["kind"] == "Deployment"]
        text: str = deployment["spec"]["template"]["metadata"]["annotations"]["checksum/settings"]
        return text

    assert hashed({}) == hashed({"replicas": 5})
    assert hashed({}) != hashed({"settings": {"max_queue": 128}})


def test_autoscaling_leaves_the_number_of_replicas_to_the_scaler() -> None:
    for kind in ("none", "keda", "hpa"):
        objects = rendered({"autoscaling": {"kind": kind}})
        (deployment,) = [manifest for manifest in objects if manifest["kind"] == "Deployment"]
        assert ("replicas" in deployment["spec"]) is (kind == "none")
        scalers = {"ScaledObject", "HorizontalPodAutoscaler"} & {manifest["kind"] for manifest in objects}
        assert scalers == {"none": set(), "keda": {"ScaledObject"}, "hpa": {"HorizontalPodAutoscaler"}}[kind]


def test_variables_and_volumes_of_the_user_reach_every_container() -> None:
    pod, _ = deployed({**CASES["extras"], "gpu": {"buildEngines": True}})
    containers = (*pod["containers"], *pod["initContainers"])
    assert [each["name"] for each in containers] == ["crossvit", "pull", "build-engines"]
    for each in containers:
        assert {"name": "HTTPS_PROXY", "value": "http://proxy:3128"} in each["env"]
        assert {"name": "ca", "mountPath": "/etc/ssl/mine", "readOnly": True} in each["volumeMounts"]


def test_an_answer_log_goes_into_a_volume_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    values: Values = {
        "settings": {"answer_log": "/answers", "drift_percent": 100},
        "extraVolumes": [{"name": "answers", "persistentVolumeClaim": {"claimName": "answers"}}],
        "extraVolumeMounts": [{"name": "answers", "mountPath": "/answers"}],
    }
    _, environment = deployed(values)
    assert accepted(environment, [], monkeypatch).answer_log == Path("/answers")


@pytest.mark.parametrize(
    ("endpoint", "ports"),
    [
        ("", {443}),
        ("https://mirror.example/hub", {443}),
        ("https://mirror.example:8443/a", {443, 8443}),
        ("http://mirror.example", {443, 80}),
    ],
)
def test_a_pod_reaches_the_port_of_the_hubs_mirror(endpoint: str, ports: set[int]) -> None:
    values = {"model": {"hub": {"endpoint": endpoint}}}
    (policy,) = [manifest for manifest in rendered(values) if manifest["kind"] == "NetworkPolicy"]
    opened = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
    assert opened == {53, *ports}


def test_large_numbers_are_written_without_an_exponent() -> None:
    values = {"replicas": 2_000_000, "progressDeadlineSeconds": 3_000_000}
    (deployment,) = [manifest for manifest in rendered(values) if manifest["kind"] == "Deployment"]
    assert deployment["spec"]["replicas"] == 2_000_000
    assert deployment["spec"]["progressDeadlineSeconds"] == 3_000_000


def test_the_alerts_are_those_of_the_compose_file() -> None:
    alerts = (CHART.parents[2] / "docker" / "prometheus" / "alerts.yml").read_text()
    (rule,) = [
        manifest
        for manifest in rendered({"monitoring": {"rules": {"enabled": True}}}, "a", "b")
        if manifest["kind"] == "PrometheusRule"
    ]
    rules = rule["spec"]["groups"][0]["rules"]
    assert [each["alert"] for each in rules] == re.findall(r"alert: (\w+)", alerts)
    for each in rules:  # of two releases each has alerts of its own
        series = re.findall(r"(?:crossvit_|up)[a-z_]*(?:{.*?})?", each["expr"])
        assert series
        assert all('job="a-crossvit",namespace="b"' in one for one in series), each["expr"]
