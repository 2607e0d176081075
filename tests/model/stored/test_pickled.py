"""Hostile pickles: nothing is called, nothing is imported, and neither time nor memory runs away."""

import argparse
import collections
import io
import pathlib
import pickle
import struct
import sys

import pytest

from model.stored.pickled import Budget, Global, Harmful, Malformed, Object, read_pickle

P2 = b"\x80\x02"


def load(data: bytes, limit: int = 100_000) -> object:
    return read_pickle(io.BytesIO(data), Object, lambda saved: saved, Budget(limit))


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_of_every_protocol_is_itself_and_objects_are_their_parts(protocol: int) -> None:
    plain = {"a": [1, 2.5, None, True, False, "é", (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)], "big": -(1 << 90)}
    assert load(pickle.dumps(plain, protocol)) == plain
    read_back = load(pickle.dumps({"n": argparse.Namespace(lr=0.1), "p": pathlib.PurePosixPath("/x/y")}, protocol))
    assert isinstance(read_back, dict)
    assert read_back["n"].state == {"lr": 0.1}
    assert read_back["p"].args == ("/", "x", "y")
    ordered = load(pickle.dumps(collections.OrderedDict(a=1), protocol))
    assert isinstance(ordered, Object)
    assert (ordered.name, ordered.entries) == ("collections.OrderedDict", {"a": 1})


def test_a_class_that_is_not_installed_is_data_and_its_module_is_not_imported() -> None:
    before = set(sys.modules)
    value = load(P2 + b"cthis\nBox\n)\x81}X\x01\0\0\0aK\x01sb.")
    assert isinstance(value, Object)
    assert (value.name, value.args, value.state) == ("this.Box", (), {"a": 1})
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (P2 + b"cos\nsystem\nX\x02\0\0\0id\x85R.", "os.system"),
        (P2 + b"cbuiltins\neval\n)R.", "builtins.eval"),
        (P2 + b"c__builtin__\nexec\n)R.", "__builtin__.exec"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93)R.", "builtins.exec"),
        (b"(S'id'\nios\nsystem\n.", "os.system"),
        (b"(csubprocess\nPopen\nS'id'\no.", "subprocess.Popen"),
        (P2 + b"ctorch.hub\nload\n)R.", "torch.hub.load"),
    ],
)
def test_pickles_that_run_code_are_refused_with_its_name(data: bytes, name: str) -> None:
    with pytest.raises(Harmful, match=name):
        load(data)


def test_calls_of_results_and_state_of_functions_change_nothing() -> None:
    value = load(P2 + b"cbuiltins\ngetattr\ncos\npath\nX\x06\0\0\0system\x86R(X\x02\0\0\0idtR.")
    assert isinstance(value, Object)
    assert value.name == "a call of a value"
    code = read_pickle.__code__
    assert load(P2 + b"cmodel.stored.pickled\nread_pickle\n}X\x08\0\0\0__code__K\x01sb.") == Global(
        "model.stored.pickled.read_pickle"
    )
    assert read_pickle.__code__ is code


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense",
        P2 + b"h\x05.",  # of a memo that is empty
        P2 + b"R.",
        P2 + b"(((.",
        P2 + b"]K\x01K\x02s.",  # an entry of a list
        P2 + b"c\n\n)K\x01R.",
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x.",  # bytes that it has not
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b".",
        b"L" + b"9" * 100_000 + b"L\n.",
        P2 + b"]" * 200_000 + b".",
    ],
)
def test_damaged_and_endless_pickles_are_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        load(data)


def test_depth_indices_and_keys_that_blow_up_other_unpicklers_cost_nothing() -> None:
    load(P2 + b"]" + b"\x85" * 50_000 + b".")
    load(P2 + b"]r\xff\xff\xff\x7f.")  # a memo of two billion
    load(P2 + b"}K\x01" + b"2\x86" * 300 + b"K\x01s.")  # a key with 2^300 parts, were it hashed
    load(P2 + b"}K\x01" + b"\x85" * 50_000 + b"K\x01s.")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (P2 + b"ca\nb\nq\0(" + b"K\x01" * 2000 + b"tq\x01](" + b"h\0h\x01}\x92" * 9 + b"e.", "more than 1,000 arg"),
        (P2 + b"c" + b"a" * 1000 + b"\nb\nq\0](" + b"h\0)R" * 9 + b"e.", "a name of a class that is too long"),
        (
            b"\x80\x04X\xe8\x03\0\0" + b"a" * 1000 + b"q\0](" + b"h\0h\0\x93" * 9 + b"e.",
            "a name of a class that is too",
        ),
    ],
)
def test_data_that_is_copied_at_each_use_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(Malformed, match=message):
        load(data)


def test_the_pickles_of_one_file_have_their_opcodes_together() -> None:
    file, budget = io.BytesIO((P2 + b"]" * 60 + b".") * 2), Budget(100)
    read_pickle(file, Object, lambda saved: saved, budget)
    with pytest.raises(Malformed, match="over 100 opcodes"):
        read_pickle(file, Object, lambda saved: saved, budget)
