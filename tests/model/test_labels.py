import json
import time
from collections.abc import Callable
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


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "0 cat\n1 dog\n"),
        ("a.txt", "0: cat\n1: dog\n"),
        ("a.txt", "0,cat\n1,dog\n"),
        ("a.txt", "0=cat\n1=dog\n"),
        ("a.txt", "0 -> cat\n1 -> dog\n"),
        ("a.txt", "1\tdog\n0\tcat\n"),
        ("a.txt", "000 cat\n001 dog\n"),
        ("a.txt", "cat 0\ndog 1\n"),
        ("a.txt", "dog: 1\ncat: 0\n"),
        ("a.txt", '"0","cat"\n"1","dog"\n'),
        ("a.txt", '"cat",\n"dog",\n'),
        ("a.txt", "- cat\n- dog\n"),
        ("a.txt", "['cat', 'dog']"),
        ("a.txt", "{0: 'cat',\n 1: \"dog\"}"),
        ("a.json", "{0: 'cat', 1: 'dog',}"),
        ("a.py", "classes = ['cat', 'dog']\n"),
        ("a.txt", "cat\rdog\r"),
        ("a.json", {"cat": 0, "dog": 1}),
        ("a.json", {"dog": "1", "cat": "0"}),
        ("a.json", {"class_to_idx": {"cat": 0, "dog": 1}}),
        ("config.json", {"model_type": "vit", "id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 0, "dog": 1}}),
        ("config.json", {"architecture": "crossvit_9_240", "num_classes": 2, "label_names": ["cat", "dog"]}),
        ("a.json", [{"id": 1, "name": "dog"}, {"id": 0, "name": "cat"}]),
        ("a.json", [{"label": 0, "name": "cat"}, {"label": 1, "name": "dog"}]),
        ("a.json", {"0": {"name": "cat"}, "1": {"name": "dog"}}),
        ("a.json", [{"value": "cat"}, {"value": "dog"}]),
        ("a.json", {"categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]}),
        ("a.csv", "index,name\n1,dog\n0,cat\n"),
        ("a.csv", "label,name\n0,cat\n1,dog\n"),
        ("a.csv", "Class Name;Class ID\ncat;0\ndog;1\n"),
        ("a.csv", ",label\n0,cat\n1,dog\n"),
        ("a.csv", "name\ncat\ndog\n"),
        ("a.csv", "cat\ndog\n"),
        ("a.tsv", "id\tname\tcount\n0\tcat\t7\n1\tdog\t5\n"),
        ("a.txt", "id,name\n0,cat\n1,dog\n"),
        ("data.yaml", "path: data\nnc: 2\nnames:\n  0: cat\n  1: dog\n"),
        ("data.yaml", "names: [cat, 'dog']  # two\n"),
        ("data.yml", "names:\n- cat\n- dog\n"),
        (
            "a.pbtxt",
            'item { name: "/m/01" id: 0 display_name: "cat" }\nitem { name: "/m/02" id: 1 display_name: "dog" }',
        ),
        ("a.jsonl", '{"id": 1, "name": "dog"}\n{"id": 0, "name": "cat"}\n'),
        ("a.jsonl", '[0, "cat"]\n[1, "dog"]\n'),
        ("a.txt", "('cat', 'dog')"),
        ("a.txt", "OrderedDict([('dog', 1), ('cat', 0)])"),
        ("a.txt", "dict_keys(['cat', 'dog'])"),
        ("a.txt", "array(['cat', 'dog'], dtype='<U3')"),
        ("a.txt", "Index(['cat',\n 'dog'], dtype='object')"),
        ("a.json", {"name": {"1": "dog", "0": "cat"}}),
        ("a.json", {"id": {"0": 1, "1": 0}, "name": {"0": "dog", "1": "cat"}}),
        ("a.json", {"columns": ["name"], "index": [0, 1], "data": [["cat"], ["dog"]]}),
        ("a.json", {"columns": ["id", "name"], "index": [0, 1], "data": [[1, "dog"], [0, "cat"]]}),
        ("a.json", {"schema": {}, "data": [{"index": 0, "name": "cat"}, {"index": 1, "name": "dog"}]}),
        ("a.json", [["cat"], ["dog"]]),
        ("a.json", [[1, "dog"], [0, "cat"]]),
        ("a.json", [["cat", 0], ["dog", 1]]),
        ("a.json", {"0.0": "cat", "1.0": "dog"}),
        ("a.json", {"dog": 1.0, "cat": 0.0}),
        ("a.csv", "index,name\n1.0,dog\n0.0,cat\n"),
        ("a.csv", ",0\n0,cat\n1,dog\n"),
        ("a.csv", "sep=;\nid;name\n0;cat\n1;dog\n"),
        ("a.csv", "id|name\n0|cat\n1|dog\n"),
        ("dataset_info.json", {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}),
        (
            "README.md",
            "---\ntags: [vision]\ndataset_info:\n  features:\n  - name: label\n    dtype:\n      class_label:\n"
            "        names:\n          '0': cat\n          '1': dog\n---\n# Pets\n",
        ),
        ("meta.json", {"tags": [{"name": "cat"}, {"name": "dog"}], "classes": []}),
        ("a.json", {"default_classes": ["cat", "dog"]}),
        ("a.json", {"metainfo": {"classes": ["cat", "dog"]}, "data_list": []}),
        ("a.json", {"meta": {"CLASSES": ["cat", "dog"]}}),
        ("a.txt", "\u200fcat\n\u200edog\u200b\n"),
        ("a.txt", "\u200f0 cat\n\u200f1 dog\n"),
        ("a.pbtxt", "item {\n  id: 0\n  name: 'cat'\n}\nitem {\n  id: 1\n  name: \"dog\"\n}\n"),
    ],
)
def test_label_files_of_other_tools_are_read_to_their_names(tmp_path: Path, name: str, content: object) -> None:
    assert [label["label"] for label in labels_for(written(tmp_path / name, content), 2)] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "n01440764 tench, Tinca tinca\nn01443537 goldfish\n"),
        ("a.txt", "n01440764\ttench, Tinca tinca\nn01443537\tgoldfish\n"),
        ("a.txt", "0 n01440764 tench, Tinca tinca\n1 n01443537 goldfish\n"),
        ("a.json", ["n01440764 tench, Tinca tinca", "n01443537 goldfish"]),
        ("a.json", {"0": ["n01440764", "tench, Tinca tinca"], "1": ["n01443537", "goldfish"]}),
        ("a.json", {"n01440764": "tench, Tinca tinca", "n01443537": "goldfish"}),
        (
            "a.txt",
            "{0: {'id': '01440764-n', 'label': 'tench, Tinca tinca'}, 1: {'id': '01443537-n', 'label': 'goldfish'}}",
        ),
        ("a.csv", 'synset,words\nn01440764,"tench, Tinca tinca"\nn01443537,goldfish\n'),
    ],
)
def test_wnids_of_label_files_are_kept_beside_the_names(tmp_path: Path, name: str, content: object) -> None:
    assert labels_for(written(tmp_path / name, content), 2) == [
        {"index": 0, "wnid": "n01440764", "label": "tench, Tinca tinca"},
        {"index": 1, "wnid": "n01443537", "label": "goldfish"},
    ]


