import json
import lzma
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from export.graphs import shipped_templates
from export.graphs.served_graph import make_inspection_template, make_template
from export.graphs.shipped_templates import (
    INSPECTION_SUFFIX,
    NETWORKS,
    RECORD,
    SHIPPED_TEMPLATES,
    SUFFIX,
    BadTemplate,
    network_of,
    recorded_logits,
    shipped_template,
    sources_sha256,
    template_record,
    templates_of,
)
from export.ship_templates import making_versions, template_bytes
from model.spec import VARIANTS, Variant
from tests.support.reference_network import TINY

EVERY_NETWORK = [TINY.name, *(pytest.param(name, marks=pytest.mark.exhaustive) for name in NETWORKS[1:])]


def test_every_variant_has_a_template_made_from_the_sources_as_they_are() -> None:
    record = template_record()
    now = sources_sha256()
    changed = [name for name in now if record.sources.get(name) != now[name]]
    assert not changed, f"{', '.join(changed)} changed since: run `make graphs`, and commit {SHIPPED_TEMPLATES}"
    networks = {network_of(variant) for variant in VARIANTS.values()}
    assert networks == set(record.templates) == set(record.inspection_templates)
    assert networks == set(record.worst) == set(record.inspection_worst)


@pytest.mark.parametrize("network", EVERY_NETWORK)
@pytest.mark.parametrize(("kind", "make"), [("served", make_template), ("inspection", make_inspection_template)])
def test_a_template_made_anew_is_the_one_that_ships(
    network: str, kind: str, make: Callable[[Variant], onnx.ModelProto]
) -> None:
    made_with = template_record().made_with
    if made_with != making_versions():
        pytest.skip(f"the templates that ship were made with {made_with}")
    shipped = templates_of(network)._asdict()[kind]
    assert template_bytes(make(VARIANTS[network])) == template_bytes(shipped)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_template_is_a_valid_model_without_weights(network: str) -> None:
    for template in templates_of(network):
        onnx.checker.check_model(template, full_check=True)
        assert max(len(tensor.raw_data) for tensor in template.graph.initializer) < 1000
    for suffix in (SUFFIX, INSPECTION_SUFFIX):
        assert (SHIPPED_TEMPLATES / f"{network}{suffix}").stat().st_size < 100_000


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(shutil.copytree(SHIPPED_TEMPLATES, tmp_path / "graphs"))
    monkeypatch.setattr(shipped_templates, "SHIPPED_TEMPLATES", folder)
    template_record.cache_clear()
    monkeypatch.setattr(shipped_templates, "template_record", template_record.__wrapped__)
    return folder


@pytest.mark.parametrize("damage", ["missing", "cut", "another", "of another network"])
def test_a_template_that_is_not_the_recorded_one_is_refused(copied: Path, damage: str) -> None:
    path = copied / f"{TINY.name}{SUFFIX}"
    match damage:
        case "missing":
            path.unlink()
        case "cut":
            path.write_bytes(path.read_bytes()[:-100])
        case "another":
            path.write_bytes(lzma.compress(lzma.decompress(path.read_bytes()) + b"\0"))
        case "of another network":
            shutil.copy(copied / f"crossvit_9{SUFFIX}", path)
    with pytest.raises(
        BadTemplate, match=r"crossvit_tiny.onnx.xz cannot be used \(.*\); install the package again, or"
    ):
        shipped_template(TINY.name)


def test_an_inspection_template_that_is_not_the_recorded_one_is_refused(copied: Path) -> None:
    shutil.copy(copied / f"crossvit_9{INSPECTION_SUFFIX}", copied / f"{TINY.name}{INSPECTION_SUFFIX}")
    with pytest.raises(BadTemplate, match=r"crossvit_tiny.inspection.onnx.xz cannot be used"):
        templates_of(TINY.name)


@pytest.mark.parametrize("damage", ["missing", "no JSON", "lacks keys"])
def test_a_record_that_is_damaged_is_refused(copied: Path, damage: str) -> None:
    path = copied / RECORD
    match damage:
        case "missing":
            path.unlink()
        case "no JSON":
            path.write_bytes(b"{")
        case "lacks keys":
            path.write_text(json.dumps({"sources": {}}))
    with pytest.raises(BadTemplate, match=r"record.json cannot be used"):
        shipped_template(TINY.name)


def test_logits_that_are_not_the_recorded_ones_are_refused(copied: Path) -> None:
    with (copied / "logits.npz").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(BadTemplate, match=r"logits.npz cannot be used \(its sha256 is not the one in record.json\)"):
        recorded_logits(TINY.name, 224)
