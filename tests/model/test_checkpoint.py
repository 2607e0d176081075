import argparse
import pickle
import re
import sys
import time
import types
import zipfile
from collections.abc import Callable
from pathlib import Path, PosixPath, PureWindowsPath

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from model.checkpoint import BadCheckpoint, NetworkParameters, checkpoint_variants, read_parameters, read_tensors
from model.loaded_network import network_holding
from model.parameter_shapes import parameter_shapes
from model.spec import VARIANTS
from model.stored import state_dicts
from tests.support import reference_network

TINY = VARIANTS["crossvit_tiny"]
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    return reference_network.tensors(TINY, classes=5)


def network(tensors: Tensors) -> torch.nn.Module:
    return network_holding({name: tensor.numpy() for name, tensor in tensors.items()}, TINY)


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def assert_loads(path: Path, tensors: Tensors) -> None:
    loaded = read_parameters(path, TINY)
    assert list(loaded) == list(parameter_shapes(TINY, 5))
    assert are_values_of(loaded, tensors)


def are_values_of(loaded: NetworkParameters, tensors: Tensors) -> bool:
    return loaded.keys() == tensors.keys() and all(
        values.dtype == np.float32 and np.array_equal(values, tensors[name].numpy()) for name, values in loaded.items()
    )


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