@pytest.mark.parametrize(
    "content", ["n01440764\nn01443537\n", "0 n01440764\n1 n01443537\n", '["n01440764","n01443537"]']
)
def test_wnids_alone_get_imagenets_names(tmp_path: Path, content: str) -> None:
    path = tmp_path / ("a.json" if content.startswith("[") else "a.txt")
    assert [label["label"] for label in labels_for(written(path, content), 2)] == ["tench", "goldfish"]


@pytest.mark.parametrize(
    "names",
    [
        ["0", "1", "2"],
        ["Boeing 737", "Boeing 747", "A320"],
        ["digit 0", "digit 1", "digit 2"],
        ["2012 Audi A4", "2012 BMW X5", "1998 Nissan"],
        ["20 km/h", "30 km/h", "50 km/h"],
        ["Audi (2012)", "BMW (2013)", "Nissan (2012)"],
        ["stage 1 fire", "stage 2 fire", "stage 3 fire"],
        ["#", "$", "A"],
        ["C#", "C++", '5" pipe'],
        ["tench, Tinca tinca", "goldfish, Carassius auratus", "hen"],
        ["background", "cat", "dog"],
        ["می‌خواهم", "猫", "👩‍🔬"],
    ],
)
def test_names_with_numbers_and_signs_stay_names(tmp_path: Path, names: list[str]) -> None:
    assert [label["label"] for label in labels_for(written(tmp_path / "a.txt", "\n".join(names)), 3)] == names


