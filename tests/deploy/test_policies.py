"""checkov's policies for Kubernetes, on what the chart makes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.chart import Manifest, rendered
from tests.support.chart_values import CASES, Values

CHECKOV = "checkov==3.3.30"  # whose pins would replace those of this project: uv gives it an environment of its own
DIGEST = {"digest": "sha256:" + "0" * 64}  # a tag can be moved: checkov asks for a digest, which only the user has

pytestmark = pytest.mark.exhaustive


def failed(manifests: list[Manifest], folder: Path) -> set[str]:
    """The checks that fail. The pod of `helm test`, which lives for seconds and serves nothing, is left out."""
    objects = [manifest for manifest in manifests if manifest["kind"] != "Pod"]
    (folder / "rendered.yaml").write_text(yaml.safe_dump_all(objects))
    words = [
        "--file",
        str(folder / "rendered.yaml"),
        "--framework",
        "kubernetes",
        "--output",
        "json",
        "--skip-download",
    ]
    command = [sys.executable, "-m", "uv", "tool", "run", CHECKOV, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if not done.stdout.startswith("{"):
        (pytest.fail if os.environ.get("TESTS_COMPLETE") else pytest.skip)(
            f"{CHECKOV} cannot be run: {done.stderr[-300:]}"
        )
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["summary"]["passed"] > 80
    return {f"{check['check_id']} {check['check_name']}" for check in report["results"]["failed_checks"]}


@pytest.mark.parametrize("case", ["default", "gpu engines", "keys"])
def test_no_policy_is_broken(case: str, tmp_path: Path) -> None:
    values: Values = CASES[case]
    assert (
        failed(rendered({**values, "image": {**values.get("image", {}), **DIGEST}}, "crossvit", "vision"), tmp_path)
        == set()
    )


def test_a_container_that_may_write_is_found(tmp_path: Path) -> None:
    manifests = rendered({"image": DIGEST}, "crossvit", "vision")
    (deployment,) = [manifest for manifest in manifests if manifest["kind"] == "Deployment"]
    deployment["spec"]["template"]["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] = False
    assert {text.split()[0] for text in failed(manifests, tmp_path)} == {"CKV_K8S_22"}
