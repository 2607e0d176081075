"""Makes the base and components of deploy/kustomize from the chart, and the chart's list of settings.

python -m deploy.generate

Enters: the chart, the settings. Leaves: the committed files; with --check a status of 1 if they differ from these.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from app.configuration.settings import Settings
from deploy.chart import CHART, GPU_VALUES, Manifest, merged, rendered

KUSTOMIZE = CHART.parents[1] / "kustomize"
SCHEMA = CHART / "values.schema.json"
# Settings that the chart makes of its own values, that hold keys, or that would close the probes.
OWNED = {
    "admin_host", "admin_keys", "admin_keys_file", "admin_port", "api_keys", "api_keys_file", "bundle",
    "default_model", "drain_seconds", "grace_seconds", "grpc_port", "health_access", "host", "instances", "labels",
    "activation", "model_name", "port", "quantize", "sources",
}  # fmt: skip
_NOTE = "# Made from deploy/helm/crossvit by python -m deploy.generate; change it there.\n"
_OF_HELM = ("helm.sh/chart", "app.kubernetes.io/managed-by")
_KEDA = {"kind": "keda", "keda": {"selector": 'service="crossvit"'}}
_COMPONENTS: dict[str, tuple[tuple[Mapping[str, Any], ...], dict[str, str]]] = {  # values; the files of added kinds
    "keda": (({"autoscaling": _KEDA},), {"ScaledObject": "scaledobject.yaml"}),
    "keda-gpu": ((GPU_VALUES, {"autoscaling": _KEDA}), {"ScaledObject": "scaledobject.yaml"}),
    "monitoring": (
        ({"monitoring": {"serviceMonitor": {"enabled": True}, "rules": {"enabled": True}}},),
        {"ServiceMonitor": "servicemonitor.yaml", "PrometheusRule": "prometheusrule.yaml"},
    ),
}


def settings_of_chart() -> list[str]:
    """The settings that the chart's `settings` takes."""
    return sorted(Settings.model_fields.keys() - OWNED)


def plain(manifest: Manifest) -> Manifest:
    """The object without what only Helm knows: its labels, the namespace, the hash of settings."""
    metadata = manifest["metadata"]
    metadata.pop("namespace", None)
    for label in _OF_HELM:
        metadata["labels"].pop(label, None)
    if manifest["kind"] == "Deployment":
        manifest["spec"]["template"]["metadata"].pop("annotations")  # kustomize renames the ConfigMap instead
    return manifest


def base_objects() -> list[Manifest]:
    """What the chart makes of its own values, without its test."""
    return [plain(manifest) for manifest in rendered() if manifest["kind"] != "Pod"]


def generated() -> dict[Path, str]:
    """The text of every file that is made here."""
    return {SCHEMA: _schema(), **_base(), **_components()}


def _schema() -> str:
    schema = json.loads(SCHEMA.read_text())
    schema["properties"]["settings"]["propertyNames"]["enum"] = settings_of_chart()
    return json.dumps(schema, indent=2) + "\n"


def _base() -> dict[Path, str]:
    folder = KUSTOMIZE / "base"
    files = {}
    for manifest in base_objects():
        if manifest["kind"] == "ConfigMap":
            files[folder / "settings.env"] = "".join(f"{name}={value}\n" for name, value in manifest["data"].items())
        else:
            files[folder / f"{manifest['kind'].lower()}.yaml"] = _text(manifest)
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": sorted(path.name for path in files if path.suffix == ".yaml"),
        "configMapGenerator": [{"name": "crossvit", "envs": ["settings.env"]}],
    }
    return {**files, folder / "kustomization.yaml": _text(kustomization)}


def _components() -> dict[Path, str]:
    files = {}
    for name, (values, kinds) in _COMPONENTS.items():
        folder = KUSTOMIZE / "components" / name
        for manifest in rendered(merged(*values)):
            if manifest["kind"] in kinds:
                files[folder / kinds[manifest["kind"]]] = _text(_of_any_namespace(plain(manifest)))
        files[folder / "kustomization.yaml"] = _text(_component(kinds.values(), scales="ScaledObject" in kinds))
    return files


def _of_any_namespace(manifest: Manifest) -> Manifest:
    """Alerts that do not name the namespace, which kustomize does not know."""
    changed: Manifest = json.loads(json.dumps(manifest).replace(r",namespace=\"default\"", ""))
    return changed


def _component(files: Iterable[str], *, scales: bool) -> Manifest:
    component: Manifest = {
        "apiVersion": "kustomize.config.k8s.io/v1alpha1",
        "kind": "Component",
        "resources": sorted(files),
    }
    if scales:  # else each kubectl apply would set the number of replicas
        patch = "- op: remove\n  path: /spec/replicas\n"
        component["patches"] = [{"target": {"kind": "Deployment", "name": "crossvit"}, "patch": patch}]
    return component


def _text(manifest: Manifest) -> str:
    text: str = yaml.safe_dump(manifest, sort_keys=False, width=120)
    return _NOTE + text


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; the status is 1 if a file would change")
    check = parser.parse_args(argv).check
    files = generated()
    changed = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    for path in changed:
        print(path.relative_to(CHART.parents[2]))
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[path])
    return int(check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