def test_text_of_windows_editors_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("cat\r\ndög\r\n".encode("utf-16"))
    assert [label["label"] for label in labels_for(tmp_path / "a.txt", 2)] == ["cat", "dög"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "1 cat\n2 dog\n", "none for index 0: its numbers .* from 1 to 2"),
        ("a.txt", "1. cat\n2. dog\n", "none for index 0"),
        ("a.txt", "cat 1\ndog 2\n", "none for index 0"),
        ("a.txt", "cat,3\ndog,5\n", "from 3 to 5"),
        ("a.txt", "0 cat\n0 dog\n", "some of them twice"),
        ("a.txt", "0 cat\n1 dog\nshark\n", "line 3 has none.*JSON list"),
        ("a.txt", "0 cat\n\n1 dog\n", "line 2 is blank"),
        ("a.txt", "(0, 'cat')\n(1, 'dog')\n", "the lines are counted"),
        ("a.txt", "class 0: cat\nclass 1: dog\n", "the lines are counted"),
        ("a.txt", "0cat\n1dog\n", "the lines are counted"),
        ("a.txt", "n01440764 tench\ngoldfish\n", "line 2 has no wnid and name"),
        ("a.txt", "n02119789 1 kit_fox\nn02100735 2 setter\n", "development kit of ILSVRC"),
        ("a.txt", "# classes\ncat\n", "line 1 is a comment"),
        ("a.txt", "cat,\ndog\n", "the lines end with ','"),
        ("a.txt", "cat, dog", "several names are in one line"),
        ("a.txt", "label\ncat\ndog\n", "the first line is 'label', a header; remove it"),
        ("a.txt", "???\ncat\ndog\n", "a background that this network does not know"),
        ("a.txt", "cat\n\ndog\n", "has 3 labels, but the head has 2 classes: line 2 is blank"),
        ("a.txt", "a\nb\nc\n", "the first is 'a', the last 'c'"),
        ("a.txt", "<html>\n<body>\n", "is HTML or XML"),
        ("a.txt", "[net]\nbatch=64\n", "is not JSON"),
        ("a.txt", " \n\n", "is empty"),
        ("a.txt", "x" * 3000, "line 1 has more than 2000 characters"),
        ("a.csv", "id,breed\n0,cat\n1,dog\n", None),
        ("a.csv", "120 cat\n98 dog\n", "begin with numbers"),
        ("a.csv", "cat,tabby\ndog,hound\n", "2 columns and no header that is known"),
        ("a.csv", "index,name\n0,cat,tabby\n1,dog\n", "line 2 has not the 2 columns"),
        ("_classes.csv", "filename, cat, dog\na.jpg, 1, 0\n", "a table of images"),
        ("a.py", "import os\nclasses = os.listdir('.')\n", "is code"),
        ("a.json", {"0": "cat", "2": "dog"}, "none for index 1"),
        ("a.json", '{"0": "a", "0": "b"}', "'0' twice in one object"),
        ("a.txt", "{0: 'a', 0: 'b'}", "is not JSON"),
        ("a.json", {"cat": 1, "dog": 1}, "none for index 0"),
        ("a.json", {"cat": "feline", "dog": "canine"}, "no labels under a key that is known"),
        ("a.json", [{"id": 0, "name": "cat"}, {"name": "dog"}], "entry 1 has no number as 'id'"),
        ("a.json", {"categories": [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}]}, "from 1 to 3"),
        ("cvat.json", [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}], "from 17 to 18"),
        ("a.pbtxt", "item { id: 1 name: 'cat' }\nitem { id: 2 name: 'dog' }", "from 1 to 2"),
        ("a.pbtxt", "item { id: 0 name: 'cat' keypoints { id: 1 } }", "is a label map with more than"),
        ("config.json", {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, "placeholders of Hugging Face"),
        ("a.json", {"n01443537": "goldfish", "n01440764": "tench"}, "not in the order of the wnids"),
        ("data.yaml", "names: [cat, 'dog'", "is not YAML"),
        ("data.yaml", "nc: 2\ntrain: images\n", "no labels under a key"),
    ],
)
def test_a_damaged_label_file_is_never_read_as_plain_names(
    tmp_path: Path, name: str, content: object, message: str | None
) -> None:
    """Without a message: any refusal."""
    with pytest.raises(BadLabels, match=message):
        labels_for(written(tmp_path / name, content), 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x04\x95", "is a pickle"),
        (b"(lp0\nVcat\np1\n", "is a pickle"),
        (b"\x93NUMPY\x01", "is a NumPy file"),
        (b"PK\x03\x04", "is a ZIP archive"),
        (b"MATLAB 5.0 MAT-file", "is a MATLAB file"),
        ("cat\ncaf\xe9\n".encode("latin-1"), "is not UTF-8 text: line 2 has a byte 0xe9"),
        ("cat\ndog\n".encode("utf-16-le"), "UTF-16 without its mark"),
    ],
)
def test_an_error_names_the_kind_of_a_file_that_is_no_label_file(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "labels").write_bytes(content)
    with pytest.raises(BadLabels, match=message):
        labels_for(tmp_path / "labels", 2)


