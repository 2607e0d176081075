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
from pydantic import ValidationError

from app.configuration.settings import Settings, variable
from app.main import create_app
from deploy.chart import CHART, ChartError, Manifest, rendered
from deploy.generate import OWNED, settings_of_chart
from export import pull
from model.spec import VARIANTS
from tests.support.chart_values import CASES, Values

KUBERNETES = "1.37"
OPERATORS = {"ScaledObject", "ServiceMonitor", "PrometheusRule"}  # whose kinds Kubernetes itself does not know
IMAGE = (CHART.parents[2] / "docker" / "cpu.Dockerfile").read_text()


def deployed(values: Values) -> tuple[dict[str, Any], Mapping[str, str]]:
    """The pod of the service, and its settings."""
    found = {manifest["kind"]: manifest for manifest in rendered(values)}
    return found["Deployment"]["spec"]["template"]["spec"], found["ConfigMap"]["data"]


def accepted(environment: Mapping[str, str], arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings that the service reads of both."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Settings.from_command_line(arguments)


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
    case: str, environment: Mapping[str, str], container: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if case == "grpc" and "grpc_port" not in Settings.model_fields:
        pytest.skip("this service has no setting grpc_port")
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


def test_the_alerts_are_those_of_the_compose_file() -> None:
    alerts = (CHART.parents[2] / "docker" / "prometheus" / "alerts.yml").read_text()
    (rule,) = [
        manifest
        for manifest in rendered({"monitoring": {"rules": {"enabled": True}}}, "a", "b")
        if manifest["kind"] == "PrometheusRule"
    ]
    rules = rule["spec"]["groups"][0]["rules"]
    assert [each["alert"] for each in rules] == re.findall(r"alert: (\w+)", alerts)
    assert rules[0]["expr"] == 'up{job="a-crossvit",namespace="b"} == 0'


WRONG: list[tuple[Values, str]] = [
    ({"model": {"form": "source"}}, "form"),
    ({"model": {"from": "claim"}}, "/model/claim"),
    ({"model": {"source": "two words"}}, "/model/source"),
    ({"image": {"repository": "a:b"}}, "/image/repository"),
    ({"image": {"digest": "sha256:12"}}, "/image/digest"),
    ({"settings": {"max_que": 1}}, "'max_que'"),
    ({"settings": {"api_keys": "a-secret-key"}}, "'api_keys'"),
    ({"settings": {"health_access": "key"}}, "'health_access'"),
    ({"resources": {"limits": {"cpu": "1500m"}}}, "/resources/limits/cpu"),
    ({"autoscaling": {"kind": "kedda"}}, "/autoscaling/kind"),
    ({"autoscaling": {"keda": {"busy": 70}}}, "/autoscaling/keda/busy"),
    ({"ingress": {"enabled": True}}, "/ingress/host"),
    ({"ingress": {"paths": ["/metrics"]}}, "/ingress/paths/0"),
    ({"ingress": {"paths": ["/"]}}, "/ingress/paths/0"),
    ({"grpc": {"port": 8000}}, "/grpc/port"),
    ({"replicas": "two"}, "/replicas"),
    ({"settings": {"metrics_access": "key"}, "monitoring": {"serviceMonitor": {"enabled": True}}}, "authorization"),
    ({"gpu": {"buildEngines": True}, "model": {"source": "hf:a/b"}}, "model.source names"),
    ({"autoscaling": {"kind": "hpa", "hpa": {"cpuPercent": 0}}}, "nothing to scale on"),
]


@pytest.mark.parametrize(("values", "message"), WRONG, ids=[f"{message} {values}" for values, message in WRONG])
def test_values_that_cannot_be_are_refused_with_a_sentence(values: Values, message: str) -> None:
    with pytest.raises(ChartError) as caught:
        rendered(values)
    assert message in str(caught.value)


@given(
    values=st.fixed_dictionaries(
        {},
        optional={
            "replicas": st.integers(0, 50),
            "instances": st.integers(1, 64),
            "grpc": st.fixed_dictionaries(
                {"enabled": st.booleans(), "port": st.integers(1024, 65535).filter(lambda n: n != 8000)}
            ),
            "autoscaling": st.fixed_dictionaries(
                {"kind": st.sampled_from(["none", "keda", "hpa"])},
                optional={
                    "minReplicas": st.integers(1, 9),
                    "keda": st.fixed_dictionaries({"waitingImages": st.floats(0.1, 1e6), "busy": st.floats(0.01, 1)}),
                },
            ),
            "keys": st.fixed_dictionaries(
                {"existingSecret": st.from_regex(r"[a-z]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)}
            ),
            "settings": st.fixed_dictionaries(
                {},
                optional={
                    "max_queue": st.integers(32, 10**9),
                    "max_body_bytes": st.integers(1, 10**15),
                    "max_queue_seconds": st.floats(0.1, 86400),
                    "preload": st.lists(st.sampled_from([224, 384, 480]), max_size=3),
                    "docs": st.booleans(),
                    "cors_origins": st.just(["https://a.example", "*"]),
                },
            ),
            "podAnnotations": st.dictionaries(
                st.from_regex(r"[a-z]{1,20}", fullmatch=True), st.text(max_size=30), max_size=3
            ),
        },
    )
)
@settings(max_examples=8, deadline=None)
def test_whatever_the_values_kubernetes_and_the_service_take_what_is_made(values: Values) -> None:
    objects = rendered(values)
    for manifest in objects:
        if manifest["kind"] not in OPERATORS:
            kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    _, environment = deployed({**values, "grpc": {}})
    with pytest.MonkeyPatch.context() as patch:
        read = accepted(environment, [], patch)
    for name, value in values.get("settings", {}).items():
        assert getattr(read, name) == (pytest.approx(value) if isinstance(value, float) else value)


def test_the_chart_takes_every_setting_that_is_not_its_own() -> None:
    assert settings_of_chart() == sorted(Settings.model_fields.keys() - OWNED)
    with helm_python.Chart.load(str(CHART)) as chart:
        schema = chart.schema
    assert schema is not None
    assert schema["properties"]["settings"]["propertyNames"]["enum"] == settings_of_chart(), (
        "run python -m deploy.generate"
    )


def test_the_readme_has_every_value_with_its_default() -> None:
    guide = (CHART / "README.md").read_text()
    with helm_python.Chart.load(str(CHART)) as chart:
        for path, default in leaves(chart.values):
            row = next((line for line in guide.splitlines() if line.startswith(f"| `{path}` |")), "")
            assert row, path
            cell = row.split(" | ")[1].strip("` ")
            assert cell == ("" if default in ("", [], {}) else written(default)), path


def leaves(values: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """The values that are no groups, by their paths; resources and security contexts are one value each."""
    found = []
    for name, value in values.items():
        path = f"{before}{name}"
        if isinstance(value, dict) and value and name not in ("requests", "limits", "podSecurityContext"):
            found += leaves(value, f"{path}.")
        else:
            found.append((path, value))
    return found


def written(value: Any) -> str:
    """A value as the table has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(value)
    return ", ".join(f"{name} {each}" for name, each in value.items()) if isinstance(value, dict) else str(value)


def test_a_typo_that_the_schema_lets_pass_is_refused_by_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    _, environment = deployed({"settings": {"max_images": 100, "max_queue": 64}})
    with pytest.raises(ValidationError, match="max_images must not be over max_queue"):
        accepted(environment, [], monkeypatch)
