import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.stored.pickled import Malformed, Object
from model.stored.stored_tensor import StoredTensor, Unusable
from model.stored.torch_file import from_numpy, read_torch_file


def tensor(path: Path, key: str = "a") -> NDArray[Any]:
    with path.open("rb") as file:
        content = read_torch_file(file)
    assert isinstance(content, dict)
    value = content[key]
    if isinstance(value, Object):
        value = from_numpy(value)
    assert isinstance(value, StoredTensor)
    return value.load()  # numbers that NumPy lacks are ml_dtypes'


FORMS = (
    torch.arange(12.0).reshape(3, 4),
    torch.arange(12.0).reshape(3, 4).T,
    torch.arange(12.0)[5:9],
    torch.arange(12, dtype=torch.float64)[::2],
    torch.tensor(1.5, dtype=torch.bfloat16),
    torch.nn.Parameter(torch.ones(3)),
    torch.zeros(0, 3),
    torch.arange(4, dtype=torch.float32).to(torch.float8_e4m3fn),
    torch.view_as_complex(torch.arange(6.0).reshape(3, 2)).conj().imag,  # has the bit that its values are negative
)


@pytest.mark.parametrize("value", FORMS)
@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_are_as_they_were_saved(tmp_path: Path, value: torch.Tensor, *, zipped: bool) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": value, "other": object}, path, _use_new_zipfile_serialization=zipped)
    loaded = tensor(path)
    assert f"torch.{loaded.dtype}" == str(value.dtype)
    np.testing.assert_array_equal(loaded.astype(np.float64), value.detach().double().numpy(), strict=True)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_plain_pickles_of_tensors_and_arrays(tmp_path: Path, protocol: int) -> None:
    value = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"a": torch.from_numpy(value.copy()), "b": value, "c": value + 1}, protocol))
    assert all(np.array_equal(tensor(path, key), value + (key == "c")) for key in "abc")


def archive(path: Path, data: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("a/data.pkl", data)
        file.writestr("a/data/0", bytes(16))
    return path


def view(shape: bytes, stride: bytes, offset: bytes = b"K\0", key: bytes = b"0") -> bytes:
    """A dictionary with a tensor of four numbers that claims to be so."""
    saved = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" + key + b"X\3\0\0\0cpuK\4tQ"
    return b"\x80\2}X\1\0\0\0actorch._utils\n_rebuild_tensor_v2\n(" + saved + offset + shape + stride + b"\x89}tRs."


BIG = b"\x8a\x08" + struct.pack("<q", 1 << 61)


@pytest.mark.parametrize(
    "data",
    [
        view(b"K\5\x85", b"K\1\x85"),
        view(b"K\4\x85", b"K\1\x85", offset=b"K\1"),
        view(b"K\2\x85", BIG + b"\x85"),
        view(b"K\x40\x85", b"K\0\x85"),
        view(BIG + b"\x85", b"K\0\x85"),
        view(BIG + BIG + b"\x86", b"K\0K\0\x86"),
        view(b"J\xff\xff\xff\xff\x85", b"K\1\x85"),
        view(b"K\4\x85", b"K\1\x85", offset=b"J\xff\xff\xff\xff"),
        view(b"K\4\x85", b")"),
        view(b"K\4\x85", b"K\1\x85", key=b"9"),
    ],
)
def test_tensors_larger_than_the_file_are_refused(tmp_path: Path, data: bytes) -> None:
    assert tensor(archive(tmp_path / "ok.pt", view(b"K\4\x85", b"K\1\x85"))).shape == (4,)
    with pytest.raises(Malformed):
        tensor(archive(tmp_path / "x.pt", data))


def test_compressed_archives_are_refused_before_they_are_inflated(tmp_path: Path) -> None:
    with pytest.raises(Malformed, match="compressed"):
        tensor(archive(tmp_path / "x.pt", bytes(50_000_000), zipfile.ZIP_DEFLATED))


def test_the_older_format_with_sizes_that_lie_or_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": torch.zeros(400)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for data in (whole[:-40], whole.replace(struct.pack("<q", 400), struct.pack("<q", 1 << 60))):
        path.write_bytes(data)
        with pytest.raises(Malformed, match="cut off"):
            tensor(path)


def test_a_checksum_that_was_left_out_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(4)}, path)
    finally:
        torch.serialization.set_crc32_options(before)
    assert np.array_equal(tensor(path), np.ones(4))


@pytest.mark.parametrize("zipped", [True, False])
def test_bits_that_say_that_values_are_not_those_stored_are_refused_by_name(tmp_path: Path, *, zipped: bool) -> None:
    path = tmp_path / "x.pt"
    value = torch.view_as_complex(torch.arange(6.0).reshape(3, 2)).conj()
    torch.save({"a": value}, path, _use_new_zipfile_serialization=zipped)
    with path.open("rb") as file:
        content = read_torch_file(file)
    assert content == {"a": Unusable("a tensor whose values are not those stored (conj); save its clone()")}


def test_an_array_of_big_endian_numbers_is_called_so(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"a": np.ones(3, dtype=">f4")}))
    with path.open("rb") as file:
        content = read_torch_file(file)
    assert isinstance(content, dict)
    unusable = from_numpy(content["a"])
    assert isinstance(unusable, Unusable)
    assert "big-endian NumPy array" in unusable.what


def test_a_file_of_proc_is_refused() -> None:
    with Path("/proc/self/stat").open("rb") as file, pytest.raises(Malformed, match="copy it to a file"):
        read_torch_file(file)


def test_bytes_that_are_once_in_the_file_are_made_once(tmp_path: Path) -> None:
    text = b"X\xe8\x03\0\0" + b"a" * 1000 + b"q\x01"
    use = b"h\0h\x01h\x02\x86R"
    data = b"\x80\x02c_codecs\nencode\nq\0" + text + b"X\x06\0\0\0latin1q\x02](" + use * 2 + b"e."
    (tmp_path / "x.pkl").write_bytes(data)
    with (tmp_path / "x.pkl").open("rb") as file:
        found = read_torch_file(file)
    assert isinstance(found, list)
    one, other = found
    assert one == b"a" * 1000
    assert one is other