@pytest.mark.parametrize("name", ["c\x1b[31mat", "c\nat", "c\x00at", "c\x85at", "c\u202eat", "c\u2028at", "c" * 501])
def test_a_label_with_control_characters_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadLabels, match=r"the label of index 0 is not a name: 'c.*has control characters, or more"):
        labels_for(written(tmp_path / "a.json", [name, "dog"]), 2)


def test_imagenets_wnids_in_another_order_are_refused(tmp_path: Path) -> None:
    wnids = [str(label["wnid"]) for label in labels_for(None, 1000)]
    assert labels_for(written(tmp_path / "a.txt", "\n".join(wnids)), 1000) == labels_for(None, 1000)
    with pytest.raises(BadLabels, match="in another order than its indices"):
        labels_for(written(tmp_path / "a.txt", "\n".join(wnids[::-1])), 1000)


def test_wnids_are_kept(tmp_path: Path) -> None:
    path = written(tmp_path / "labels.json", [{"label": "tench", "wnid": "n01440764"}])
    assert labels_for(path, 1)[0]["wnid"] == "n01440764"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "cat\n", "a.txt has 1 labels, but the head has 2 classes"),
        ("a.txt", "cat\n\ndog\n", "has 3 labels"),
        ("a.txt", "\ndog\n", "the label of index 0 is not a name"),
        ("a.json", "[1, 2]", "the label of index 0 is not a name"),
        ("a.json", '["a", {"wnid": "n1"}]', "the label of index 1 is not a name"),
        ("a.json", '[{"label": "a", "wnid": 3}, "b"]', "the label of index 0 is not a name"),
        ("a.json", '["a",', "a.json is not JSON: line 1, column 6"),
        ("a.json", '"a"', "must be a list"),
        ("a.json", "[" * 100_000, "is nested too deeply"),
        ("a.json", '["\\ud800", "b"]', "the label of index 0 is not a name"),
        ("a.json", '{"1": "a", "2": "b"}', "none for index 0"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(BadLabels, match=message):
        labels_for(written(tmp_path / name, content), 2)


def test_a_missing_or_binary_label_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadLabels, match="No such file"):
        labels_for(tmp_path / "nowhere", 2)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadLabels, match="is not UTF-8 text"):
        labels_for(tmp_path / "binary.txt", 2)


