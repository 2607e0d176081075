"""deploy/kustomize: what is committed is what the chart makes, and kustomize makes of it what the chart does."""

import re
import shutil
import subprocess
from operator import itemgetter
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from deploy.chart import Manifest, merged, rendered
from deploy.generate import KUSTOMIZE, generated, main, plain
from tests.support.chart_values import Values, gpu_values
from tests.support.kubectl import KUBECTL, needs_kubectl


def built(folder: Path) -> list[Manifest]:
    """What `kubectl kustomize` makes of the folder; the name of the ConfigMap is without the hash of its content."""
    done = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True, check=True)
    manifests = list(yaml.safe_load_all(done.stdout))
    (config,) = [manifest for manifest in manifests if manifest["kind"] == "ConfigMap"]
    text = done.stdout.replace(config["metadata"]["name"], "crossvit")
    return list(yaml.safe_load_all(text))


def by_kind(manifests: list[Manifest]) -> dict[str, Manifest]:
    """The objects by their kinds, with the pod's volumes in the order of their names."""
    found = {manifest["kind"]: manifest for manifest in manifests}
    assert len(found) == len(manifests)
    found["Deployment"]["spec"]["template"]["spec"]["volumes"].sort(key=itemgetter("name"))
    return found


def of_chart(values: dict[str, Any]) -> dict[str, Manifest]:
    return by_kind([plain(manifest) for manifest in rendered(values) if manifest["kind"] != "Pod"])


def without_labels(manifest: Manifest) -> Manifest:
    """A generated ConfigMap has no labels."""
    manifest["metadata"].pop("labels", None)
    return manifest


def with_image_of_the_example(manifests: dict[str, Manifest]) -> dict[str, Manifest]:
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    for container in (*pod["initContainers"], *pod["containers"]):
        container["image"] = f"registry.example/{container['image']}"
    return manifests


def test_what_is_committed_is_what_the_chart_makes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, f"run python -m deploy.generate: {capsys.readouterr().out}"
    components = {KUSTOMIZE / "components" / name for name in ("keda", "keda-gpu", "monitoring")}
    folders = [KUSTOMIZE / "base", *components]
    assert {path for folder in folders for path in folder.iterdir()} <= generated().keys()


@needs_kubectl
def test_the_base_is_the_chart_with_its_own_values() -> None:
    made, expected = by_kind(built(KUSTOMIZE / "base")), of_chart({})
    for manifests in (made, expected):
        without_labels(manifests["ConfigMap"])
    assert made == expected


@needs_kubectl
def test_the_gpu_overlay_is_the_chart_with_the_values_for_a_gpu() -> None:
    made = by_kind(built(KUSTOMIZE / "overlays" / "gpu"))
    expected = with_image_of_the_example(of_chart(gpu_values()))
    for manifests in (made, expected):
        without_labels(manifests["ConfigMap"])
    assert made == expected


@needs_kubectl
def test_the_cpu_overlay_adds_a_setting_and_kubernetes_knows_every_field() -> None:
    made = by_kind(built(KUSTOMIZE / "overlays" / "cpu"))
    assert made["ConfigMap"]["data"]["CROSSVIT_LOG_LEVEL"] == "info"
    for manifest in made.values():
        kubernetes_validate.validate(manifest, "1.37", strict=True)


@needs_kubectl
@pytest.mark.parametrize(("overlay", "values"), [("cpu", {}), ("gpu", gpu_values())])
def test_components_add_what_the_chart_does_and_leave_the_replicas_to_the_scaler(
    overlay: str, values: Values, tmp_path: Path
) -> None:
    shutil.copytree(KUSTOMIZE, tmp_path / "kustomize")
    folder = tmp_path / "kustomize" / "overlays" / overlay
    text = (folder / "kustomization.yaml").read_text()
    enabled = re.sub(r"^( *)# (components: |- )", r"\1\2", text, flags=re.MULTILINE)
    assert enabled != text
    (folder / "kustomization.yaml").write_text(enabled)
    made = by_kind(built(folder))
    assert {"ScaledObject", "ServiceMonitor", "PrometheusRule"} <= made.keys()
    assert "replicas" not in made["Deployment"]["spec"]
    assert "namespace=" not in yaml.safe_dump(made["ScaledObject"]) + yaml.safe_dump(made["PrometheusRule"])
    scaling = {"autoscaling": {"kind": "keda", "keda": {"selector": 'service="crossvit"'}}}
    expected = with_image_of_the_example(of_chart(merged(values, scaling)))
    assert made["ScaledObject"] == expected["ScaledObject"]
    assert made["Deployment"] == expected["Deployment"]
