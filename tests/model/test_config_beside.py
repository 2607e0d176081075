import json
from pathlib import Path

import pytest

from model.config_beside import BadConfig, config_beside, labels_in, normalization_in
from model.spec import NORMALIZATIONS, VARIANTS

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