def test_a_head_that_is_not_imagenets_needs_labels() -> None:
    with pytest.raises(BadLabels, match=r"the head has 37 classes.*--labels FILE"):
        labels_for(None, 37)


def yaml_aliases() -> str:
    """A kilobyte that stands for 2^40 names."""
    lines = ["a0: &a0 [cat, dog]", *(f"a{level}: &a{level} [*a{level - 1}, *a{level - 1}]" for level in range(1, 40))]
    return "\n".join([*lines, "names: *a39"])


COSTLY: dict[str, tuple[str, Callable[[], str], str]] = {
    "a number of many digits": ("a.json", lambda: "1" * 100_000, "has a number of 100000 digits"),
    "many digits within": ("a.json", lambda: f"[{'1' * 100_000}]", "has a number of 100000 digits"),
    "hexadecimal digits": ("a.txt", lambda: f"[0x{'f' * 100_000}, 1]", "has a number of more than 18 digits"),
    "digits of a label map": ("a.pbtxt", lambda: f"item {{ id: {'1' * 100_000} }}", "is a label map with more than"),
    "a value that is no number": ("a.json", lambda: "[NaN, NaN]", "has NaN without quotation marks"),
    "objects within objects": ("a.json", lambda: '{"names":' * 900 + "[]" + "}" * 900, "is nested too deeply"),
    "lists within lists": ("a.json", lambda: "[" * 900 + "]" * 900, "is nested too deeply"),
    "YAML within YAML": ("a.yaml", lambda: "- " * 400_000, "is nested too deeply"),
    "aliases": ("a.yaml", yaml_aliases, r"has an alias of YAML \(\*a0\)"),
    "documents": ("a.yaml", lambda: "- cat\n---\n- dog", "has several documents of YAML"),
    "lists as keys": ("a.yaml", lambda: "? [cat]\n: dog", "has a list or an object as a key"),
    "many lines of YAML": ("a.yaml", lambda: "names:\n" + "- a\n" * 200_000, "has more than 100,000 labels"),
    "long YAML": ("a.yaml", lambda: "names:\n" + "- a\n" * 300_000, "is YAML of more than 1,048,576 characters"),
    "space in a label map": ("a.pbtxt", lambda: " " * 300_000 + "x", "is a label map with more than"),
    "blank lines in a label map": (
        "a.pbtxt",
        lambda: "item {}" + "\n" * 300_000 + "x",
        "is a label map with more than",
    ),
    "space in names": ("a.txt", lambda: f"a{' ' * 1900}b\n" * 2000, "has 2000 labels"),
    "a quotation mark that stays open": ("a.csv", lambda: '"' + "\n" * 2_000_000 + "x", "has more than 100,000 lines"),
    "many lines": ("a.txt", lambda: "a\n" * 100_001, "has more than 100,000 lines"),
    "many objects": ("a.json", lambda: f"[{'{},' * 100_000}{{}}]", "has more than 100,000 labels"),
    "a long list of Python": (
        "a.txt",
        lambda: "[" + "'a'," * 900_000 + "]",
        "is Python, or damaged JSON, of more than",
    ),
    "many values of Python": ("a.txt", lambda: "[" + "a," * 500_000 + "]", "holds more than the labels of a network"),
    "keys that collide": ("a.txt", lambda: f"{{{2**61 - 1}: 'a', {(2**61 - 1) << 9}: 'b'}}", "is not JSON"),
    "a set": ("a.txt", lambda: "{'cat', 'dog'}", "is not JSON"),
    "a large file": ("a.json", lambda: f'["{"a" * (4 << 20)}"]', "has more than 4 MiB"),
}