@pytest.mark.parametrize("step", ["_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "module"])
def test_wrapped_modules_within_the_network(tmp_path: Path, tensors: Tensors, step: str) -> None:
    inner = {re.sub(r"^(blocks\.\d+)\.", rf"\1.{step}.", name): tensor for name, tensor in tensors.items()}
    inner = {re.sub(r"^(norm|head)\.", rf"\1.{step}.", name): tensor for name, tensor in inner.items()}
    assert inner.keys() != tensors.keys()
    assert_loads(saved(tmp_path / "x.pt", inner), tensors)


def test_names_that_only_a_wrapper_tells_apart_are_not_merged(tmp_path: Path, tensors: Tensors) -> None:
    both = tensors | {"head.module.1.bias": tensors["head.1.bias"] + 1}
    with pytest.raises(BadCheckpoint):
        read_parameters(saved(tmp_path / "x.pt", both), TINY)


def test_half_precision_becomes_float32(tmp_path: Path, tensors: Tensors) -> None:
    halves = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    assert_loads(saved(tmp_path / "x.pt", halves), {name: tensor.float() for name, tensor in halves.items()})


def test_a_grid_of_384_is_read_off_the_tensors(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", reference_network.tensors(TINY, resolution=384))
    assert read_parameters(path, TINY)["pos_embed.0"].shape == (1, 1157, 96)


class Settings:
    """A class that whoever loads the checkpoint does not have."""

    def __init__(self) -> None:
        self.output = PosixPath("/runs/1")


def behind(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def others(tensors: Tensors) -> Tensors:
    """Weights of the same network that are not `tensors`."""
    return {name: tensor + 1 for name, tensor in tensors.items()}


def without_head(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if name != "head.1.bias"}


def noted(path: Path, tensors: Tensors) -> list[str]:
    """What is said while `path` loads as `tensors`."""
    notes: list[str] = []
    assert are_values_of(read_parameters(path, TINY, notes.append), tensors)
    return notes


def test_arguments_of_any_class_beside_the_weights(
    tmp_path: Path, tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("not_installed")
    monkeypatch.setattr(Settings, "__module__", module.__name__)
    module.Settings = Settings  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    args = argparse.Namespace(output_dir=PosixPath("/x"), other=PureWindowsPath("c:/x"), settings=Settings())
    path = saved(tmp_path / "checkpoint.pth", {"model": tensors, "optimizer": {}, "epoch": 3, "args": args})
    monkeypatch.delitem(sys.modules, module.__name__)
    assert noted(path, tensors) == []


@pytest.mark.parametrize(
    "key", ["model_state_dict", "net", "network", "weights", "params", "student.backbone", "module"]
)
def test_weights_under_any_key(tmp_path: Path, tensors: Tensors, key: str) -> None:
    content: object = tensors
    for part in reversed(key.split(".")):
        content = {"epoch": 3, part: content, "optimizer_state_dict": {}, "loss": 0.4}
    assert noted(saved(tmp_path / "x.pt", content), tensors) == []


@pytest.mark.parametrize("prefix", ["model.", "backbone.", "net.module.", "_forward_module._orig_mod.encoder."])
def test_weights_behind_any_prefix_and_what_is_left_over_is_named(
    tmp_path: Path, tensors: Tensors, prefix: str
) -> None:
    state = behind(prefix, tensors) | {"criterion.weight": torch.ones(5), "accuracy.tp": torch.zeros(5).long()}
    content = {"state_dict": state, "pytorch-lightning_version": "2.5", "hyper_parameters": {"root": PosixPath("/x")}}
    path = saved(tmp_path / "last.ckpt", content)
    assert noted(path, tensors) == ["last.ckpt: passed over state_dict.criterion, state_dict.accuracy"]


def test_parts_of_training_beside_the_weights_are_named_but_another_layer_is_refused(
    tmp_path: Path, tensors: Tensors
) -> None:
    profiled = tensors | {"loss_fn.weight": torch.ones(5), "blocks.0.total_ops": torch.ones(1, dtype=torch.float64)}
    assert noted(saved(tmp_path / "x.pt", profiled), tensors) == ["x.pt: passed over loss_fn, *.total_ops"]
    with pytest.raises(BadCheckpoint, match=r"neck\.weight is unexpected"):
        read_parameters(saved(tmp_path / "x.pt", tensors | {"neck.weight": torch.ones(5)}), TINY)


@pytest.mark.parametrize(
    ("average", "raw"),
    [
        (("state_dict_ema",), ("state_dict",)),  # timm
        (("model_ema",), ("model",)),
        (("ema_model_state_dict",), ("model_state_dict",)),
        (("swa_model", "module"), ("model",)),  # torch.optim.swa_utils
        (("state_dict", "ema_model"), ("state_dict", "model")),
        (("modelEMA",), ("model",)),
        (("ema_model",), ("online_model",)),  # ema-pytorch
        (("expMovingAverage",), ("model",)),
    ],
)
def test_of_weights_and_their_average_the_average_is_taken_and_said(
    tmp_path: Path, tensors: Tensors, average: tuple[str, ...], raw: tuple[str, ...]
) -> None:
    content: dict[str, object] = {}
    for keys, state in ((raw, others(tensors)), (average, tensors)):
        content[keys[0]] = content.get(keys[0], {}) | behind(".".join((*keys[1:], "")), state)  # type: ignore[operator]
    first, *_ = noted(saved(tmp_path / "x.pt", content), tensors)
    assert first.startswith(f"x.pt: takes {'.'.join(average)}")
    assert first.endswith(f" and not {'.'.join(raw)}")


@pytest.mark.parametrize(
    ("mark", "raw"), [("message_hub", "ema_state_dict"), ("averaging_state", "current_model_state")]
)
def test_mmengine_and_lightning_have_the_average_where_others_have_the_weights(
    tmp_path: Path, tensors: Tensors, mark: str, raw: str
) -> None:
    content: dict[str, object] = {mark: {}, raw: behind("module.", others(tensors)), "state_dict": tensors}
    assert "takes state_dict, the moving average" in noted(saved(tmp_path / "x.pth", content), tensors)[0]
    content["state_dict"] = without_head(tensors)
    with pytest.raises(BadCheckpoint, match="holds a moving average under state_dict that is not taken"):
        read_parameters(saved(tmp_path / "x.pth", content), TINY)


@pytest.mark.parametrize(
    "beside",
    [
        {"optimizer": {"exp_avg": "named"}},
        {"optimizer": {"exp_avg": "named", "exp_avg_sq": "named"}},
        {"exp_avg": "named", "exp_avg_sq": "named"},
        {"optimizer": {"running_avg": "list"}},
        {"optimizer_states": [{"ema": "list"}]},
        {"optimizer_states": [{"ema": "named"}]},
        {"swa_opt": {"momentum": "list"}},
        {"gradEMA": "named"},
        {"moments": {"avg": "list"}},
    ],
)
def test_tensors_of_optimizers_and_gradients_are_not_read_as_weights(
    tmp_path: Path, tensors: Tensors, beside: dict[str, object]
) -> None:
    def filled(node: object) -> object:
        if isinstance(node, dict):
            return {key: filled(child) for key, child in node.items()}
        if isinstance(node, list):
            return list(map(filled, node))
        return others(tensors) if node == "named" else list(others(tensors).values())

    content = {"model": tensors} | {key: filled(child) for key, child in beside.items()}
    first, *_ = noted(saved(tmp_path / "x.pt", content), tensors)
    assert first.startswith(f"x.pt: passed over {next(iter(beside))}")


def test_a_file_of_an_optimizer_only_is_named_in_the_error(tmp_path: Path, tensors: Tensors) -> None:
    with pytest.raises(BadCheckpoint, match=r"belongs to an optimizer \(optimizer\): give the network's weights"):
        read_parameters(saved(tmp_path / "x.pt", {"optimizer": {"exp_avg": tensors}}), TINY)


def test_a_momentum_encoder_is_a_network(tmp_path: Path, tensors: Tensors) -> None:
    content = {"encoder": tensors, "momentum_encoder": others(tensors)}
    with pytest.raises(BadCheckpoint, match="different weights under encoder, momentum_encoder"):
        read_parameters(saved(tmp_path / "x.pt", content), TINY)


def test_an_average_that_is_a_list_is_taken_in_the_order_of_the_weights(tmp_path: Path, tensors: Tensors) -> None:
    content = {"model": others(tensors), "ema": {"decay": 0.9, "shadow_params": list(tensors.values())}}
    assert "takes ema.shadow_params" in noted(saved(tmp_path / "x.pt", content), tensors)[0]
    with pytest.raises(BadCheckpoint, match=r"holds tensors without names \(shadow_params\.0, "):
        read_parameters(saved(tmp_path / "y.pt", content["ema"]), TINY)


def test_an_average_that_is_a_list_is_in_the_order_of_the_network_where_the_weights_are_sorted(
    tmp_path: Path, tensors: Tensors
) -> None:
    alphabetical = {name: tensors[name] - 1 for name in sorted(tensors)}
    in_order = [parameter.detach() for parameter in network(tensors).parameters()]
    assert [tuple(value.shape) for value in in_order] != [tuple(value.shape) for value in alphabetical.values()]
    content = {"model": alphabetical, "ema": {"shadow_params": in_order}}
    assert "takes ema.shadow_params" in noted(saved(tmp_path / "x.pt", content), tensors)[0]


@pytest.mark.parametrize("change", ["fewer", "more", "reversed", "ambiguous"])
def test_an_average_that_is_a_list_in_no_order_that_is_known_is_refused(
    tmp_path: Path, tensors: Tensors, change: str
) -> None:
    values = list(others(tensors).values())
    model = dict(tensors)
    if change == "ambiguous":  # the file's order and the network's differ and have the same shapes
        one, other = "norm.0.weight", "norm.0.bias"
        swapped = {one: other, other: one}
        model = {name: tensors[name] for name in (swapped.get(name, name) for name in tensors)}
    else:
        values = {"fewer": values[:-1], "more": [*values, values[0]], "reversed": values[::-1]}[change]
    with pytest.raises(BadCheckpoint, match=r"moving average under ema\.shadow_params that is not taken.*those alone"):
        read_parameters(saved(tmp_path / "x.pt", {"model": model, "ema": {"shadow_params": values}}), TINY)


@pytest.mark.parametrize(
    "spoil",
    [
        without_head,
        lambda tensors: {"head.1.bias": tensors["head.1.bias"]},
        lambda tensors: {name.replace(".", ""): tensor for name, tensor in tensors.items()},  # as LitEma names them
        lambda tensors: torch.cat([tensor.flatten() for tensor in tensors.values()]),
    ],
)
def test_an_average_that_does_not_fit_is_refused_and_the_raw_weights_are_not_taken_for_it(
    tmp_path: Path, tensors: Tensors, spoil: Callable[[Tensors], object]
) -> None:
    path = saved(tmp_path / "x.pt", {"state_dict": tensors, "state_dict_ema": spoil(others(tensors))})
    with pytest.raises(BadCheckpoint, match="moving average under state_dict_ema that is not taken"):
        read_parameters(path, TINY)


def test_an_average_without_tensors_of_the_network_is_ignored(tmp_path: Path, tensors: Tensors) -> None:
    ema = {"decay": 0.9, "num_updates": torch.tensor(3), "shadow": {}, "loss": torch.zeros(7)}
    content = {"model": tensors, "ema": ema, "state_dict_ema": None}
    assert noted(saved(tmp_path / "x.pt", content), tensors) == ["x.pt: passed over ema (2 tensors)"]


@pytest.mark.parametrize(
    ("average", "raw"),
    [
        (("ema", "shadow"), ("ema", "backup")),
        (("ema", "shadow_params"), ("ema", "collected_params")),  # torch_ema
        (("ema", "ema_model"), ("ema", "online_model")),  # ema-pytorch
        (("ema", "params"), ("ema", "stored_params")),
    ],
)
@pytest.mark.parametrize("listed", [True, False])
def test_raw_weights_kept_inside_an_average_are_not_the_average(
    tmp_path: Path, tensors: Tensors, average: tuple[str, str], raw: tuple[str, str], *, listed: bool
) -> None:
    def form(state: Tensors) -> object:
        return list(state.values()) if listed else state

    ema = {raw[1]: form(others(tensors)), average[1]: form(tensors)}
    content = {"model": others(tensors), "ema": ema}
    assert f"takes {'.'.join(average)}, the moving average" in noted(saved(tmp_path / "x.pt", content), tensors)[0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("student", "teacher"),
        ("current", "previous"),
        ("online", "target"),
        ("live", "init"),
        ("net", "net_0_current"),
        ("removing", "keep"),
        ("moving", "fixed"),
        ("model_avg_pool", "model_cls"),
        ("model", "model_no_ema"),
    ],
)
def test_two_sets_of_weights_that_differ_are_refused_with_their_keys(
    tmp_path: Path, tensors: Tensors, one: str, other: str
) -> None:
    content = {one: tensors, other: others(tensors)}
    with pytest.raises(BadCheckpoint, match=f"different weights under {one}, {other}, and nothing says which"):
        read_parameters(saved(tmp_path / "x.pt", content), TINY)


def test_two_sets_of_weights_that_are_the_same_load(tmp_path: Path, tensors: Tensors) -> None:
    assert noted(saved(tmp_path / "x.pt", {"a": tensors, "b": dict(tensors)}), tensors) == []


def test_two_different_tensors_under_one_key_are_refused(tmp_path: Path, tensors: Tensors) -> None:
    bias = tensors["head.0.bias"]
    read_parameters(saved(tmp_path / "same.pt", {"model": tensors, "model.head.0.bias": bias}), TINY)
    with pytest.raises(
        BadCheckpoint, match=r"'head\.0\.bias' is not a plain tensor .*, but one of two tensors under this key"
    ):
        read_parameters(saved(tmp_path / "x.pt", {"model": tensors, "model.head.0.bias": bias + 1}), TINY)


def test_a_teacher_of_another_variant_is_passed_over(tmp_path: Path, tensors: Tensors) -> None:
    teacher = reference_network.tensors(VARIANTS["crossvit_9"], classes=5)
    path = saved(tmp_path / "x.pt", behind("teacher.", teacher) | behind("student.", tensors))
    assert noted(path, tensors) == [f"x.pt: passed over teacher ({len(teacher)} tensors)"]


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_module_is_read_without_its_class(tmp_path: Path, tensors: Tensors, *, zipped: bool) -> None:
    model = torch.nn.DataParallel(AveragedModel(network(tensors)))
    path = tmp_path / "model.pth"
    torch.save({"model": model, "epoch": 1}, path, _use_new_zipfile_serialization=zipped)
    assert noted(path, tensors) == ["model.pth: passed over model.module.n_averaged"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*TypedStorage:UserWarning")
def test_plain_pickles_of_tensors_and_of_arrays(tmp_path: Path, tensors: Tensors) -> None:
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    for content in (tensors, {"model": arrays, "matching_heuristics": True}):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(content))
        assert noted(tmp_path / "x.pkl", tensors) == []


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, torch.float8_e4m3fn])
def test_numbers_that_are_no_weights_are_refused_by_name(tmp_path: Path, tensors: Tensors, dtype: torch.dtype) -> None:
    path = saved(tmp_path / "x.pth", tensors | {"norm.0.bias": torch.zeros(96, dtype=dtype)})
    with pytest.raises(BadCheckpoint, match=f"'norm.0.bias' is not a plain tensor.* but a tensor of {str(dtype)[6:]}"):
        read_parameters(path, TINY)


def test_missing_and_different_heads_are_reported(tmp_path: Path, tensors: Tensors) -> None:
    headless = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    with pytest.raises(BadCheckpoint, match="has no head"):
        read_parameters(saved(tmp_path / "x.pth", headless), TINY)
    uneven = tensors | {"head.1.weight": torch.zeros(7, 192), "head.1.bias": torch.zeros(7)}
    with pytest.raises(BadCheckpoint, match=r"head.0.weight is \(5, 96\), head.1.weight \(7, 192\)"):
        read_parameters(saved(tmp_path / "x.pth", uneven), TINY)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer of Git LFS.*git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b'<?xml version="1.0"?>\n<net name="x" version="11">', "an OpenVINO model"),
        (b"404: Not Found", r"is text, not a checkpoint \('404: Not Found'\)"),
        (b"# CrossViT\n\nWeights of \xc3\xa9.\n" * 40, r"is text, not a checkpoint \('# CrossViT'\)"),
        (b"PAR1\x15\x04", r"Parquet"),
        (b"SQLite format 3\0", r"a database \(SQLite\)"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", "an image, sound or film"),
        (b"\0\0\0\x1cftypavif", "an image or film"),
        (b"GIF89a\1\0", "an image"),
        (b"\x08\x04\x12\x20\x0a\x06", "protocol buffer.*Core ML"),
        (b"\x0a\x3a\x0a\x05input\x12\x0bPlaceholder", "protocol buffer.*TensorFlow"),
        (b'{"error": "Not Found"}', "error message of a server"),
        (b'{"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}', "several files.*max_shard_size"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"GGUF\3\0\0\0", "GGUF"),
        (b"\x93NUMPY\1\0", "NumPy array"),
        (b"\x08\x0a\x12\x07pytorch", "ONNX graph"),
        (b"\x82\xa6params\x80", "MessagePack"),
        (bytes(257) + b"ustar\0", "tar archive"),
    ],
)
def test_an_error_names_the_kind_of_a_file_that_is_no_checkpoint(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(BadCheckpoint, match=message):
        read_parameters(tmp_path / "x.pth", TINY)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["m/data.pkl", "m/constants.pkl", "m/code/__torch__.py"], "TorchScript"),
        (["m/models/model.json"], r"torch\.export"),
        (["a.npy", "b.npy"], "npz"),
        (["config.json", "model.weights.h5"], "Keras"),
        (["best.pth"], "zip archive.*unpack it"),
    ],
)
def test_an_error_names_the_kind_of_an_archive_that_is_no_checkpoint(
    tmp_path: Path, names: list[str], message: str
) -> None:
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    with pytest.raises(BadCheckpoint, match=message):
        read_parameters(tmp_path / "x.pth", TINY)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": []}, "the state of an optimizer"),
        ({"base_model.model.blocks.0.qkv.lora_A.weight": torch.zeros(2)}, "adapter"),
        ({"state_dict": {"conv1.weight": torch.zeros(2)}}, r"its tensors are called state_dict\.conv1\.weight"),
        ({"\x1b[2J": torch.zeros(2)}, r"called \\x1b\[2J"),
    ],
)
def test_an_error_names_what_other_tensors_are(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(BadCheckpoint, match=message):
        read_parameters(saved(tmp_path / "x.pth", content), TINY)


@pytest.mark.parametrize("nest", [list, lambda pair: {"a": pair[0], "b": pair[1]}])
def test_a_small_file_that_is_endless_to_walk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nest: Callable[[list[object]], object]
) -> None:
    monkeypatch.setattr(state_dicts, "_MAX_STEPS", 10_000)
    content: object = {"x": torch.zeros(1)}
    for _ in range(60):
        content = nest([content, content])
    with pytest.raises(BadCheckpoint, match="more objects than a checkpoint"):
        read_parameters(saved(tmp_path / "x.pth", content), TINY)


