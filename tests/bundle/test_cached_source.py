from pathlib import Path

import pytest

from bundle.cached_source import BadSource, cached_source


@pytest.mark.parametrize("name", ["crossvit_18_dagger", "CrossViT-18-dagger", "timm/crossvit_18_dagger_240.in1k"])
def test_all_names_of_a_network_are_one_source(name: str) -> None:
    source = cached_source(name)
    assert (source.identity, source.model, source.fixed) == ("crossvit_18_dagger", "crossvit_18_dagger", True)
    assert source.files() == {}


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("finetuned.pth", "finetuned"),
        ("flowers/model.safetensors", "flowers"),
        ("flowers/pytorch_model.bin", "flowers"),
        ("runs/pets.v2.safetensors", "pets"),
        ("run 3/epoch=7.best.ckpt", "epoch-7"),
        ("flowers", "flowers"),
    ],
)
def test_a_checkpoint_has_the_name_of_its_file_or_of_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, model: str
) -> None:
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_bytes(b"weights") if "." in path else (tmp_path / path).mkdir()
    monkeypatch.chdir(tmp_path)
    assert cached_source(path).model == model
    assert cached_source(path) == cached_source(str(tmp_path / path))


def test_what_lies_beside_a_checkpoint_belongs_to_it(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    before = cached_source(str(weights)).files()
    assert before == {str(weights): (7, weights.stat().st_mtime_ns)}
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.labels.json").write_text("[]")
    (tmp_path / "notes.txt").write_text("no part of it")
    after = cached_source(str(weights)).files()
    assert after.keys() - before.keys() == {str(tmp_path / "config.json"), str(tmp_path / "model.labels.json")}


@pytest.mark.parametrize(
    ("text", "fixed"), [("hf:me/flowers", False), ("hf:me/flowers@main", False), (f"hf:me/flowers@{'a1' * 20}", True)]
)
def test_only_a_commit_of_the_hub_stays_what_it_is(text: str, fixed: bool) -> None:
    source = cached_source(text)
    assert (source.model, source.fixed, source.checkpoint) == ("flowers", fixed, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crossvit_18_dager", r"not a file or folder, and not a network.*the nearest: crossvit_18_dagger"),
        (
            "/nowhere/x.pth",
            r"there is no /nowhere/x.pth: give a checkpoint, a bundle, the name of a network, or hf:OWNER",
        ),
        ("crossvit_9_224.pth", r"there is no crossvit_9_224.pth"),  # IBM's file, which is not here
        ("hf:flowers", r"hf:flowers names no repository of the hub: write hf:OWNER/REPOSITORY\[@REVISION\]"),
        ("hf:me/flowers@", r"names no repository of the hub"),
    ],
)
def test_what_is_no_source_is_refused_with_what_would_do(text: str, message: str) -> None:
    with pytest.raises(BadSource, match=message):
        cached_source(text)
