import argparse
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model.checkpoint import BadCheckpoint, Tensors, load_network, read_tensors
from model.spec import VARIANTS
from tests import rule

TINY = VARIANTS["crossvit_tiny"]


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    return rule.tensors(TINY, classes=5)


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def assert_loads(path: Path, tensors: Tensors) -> None:
    loaded = load_network(path, TINY).state_dict()
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_safetensors_with_timms_names(tmp_path: Path, tensors: Tensors) -> None:
    path = tmp_path / "model.safetensors"
    for_timm = {
        name.replace("pos_embed.", "pos_embed_").replace("cls_token.", "cls_token_"): tensor
        for name, tensor in tensors.items()
    }
    assert for_timm.keys() != tensors.keys()
    save_file(for_timm, path)
    assert_loads(path, tensors)


def test_a_flat_pth_as_ibm_releases_it(tmp_path: Path, tensors: Tensors) -> None:
    assert_loads(saved(tmp_path / "crossvit_tiny_224.pth", tensors), tensors)


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "model_ema"])
def test_a_training_checkpoint_with_everything_beside_the_weights(
    tmp_path: Path, tensors: Tensors, wrapper: str
) -> None:
    content = {
        wrapper: tensors,
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}},
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1, drop=None),
    }
    assert_loads(saved(tmp_path / "checkpoint.pth", content), tensors)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrapped_modules(tmp_path: Path, tensors: Tensors, prefix: str) -> None:
    assert_loads(saved(tmp_path / "x.pt", {prefix + name: tensor for name, tensor in tensors.items()}), tensors)


def test_half_precision_becomes_float32(tmp_path: Path, tensors: Tensors) -> None:
    halves = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    assert_loads(saved(tmp_path / "x.pt", halves), {name: tensor.float() for name, tensor in halves.items()})


def test_a_grid_of_384_is_read_off_the_tensors(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", rule.tensors(TINY, resolution=384))
    assert load_network(path, TINY).pos_embed[0].shape == (1, 1157, 96)


class Harmful:
    def __reduce__(self) -> tuple[object, ...]:
        return exec, ("raise SystemExit('code in a checkpoint was run')",)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, tensors: Tensors) -> None:
    path = saved(tmp_path / "x.pth", {"model": tensors, "extra": Harmful()})
    with pytest.raises(BadCheckpoint, match=r"holds more than tensors.*Save the state_dict alone"):
        load_network(path, TINY)
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(BadCheckpoint):
        load_network(tmp_path / "plain.pkl", TINY)


def test_another_variants_checkpoint_is_refused_with_the_one_that_fits(tmp_path: Path) -> None:
    path = rule.checkpoint(tmp_path, VARIANTS["crossvit_9"])
    with pytest.raises(BadCheckpoint) as caught:
        load_network(path, VARIANTS["crossvit_18_dagger"])
    message = str(caught.value)
    assert "crossvit_9.safetensors is not crossvit_18_dagger" in message
    assert "patch_embed.0.proj.0.weight is missing" in message
    assert "patch_embed.0.proj.weight is unexpected" in message
    assert "pos_embed.0 is (1, 401, 128), expected (1, 401, 224)" in message
    assert message.endswith("it fits --variant crossvit_9")


def test_a_shape_that_differs_is_named_with_both_shapes(tmp_path: Path, tensors: Tensors) -> None:
    path = saved(tmp_path / "x.pth", tensors | {"norm.0.weight": torch.zeros(97)})
    with pytest.raises(
        BadCheckpoint, match=r"norm\.0\.weight is \(97,\), expected \(96,\); it fits no variant|fits no"
    ):
        load_network(path, TINY)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"extra.weight": torch.zeros(1)}, "extra.weight is unexpected"),
        ({"pos_embed.0": torch.zeros(1, 300, 96)}, r"pos_embed.0 is \(1, 300, 96\), expected \(1, 401, 96\)"),
        ({"pos_embed.1": torch.zeros(1, 1, 192)}, r"pos_embed.1 is \(1, 1, 192\), expected \(1, 197, 192\)"),
        ({"pos_embed.1": torch.zeros(1, 0, 192)}, r"pos_embed.1 is \(1, 0, 192\), expected \(1, 197, 192\)"),
        ({"pos_embed.1": torch.zeros(3)}, r"pos_embed.1 is \(3,\), expected \(1, 197, 192\)"),
        ({"head.0.weight": torch.zeros(3)}, r"head.0.weight is \(3,\)"),
        ({"head.0.weight": torch.tensor(1.0)}, r"head.0.weight is \(\), expected \(1000, 96\)"),
        ({"head.0.weight": torch.zeros(0, 96)}, r"head.0.weight is \(0, 96\), expected \(1000, 96\)"),
        ({"norm.0.bias": torch.zeros(1).expand(1 << 40)}, r"norm.0.bias is \(1099511627776,\), expected \(96,\)"),
        ({"norm.0.bias": torch.zeros(96).to_sparse()}, "'norm.0.bias' is no plain tensor"),
    ],
)
def test_every_key_and_shape_must_fit(tmp_path: Path, tensors: Tensors, change: Tensors, difference: str) -> None:
    with pytest.raises(BadCheckpoint, match=difference):
        load_network(saved(tmp_path / "x.pth", tensors | change), TINY)


def test_a_missing_key_is_refused(tmp_path: Path, tensors: Tensors) -> None:
    path = saved(tmp_path / "x.pth", {name: tensor for name, tensor in tensors.items() if name != "head.1.bias"})
    with pytest.raises(BadCheckpoint, match=r"1 differences, the first: head\.1\.bias is missing"):
        load_network(path, TINY)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged"),
        (b"nonsense", "damaged|holds more than tensors"),
        (b"\x10\0\0\0\0\0\0\0{" + b"x" * 40, "damaged safetensors"),
        (b"PK\x03\x04" + b"x" * 40, "damaged"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(BadCheckpoint, match=message):
        read_tensors(path)


@pytest.mark.parametrize("content", [{}, {"model": {}}, [1, 2], {"a": 1}, {"a": torch.zeros(2, dtype=torch.long)}])
def test_a_file_without_weights_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(BadCheckpoint, match=r"holds no state_dict"):
        read_tensors(saved(tmp_path / "x.pth", content))


def test_values_that_are_not_finite_are_refused(tmp_path: Path, tensors: Tensors) -> None:
    path = saved(tmp_path / "x.pth", tensors | {"norm.0.bias": torch.full((96,), torch.nan)})
    with pytest.raises(BadCheckpoint, match=r"norm\.0\.bias has values that are not finite"):
        read_tensors(path)


def test_a_checkpoint_that_holds_itself_is_refused(tmp_path: Path) -> None:
    content: dict[str, object] = {}
    content["model"] = content
    with pytest.raises(BadCheckpoint, match="holds no state_dict"):
        read_tensors(saved(tmp_path / "x.pth", content))