class Harmful:
    def __reduce__(self) -> tuple[object, ...]:
        return exec, ("raise SystemExit('code in a checkpoint was run')",)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, tensors: Tensors) -> None:
    path = saved(tmp_path / "x.pth", {"model": tensors, "extra": Harmful()})
    with pytest.raises(BadCheckpoint, match=r"holds more than tensors.*Save only the state_dict"):
        read_parameters(path, TINY)
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(BadCheckpoint):
        read_parameters(tmp_path / "plain.pkl", TINY)


def test_another_variants_checkpoint_is_refused_with_the_one_that_fits(tmp_path: Path) -> None:
    path = reference_network.checkpoint(tmp_path, VARIANTS["crossvit_9"])
    with pytest.raises(BadCheckpoint) as caught:
        read_parameters(path, VARIANTS["crossvit_18_dagger"])
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
        read_parameters(path, TINY)


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
        ({"norm.0.bias": torch.zeros(96).to_sparse()}, "'norm.0.bias' is not a plain tensor"),
    ],
)
def test_every_key_and_shape_must_fit(tmp_path: Path, tensors: Tensors, change: Tensors, difference: str) -> None:
    with pytest.raises(BadCheckpoint, match=difference):
        read_parameters(saved(tmp_path / "x.pth", tensors | change), TINY)


