"""A service of two models with a gRPC port, which the tests of this folder share."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.grpc_ports import GrpcServer, serving_grpc

ENGINE = ("--engine", "onnxruntime", "--precision", "f32", "--max-images", "8", "--max-body-bytes", "3000000")
ADMIN_KEY = "the-key-of-the-admin"


@pytest.fixture(scope="package")
def served(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpcServer]:
    """Everybody may classify; an admin key is needed to load models. "other" is for loading and unloading."""
    folder = tmp_path_factory.mktemp("models")
    for name in (bundle.name, "other"):
        shutil.copytree(bundle, folder / name)
    options = ["--bundle", str(folder), "--default-model", bundle.name, "--admin-keys", f"root:{ADMIN_KEY}"]
    with serving_grpc(tmp_path_factory.mktemp("log") / "log", *options, *ENGINE) as server:
        server.http.wait_until_ready()
        server.http.wait_until_ready(path="/v2/models/other/ready")
        yield server


@pytest.fixture(scope="package")
def admin() -> dict[str, str]:
    return {"authorization": f"Bearer {ADMIN_KEY}"}


@pytest.fixture(scope="package")
def slow(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpcServer]:
    """A service that answers four images a second, one after the other, with room for 32, and two open streams."""
    options = ["--bundle", str(bundle), "--engine", "null", "--null-rate", "4", "--max-batch", "1"]
    options += ["--max-queue", "32", "--max-images", "8", "--max-body-bytes", "4400000"]
    options += ["--max-bodies-bytes", "8800000", "--body-seconds", "1.5", "--request-seconds", "30"]
    with serving_grpc(tmp_path_factory.mktemp("slow") / "log", *options) as server:
        server.http.wait_until_ready()
        yield server