@pytest.mark.parametrize(("name", "content", "message"), COSTLY.values(), ids=COSTLY)
def test_a_file_that_would_cost_more_than_a_networks_labels_is_refused_in_seconds(
    tmp_path: Path, name: str, content: Callable[[], str], message: str
) -> None:
    path = written(tmp_path / name, content())
    started = time.process_time()
    with pytest.raises(BadLabels, match=message):
        labels_for(path, 2)
    assert time.process_time() - started < 4  # of a second or less


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("  120 cat\n   98 dog\n    3 bird\n", r"begin with numbers that are not the indices .*'120 cat'.*JSON list"),
        ("2000 cat\n2000 dog\n", "begin with numbers"),
        ("0.93 cat\n0.05 dog\n", "begin with numbers"),
        ("0x0 cat\n0x1 dog\n", "begin with numbers"),
        ("cat (0)\ndog (1)\n", "end with numbers"),
        ("cat (120)\ndog (98)\n", "end with numbers"),
        ("cat #0\ndog #1\n", "end with numbers"),
        ("cat: 120\ndog: 120\n", "end with numbers"),
        ("a) cat\nb) dog\n", "are enumerated"),
        ("I. cat\nII. dog\nIII. bird\n", "are enumerated"),
        ("cat/\ndog/\n", "are paths"),
        ("./cat\n./dog\n", "are paths"),
        ("# cat\n# dog\n", "comments or headings"),
        ("/m/01yrx\n/m/0bt9lr\n", "identifiers such as Freebase's"),
        ("LABEL_0\nLABEL_1\n", "placeholders of Hugging Face"),
        ("['cat' 'dog'\n 'bird']", r"without a comma between them, as NumPy.*tolist"),
        ("const L = [\n'cat',\n'dog'\n];", "this is code"),
        ("set(['cat', 'dog'])", "is code: a call of 'set'"),
        ("[PAD]\n[UNK]\n", "all lines are words in brackets"),
        ("{cat}\n", "all lines are words in brackets"),
        ("<cat>\n", "is HTML or XML.*If these are names"),
        ("\u200f\n", "is empty"),
    ],
)
def test_lines_that_cannot_be_names_are_refused(tmp_path: Path, content: str, message: str) -> None:
    """With as many classes as lines, so that the count does not tell."""
    with pytest.raises(BadLabels, match=message):
        labels_for(written(tmp_path / "a.txt", content), len(content.strip().splitlines()))


@pytest.mark.parametrize(
    "content",
    [
        *("set(['cat'])", "const L = ['cat'];", "labels: cat", "label=cat", '"cat": "dog"', "cat,dog", "cat|dog"),
        *("'cat' 'dog'", "# x", "// x", "**cat**", "`cat`", "cat;", "cat/", "a) cat", "120 cat", "print('cat')"),
        *("defaultdict(<class 'int'>, {'cat': 0})", "('cat')", "export default ['cat']"),
    ],
)
def test_code_and_lists_are_not_read_as_the_name_of_one_class(tmp_path: Path, content: str) -> None:
    with pytest.raises(BadLabels, match="JSON list"):
        labels_for(written(tmp_path / "a.txt", content), 1)


@pytest.mark.parametrize(
    "content", ["array(['cat'])", "dict_keys(['cat'])", "OrderedDict([('cat', 0)])", "('cat',)", "- cat", "* cat"]
)
def test_a_list_of_one_class_gives_its_name(tmp_path: Path, content: str) -> None:
    assert [label["label"] for label in labels_for(written(tmp_path / "a.txt", content), 1)] == ["cat"]


@pytest.mark.parametrize(
    "names",
    [["<unk>", "cat"], ["<5 years", ">5 years"], ["[other]", "cat"], ["{x}", "cat"]],
)
def test_names_that_begin_with_a_bracket_are_names(tmp_path: Path, names: list[str]) -> None:
    assert [label["label"] for label in labels_for(written(tmp_path / "a.txt", "\n".join(names)), 2)] == names


def test_features_of_a_dataset_with_several_lists_of_classes_are_refused(tmp_path: Path) -> None:
    features = {name: {"names": [f"{name} 1", "x"], "_type": "ClassLabel"} for name in ("fine", "coarse")}
    with pytest.raises(BadLabels, match="has 2 features with names of classes"):
        labels_for(written(tmp_path / "dataset_info.json", {"features": features}), 2)