def test_a_missing_key_is_refused(tmp_path: Path, tensors: Tensors) -> None:
    path = saved(tmp_path / "x.pth", {name: tensor for name, tensor in tensors.items() if name != "head.1.bias"})
    with pytest.raises(BadCheckpoint, match=r"1 differences, the first: head\.1\.bias is missing"):
        read_parameters(path, TINY)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged"),
        (b"nonsense", "is text"),
        (b"\x80\x02}q\x00(", "is damaged"),
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


@pytest.mark.parametrize("grids", [(40, 28), (30, 21)])
def test_a_checkpoint_of_another_size_keeps_its_positions(tmp_path: Path, grids: tuple[int, int]) -> None:
    tensors = {name: torch.zeros(shape) for name, shape in parameter_shapes(TINY, 3, grids).items()}
    loaded = read_parameters(saved(tmp_path / "x.pth", tensors), TINY)
    assert [loaded[f"pos_embed.{branch}"].shape[1] - 1 for branch in (0, 1)] == [grid**2 for grid in grids]


def test_a_file_whose_size_is_not_known_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pth").symlink_to("/proc/self/stat")
    with pytest.raises(BadCheckpoint, match=r"x\.pth"):
        read_parameters(tmp_path / "x.pth", TINY)


def test_one_array_that_stands_for_millions_is_refused_in_seconds(tmp_path: Path) -> None:
    array = pickle.dumps(np.zeros(2, np.float32), 2)[:-1]
    (tmp_path / "x.pkl").write_bytes(array + b"2\x86" * 30 + b".")
    started = time.process_time()
    with pytest.raises(BadCheckpoint, match="holds more than 50,000 tensors"):
        read_parameters(tmp_path / "x.pkl", TINY)
    assert time.process_time() - started < 8  # of some two


