"""What clients call a class, and what they are told if it is none or several."""

import pytest

from app.errors import BadParameter
from app.serving.class_choice import chosen_class
from bundle.class_labels import ClassLabel

LABELS = [
    ClassLabel(index=index, wnid=wnid, label=label)
    for index, (wnid, label) in enumerate(
        [("n01", "tench"), ("n02", "crane"), ("n03", "crane"), (None, "Egyptian cat"), ("n05", "7"), ("n06", "n02")]
    )
]


@pytest.mark.parametrize(
    ("text", "index"),
    [("0", 0), (" 3 ", 3), ("05", 5), ("n01", 0), ("N03", 2), ("tench", 0), ("egyptian CAT", 3), ("7", 4), ("n02", 1)],
)
def test_a_class_is_found_by_index_then_wnid_then_label(text: str, index: int) -> None:
    assert chosen_class(LABELS, text) == index


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crane", r"2 classes are called 'crane': 1 \(crane\), 2 \(crane\); name one by its index"),
        ("6", "there is no class 6: the indices are 0 to 5"),
        ("99999999999999999999", "there is no class 99999999999999999999: the indices are 0 to 5"),
        ("cat", r"there is no class 'cat': .*; the nearest: 3 \(Egyptian cat\)"),
        ("tensh", r"the nearest: 0 \(tench\)"),
        ("zebra", "its whole label$"),
        ("-1", "there is no class '-1'"),
        ("²", "there is no class '²'"),
        ("", "there is no class ''"),
        ("x" * 10_000, "there is no class 'x{60}'"),
    ],
)
def test_other_names_are_refused_with_what_would_do(text: str, message: str) -> None:
    with pytest.raises(BadParameter, match=message):
        chosen_class(LABELS, text)
