import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from model.stored.safetensors_file import read_safetensors
from model.stored.stored_tensor import StoredTensor, Unusable


@pytest.mark.parametrize(
    "value",
    [
        torch.arange(12.0).reshape(3, 4),
        torch.arange(4, dtype=torch.float64),
        torch.tensor(1.5, dtype=torch.bfloat16),
        torch.arange(4, dtype=torch.float32).to(torch.float8_e4m3fn),
        torch.tensor([True, False]),
        torch.arange(4, dtype=torch.int16),
        torch.zeros(0, 3),
    ],
)
def test_tensors_are_as_they_were_saved(tmp_path: Path, value: torch.Tensor) -> None:
    save_file({"before": torch.ones(3), "a": value}, tmp_path / "x.safetensors", {"format": "pt"})
    content = read_safetensors(tmp_path / "x.safetensors")
    assert content.keys() == {"a", "before"}
    stored = content["a"]
    assert isinstance(stored, StoredTensor)
    loaded = stored.load()
    assert f"torch.{loaded.dtype}" == str(value.dtype)
    np.testing.assert_array_equal(loaded.astype(np.float64), value.double().numpy(), strict=True)


def file_of(path: Path, dtype: str, shape: list[int], size: int) -> Path:
    """A file whose one tensor takes no room on the disk."""
    header = json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)
    return path


def test_values_are_read_only_when_they_are_asked_for(tmp_path: Path) -> None:
    stored = read_safetensors(file_of(tmp_path / "x.safetensors", "F32", [4_000_000_000], 16_000_000_000))["a"]
    assert isinstance(stored, StoredTensor)
    assert stored.shape == (4_000_000_000,)


def test_numbers_that_numpy_does_not_have_are_named(tmp_path: Path) -> None:
    path = file_of(tmp_path / "x.safetensors", "F4", [4], 2)
    assert read_safetensors(path) == {"a": Unusable("a tensor of F4")}


@pytest.mark.parametrize("size", [15, 17])
def test_a_header_that_does_not_fit_the_file_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(SafetensorError):
        read_safetensors(file_of(tmp_path / "x.safetensors", "F32", [4], size))


def test_bfloat16_is_ml_dtypes(tmp_path: Path) -> None:
    stored = read_safetensors(file_of(tmp_path / "x.safetensors", "BF16", [4], 8))["a"]
    assert isinstance(stored, StoredTensor)
    assert stored.dtype == ml_dtypes.bfloat16
