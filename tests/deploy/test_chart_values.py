"""The values that the chart takes: wrong ones are refused with a sentence, and all others make what is valid."""

from collections.abc import Mapping
from typing import Any

import helm_python
import kubernetes_validate
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from app.configuration.settings import Settings
from deploy.chart import CHART, ChartError, rendered
from deploy.generate import OWNED, settings_of_chart
from tests.support.chart_values import KUBERNETES, OPERATORS, Values, accepted, deployed

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
    ({"autoscaling": {"kind": "hpa", "minReplicas": 11}}, "minReplicas is 11, over autoscaling.maxReplicas"),
    (
        {
            "autoscaling": {"kind": "keda", "keda": {"window": "90s"}},
            "monitoring": {"serviceMonitor": {"enabled": True, "interval": "30s"}},
        },
        "window is 90s, under four scrapes of 30s",
    ),
    ({"strategy": {"maxUnavailable": "0%", "maxSurge": 0}}, "both 0"),
    ({"resources": {"requests": {"cpu": "10"}}}, "resources.requests.cpu is 10, over resources.limits.cpu, which is 2"),
    ({"resources": {"requests": {"memory": "4097Mi"}}}, "requests.memory is 4097Mi, over resources.limits.memory"),
    ({"settings": {"rate_limit": "600/minute"}}, "set keys.existingSecret"),
    ({"settings": {"answer_log": "/cache/answers"}}, "where no volume is"),
    ({"model": {"from": "claim", "claim": "a", "path": "nets/../.."}}, "/model/path"),
    ({"model": {"name": ".."}}, "/model/name"),
    ({"model": {"source": ".."}}, "/model/source"),
    ({"fullnameOverride": "9lives"}, "/fullnameOverride"),
    ({"nameOverride": "-a"}, "/nameOverride"),
    ({"podLabels": {"app.kubernetes.io/name": "mine"}}, "podLabels has app.kubernetes.io/name"),
    ({"monitoring": {"labels": {"helm.sh/chart": "mine"}}}, "monitoring.labels has helm.sh/chart"),
    ({"podAnnotations": {"checksum/settings": "mine"}}, "podAnnotations has checksum/settings"),
    ({"extraEnv": [{"name": "CROSSVIT_PORT", "value": "1"}]}, "/extraEnv/0/name"),
    ({"extraVolumes": [{"name": "tmp", "emptyDir": {}}]}, "/extraVolumes/0/name"),
    ({"extraVolumeMounts": [{"name": "a", "mountPath": "/cache"}]}, "/extraVolumeMounts/0/mountPath"),
]


@pytest.mark.parametrize(("values", "message"), WRONG, ids=[f"{message} {values}" for values, message in WRONG])
def test_values_that_cannot_be_are_refused_with_a_sentence(values: Values, message: str) -> None:
    with pytest.raises(ChartError) as caught:
        rendered(values)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["9lives", "a.b"])
def test_a_release_whose_name_no_service_can_have_is_refused(name: str) -> None:
    with pytest.raises(ChartError, match="set fullnameOverride"):
        rendered({"nameOverride": name[0]}, name)


def test_requests_that_are_the_limits_in_another_unit_are_taken() -> None:
    assert rendered({"resources": {"requests": {"cpu": 2, "memory": "4096Mi"}}})


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
