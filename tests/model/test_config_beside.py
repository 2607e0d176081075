import json
from pathlib import Path

import pytest

from model.config_beside import (
    BadConfig,
    config_beside,
    config_variant,
    done_otherwise,
    labels_in,
    normalization_in,
    preprocessing_in,
)
from model.spec import NORMALIZATIONS, VARIANTS, Preprocessing

TINY = VARIANTS["crossvit_tiny"]
TIMM = {"architecture": "crossvit_tiny_240", "num_classes": 2, "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}


def beside(folder: Path, content: object) -> Path:
    (folder / "config.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / "model.safetensors"


def test_timms_config_beside_a_checkpoint_is_read(tmp_path: Path) -> None:
    config = config_beside(beside(tmp_path, TIMM | {"label_names": ["cat", "dog"]}), TINY)
    assert config is not None
    assert normalization_in(config) == NORMALIZATIONS["inception"]
    assert labels_in(config)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", TIMM | {"architecture": "crossvit_9_240"}, TIMM | {"architecture": "vit"}, {"architecture": 1}],
)
def test_a_file_of_another_network_or_kind_is_passed_over(tmp_path: Path, content: object) -> None:
    assert config_beside(beside(tmp_path, content), TINY) is None


def test_without_a_config_there_are_no_statistics(tmp_path: Path) -> None:
    assert config_beside(tmp_path / "model.safetensors", TINY) is None
    assert normalization_in({"architecture": "crossvit_tiny_240"}) is None


@pytest.mark.parametrize("mean", [[123.7, 116.3, 103.5], [0.5], ["a", "b", "c"], 0.5])
def test_impossible_statistics_are_refused(mean: object) -> None:
    with pytest.raises(BadConfig, match="give them with --mean and --std"):
        normalization_in({"mean": mean, "std": [0.5, 0.5, 0.5]})


def test_the_network_that_a_config_names_is_known_without_asking_for_one(tmp_path: Path) -> None:
    assert (
        config_variant(beside(tmp_path, {"architecture": "crossvit_15_dagger_408"}))
        == VARIANTS["crossvit_15_dagger_384"]
    )
    assert config_variant(beside(tmp_path, {"architecture": "resnet50"})) is None
    assert config_variant(tmp_path / "elsewhere" / "model.safetensors") is None


@pytest.mark.parametrize(
    ("cfg", "sides", "expected"),
    [
        ({"input_size": [3, 240, 240], "crop_pct": 0.875}, (240, 224), {224: Preprocessing(274, 240)}),
        ({"input_size": [3, 240, 240]}, (240, 224), {224: Preprocessing(274, 240)}),  # timm's crop_pct without one
        ({"input_size": [3, 224, 224], "crop_pct": 0.9}, (240, 224), {224: Preprocessing(248, 224)}),
        ({"input_size": [3, 408, 408], "crop_pct": 1.0}, (408, 384), {384: Preprocessing(408, 408)}),
        ({"input_size": [3, 240, 240], "crop_pct": 0.875}, (408, 384), {224: Preprocessing(274, 240)}),
        ({"input_size": [3, 360, 360], "crop_pct": 1}, (360, 336), {336: Preprocessing(360, 360)}),
        ({"input_size": [3, 240, 240], "crop_pct": 1}, (360, 336), {}),
        ({"input_size": [3, 240, 320]}, (240, 224), {}),
        ({"input_size": 240}, (240, 224), {}),
        ({"input_size": [3, 10**9, 10**9]}, (240, 224), {}),
        ({"crop_pct": 0.9}, (240, 224), {}),
    ],
)
def test_timms_size_and_share_are_resizing_and_cropping_at_their_resolution(
    cfg: dict[str, object], sides: tuple[int, int], expected: dict[int, Preprocessing]
) -> None:
    assert preprocessing_in({"pretrained_cfg": cfg}, sides) == expected
    assert preprocessing_in(cfg, sides) == expected


@pytest.mark.parametrize("share", [0, 1.5, -1, "0.875", None, [1], float("nan")])
def test_an_impossible_share_is_refused(share: object) -> None:
    with pytest.raises(BadConfig, match="is no share of an image; give --preprocess"):
        preprocessing_in({"input_size": [3, 240, 240], "crop_pct": share}, (240, 224))


def test_what_is_done_otherwise_is_said() -> None:
    assert list(done_otherwise({"pretrained_cfg": {"interpolation": "bicubic", "crop_mode": "center"}})) == []
    assert list(done_otherwise({"pretrained_cfg": {"interpolation": "bilinear", "crop_mode": "squash"}})) == [
        "config.json beside the weights asks for interpolation 'bilinear'; bicubic is used instead",
        "config.json beside the weights asks for crop_mode 'squash'; center is used instead",
    ]
