import json
from pathlib import Path

import pytest

from export.inputs.export_request import ExportInputs, ExportOptions, ExportRequest, find_inputs
from model.config_beside import BadConfig
from model.spec import NORMALIZATIONS, VARIANTS, Preprocessing
from tests.support.hub_stand_in import running_hub, use_hub

TINY = VARIANTS["crossvit_tiny"]
SIDES = (240, 224)
CONFIG = {
    "architecture": "crossvit_tiny_240",
    "label_names": ["cat", "dog"],
    "pretrained_cfg": {
        "input_size": [3, 240, 240],
        "crop_pct": 0.875,
        "interpolation": "bilinear",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    },
}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"not read here")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return path


def found(weights: str | Path, said: list[str], options: ExportOptions | None = None) -> ExportInputs:
    options = options or ExportOptions()
    return find_inputs(ExportRequest(TINY, str(weights), None, Path("out"), options), said.append)


def test_a_config_beside_the_weights_gives_preprocessing_labels_and_statistics(weights: Path) -> None:
    said: list[str] = []
    inputs = found(weights, said)
    assert inputs.steps(SIDES) == {
        224: Preprocessing(274, 240),
        384: Preprocessing(384, 384),
        480: Preprocessing(480, 480),
    }
    assert inputs.normalization == NORMALIZATIONS["inception"]
    assert inputs.labels_beside == weights.with_name("config.json")
    assert said == [
        "note: config.json beside the weights asks for interpolation 'bilinear'; bicubic is used instead",
    ]


def test_options_come_before_a_config_and_resolutions_that_are_not_offered_stay_out(weights: Path) -> None:
    said: list[str] = []
    options = ExportOptions(preprocessing={224: Preprocessing(256, 224)}, normalization=NORMALIZATIONS["clip"])
    inputs = found(weights, said, options)
    assert inputs.steps(SIDES)[224] == Preprocessing(256, 224)
    assert inputs.normalization == NORMALIZATIONS["clip"]
    assert found(weights, said, ExportOptions(resolutions=(384,))).steps(SIDES) == {384: Preprocessing(384, 384)}


def test_a_share_that_is_none_is_refused(weights: Path) -> None:
    weights.with_name("config.json").write_text(
        json.dumps(CONFIG | {"pretrained_cfg": {"input_size": [3, 224, 224], "crop_pct": 7}})
    )
    with pytest.raises(BadConfig, match="give --preprocess"):
        found(weights, []).steps(SIDES)


def test_a_repository_of_the_hub_brings_its_config_and_the_official_weights_keep_the_papers_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"model.safetensors": b"not read here", "config.json": json.dumps(CONFIG).encode()}
    with running_hub() as hub:
        use_hub(hub.url, tmp_path, monkeypatch)
        hub.add(TINY.hub_repo, files)
        repository = found(f"hf:{TINY.hub_repo}", [])
        official = found("hub", [])
    assert repository.steps(SIDES)[224] == Preprocessing(274, 240)
    assert official.weights.path == repository.weights.path  # the config.json is beside them
    assert official.steps(SIDES)[224] == Preprocessing(256, 224)
    assert official.labels_beside is None
