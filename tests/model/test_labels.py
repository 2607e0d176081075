import json
from pathlib import Path

import pytest

from model.labels import BadLabels, labels_for


def written(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_imagenets_classes_are_in_index_order() -> None:
    labels = labels_for(None, 1000)
    assert [label["index"] for label in labels] == list(range(1000))
    wnids = [str(label["wnid"]) for label in labels]
    assert wnids == sorted(wnids)  # ImageNet-1k's indices are the order of the wnids
    assert labels[281] == {"index": 281, "wnid": "n02123045", "label": "tabby"}
    assert [label["index"] for label in labels if label["label"] == "crane"] == [134, 517]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.txt", "cat\ndög\n"),
        ("labels.txt", "\ufeffcat\r\n dög \r\n\r\n"),
        ("labels.json", ["cat", "dög"]),
        ("labels.json", [{"label": "cat"}, {"label": "dög", "wnid": None}]),
        ("id2label.json", {"1": "dög", "0": "cat"}),
    ],
)
def test_a_users_own_labels(tmp_path: Path, name: str, content: object) -> None:
    assert labels_for(written(tmp_path / name, content), 2) == [
        {"index": 0, "wnid": None, "label": "cat"},
        {"index": 1, "wnid": None, "label": "dög"},
    ]


def test_wnids_are_kept(tmp_path: Path) -> None:
    path = written(tmp_path / "labels.json", [{"label": "tench", "wnid": "n01440764"}])
    assert labels_for(path, 1)[0]["wnid"] == "n01440764"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "cat\n", "a.txt has 1 labels, but the head has 2 classes"),
        ("a.txt", "cat\n\ndog\n", "has 3 labels"),
        ("a.txt", "\ndog\n", "the label of index 0 is no name"),
        ("a.json", "[1, 2]", "the label of index 0 is no name"),
        ("a.json", '["a", {"wnid": "n1"}]', "the label of index 1 is no name"),
        ("a.json", '[{"label": "a", "wnid": 3}, "b"]', "the label of index 0 is no name"),
        ("a.json", '["a",', "a.json is not JSON: line 1, column 6"),
        ("a.json", '"a"', "must be a list"),
        ("a.json", "[" * 100_000, "is nested too deeply"),
        ("a.json", '["\\ud800", "b"]', "the label of index 0 is no name"),
        ("a.json", '{"1": "a", "2": "b"}', "none for index 0"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(BadLabels, match=message):
        labels_for(written(tmp_path / name, content), 2)


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(BadLabels, match="No such file"):
        labels_for(tmp_path / "nowhere", 2)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadLabels, match="is not UTF-8 text"):
        labels_for(tmp_path / "binary.txt", 2)


def test_a_head_that_is_not_imagenets_needs_labels() -> None:
    with pytest.raises(BadLabels, match=r"the head has 37 classes.*--labels FILE"):
        labels_for(None, 37)
