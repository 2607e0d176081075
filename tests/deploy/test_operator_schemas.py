"""What KEDA's and the Prometheus Operator's own schemas say of the chart's objects; unknown fields they let pass."""

import copy
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.chart import CHART, Manifest, rendered
from tests.support.chart_values import CASES

PACKAGES = ("@kubernetes-models/keda@0.4.2", "@kubernetes-models/prometheus-operator@5.0.1")
KINDS = ("PrometheusRule", "ScaledObject", "ServiceMonitor")
NODE, NPM = shutil.which("node") or "", shutil.which("npm") or ""

pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.skipif(not (NODE and NPM), reason="node and npm are not installed"),
]


@pytest.fixture(scope="session")
def schemas(shared: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """A folder with the schemas as packages of npm."""

    def install(folder: Path) -> None:
        words = [NPM, "install", "--no-audit", "--no-fund", "--prefix", str(folder), *PACKAGES]
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
        (folder / "error").write_text(done.stderr if done.returncode else "")

    folder = shared("operator-schemas", install)
    if error := (folder / "error").read_text():
        pytest.skip(f"the schemas cannot be installed: {error[-300:]}")
    return folder


@pytest.fixture
def objects() -> dict[str, Manifest]:
    made = {manifest["kind"]: manifest for manifest in rendered(CASES["keda"])}
    return {kind: made[kind] for kind in KINDS}


def complaints(schemas: Path, manifests: list[Manifest]) -> list[str]:
    script = Path(shutil.copy(Path(__file__).with_name("operator_schemas.mjs"), schemas))  # node looks beside it
    done = subprocess.run([NODE, str(script)], input=json.dumps(manifests), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return [complaint for _, complaint in found]


def test_the_operators_take_what_the_chart_makes(schemas: Path, objects: dict[str, Manifest]) -> None:
    monitor = yaml.safe_load((CHART.parents[1] / "kserve" / "pod-monitor.yaml").read_text())
    assert complaints(schemas, [*objects.values(), monitor]) == ["", "", "", ""]


def test_a_wrong_type_and_a_missing_field_are_found(schemas: Path, objects: dict[str, Manifest]) -> None:
    wrong, incomplete = (copy.deepcopy(objects["ScaledObject"]) for _ in range(2))
    wrong["spec"]["maxReplicaCount"] = "ten"
    del incomplete["spec"]["scaleTargetRef"]
    first, second = complaints(schemas, [wrong, incomplete])
    assert "maxReplicaCount" in first
    assert "scaleTargetRef" in second