@pytest.mark.parametrize(
    ("variant", "grids", "expected"),
    [
        ("crossvit_9", (20, 14), "crossvit_9"),
        ("crossvit_15_dagger", (20, 14), "crossvit_15_dagger"),
        ("crossvit_15_dagger", (34, 24), "crossvit_15_dagger_384"),
        ("crossvit_18_dagger", (42, 30), "crossvit_18_dagger"),
        ("crossvit_18_dagger_384", (34, 24), "crossvit_18_dagger_384"),
    ],
)
def test_the_variant_of_a_checkpoint_is_that_of_its_shapes_and_grids(
    tmp_path: Path, variant: str, grids: tuple[int, int], expected: str
) -> None:
    shapes = parameter_shapes(VARIANTS[variant], 3, grids)
    path = saved(tmp_path / "x.pth", {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()})
    assert checkpoint_variants(path)[0].name == expected


def test_a_checkpoint_of_no_variant_has_none(tmp_path: Path, tensors: Tensors) -> None:
    with pytest.raises(BadCheckpoint, match="it fits no variant of CrossViT"):
        checkpoint_variants(saved(tmp_path / "x.pth", tensors | {"norm.0.weight": torch.zeros(97)}))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_safetensors_of_other_precisions_become_float32(tmp_path: Path, tensors: Tensors, dtype: torch.dtype) -> None:
    others = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    save_file(others, tmp_path / "x.safetensors")
    assert_loads(tmp_path / "x.safetensors", {name: tensor.float() for name, tensor in others.items()})


def test_values_beyond_float32_are_not_finite(tmp_path: Path, tensors: Tensors) -> None:
    path = saved(tmp_path / "x.pth", tensors | {"norm.0.bias": torch.full((96,), 1e300, dtype=torch.float64)})
    with pytest.raises(BadCheckpoint, match=r"norm\.0\.bias has values that are not finite"):
        read_tensors(path)


def test_safetensors_that_are_cut_off_are_refused(tmp_path: Path, tensors: Tensors) -> None:
    save_file(tensors, tmp_path / "x.safetensors")
    with (tmp_path / "x.safetensors").open("r+b") as file:
        file.truncate(100_000)
    with pytest.raises(BadCheckpoint, match="is a damaged safetensors file"):
        read_tensors(tmp_path / "x.safetensors")
