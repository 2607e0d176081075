import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bundle.plan_manifest import PlanManifest, write_plan_manifest
from tests.support.agreements import GOOD
from tests.support.plans import passport


def test_a_written_plan_manifest_is_read_unchanged(tmp_path: Path) -> None:
    read = PlanManifest.model_validate_json(json.dumps(passport(b"graph")))
    assert (read.resolution, read.side, read.precision, read.batch_sizes) == (224, 224, "fp16", (1, 8, 32))
    assert read.proof is not None
    assert read.proof == [GOOD]
    assert PlanManifest.model_validate_json(read.model_dump_json()) == read
    write_plan_manifest(tmp_path, read)
    assert PlanManifest.model_validate_json((tmp_path / "passport.json").read_bytes()) == read
    assert json.loads((tmp_path / "passport.json").read_bytes()) == passport(b"graph") | {"least_sizes": []}


@pytest.mark.parametrize("change", [{"proof": "none"}, {"built": 5}, {"attention": []}, {"optimization_level": "x"}])
def test_an_invalid_value_that_is_for_people_is_read_as_missing(change: dict[str, Any]) -> None:
    read = PlanManifest.model_validate_json(json.dumps(passport(b"graph", **change)))
    assert read.model_dump()[next(iter(change))] is None


def test_plans_are_the_same_for_whatever_driver_and_proof() -> None:
    one = PlanManifest.model_validate_json(json.dumps(passport(b"graph")))
    other = one.model_copy(update={"driver": "590.1", "cuda": "14.0", "proof": None, "plan_sha256": "0" * 64})
    assert one.same_plan_as(other)
    assert not one.same_plan_as(one.model_copy(update={"tensorrt": "11.0"}))


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"resolution": "224"},
        {"side": 0},
        {"precision": "int8"},
        {"batch_sizes": []},
        {"batch_sizes": [0, 1]},
        {"batch_sizes": [8, 1]},
        {"batch_sizes": [1, 1]},
        {"least_sizes": [0, 1, 2]},
        {"graph_sha256": "0" * 63},
        {"plan_sha256": "G" * 64},
        {"plan_sha256": "0" * 64 + "\n"},
        {"plan_bytes": 0},
        {"plan_bytes": 1 + (1 << 36)},
        {"batch_sizes": [1, 4097]},
        {"least_sizes": [1, 2, 4097]},
        {"tensorrt": "10.x"},
        {"tensorrt": "10.13.3.9.post"},
        {"tensorrt": "10.13.3.9.dev1"},
        {"version_compatible": "yes"},
        {"gpu": ""},
        {"gpu": "H100\n"},
        {"gpu": "H100\x1b[2J"},
        {"gpu": "Ｈ100"},  # noqa: RUF001
        {"driver": "580\n.1"},
        {"cuda": "13\u202e.0"},
        {"compute_capability": "9"},
    ],
)
def test_an_invalid_value_that_the_service_reads_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(change))):
        PlanManifest.model_validate_json(json.dumps(passport(b"graph", **change)))


@pytest.mark.parametrize("version", ["10.16.1.11", "10.13.3.9.post1", "10.14.1.48.post12"])
def test_versions_may_be_packaged_again(version: str) -> None:
    assert PlanManifest.model_validate_json(json.dumps(passport(b"graph", tensorrt=version))).tensorrt == version


def test_least_sizes_may_be_there() -> None:
    written = passport(b"graph", least_sizes=[1, 2, 9])
    assert PlanManifest.model_validate_json(json.dumps(written)).least_sizes == (1, 2, 9)


def test_a_required_key_must_not_be_missing() -> None:
    for name in (name for name, field in PlanManifest.model_fields.items() if field.is_required()):
        written = passport(b"graph")
        del written[name]
        with pytest.raises(ValidationError, match=name):
            PlanManifest.model_validate_json(json.dumps(written))
