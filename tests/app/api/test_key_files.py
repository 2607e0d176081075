"""Files of keys, as editors, secrets of clusters and shells write them, now and later."""

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from app.api import key_files
from app.api.key_files import KeyFile, key_digest
from app.errors import BadParameter
from tests.support.clock import Clock
from tests.support.folders import NOBODY, as_root
from tests.support.waiting import wait_until

ANN, BOB, CAT = "ann-0123456789", "bob-0123456789", "cat-0123456789"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "keys"
    file.write_text(f"ann:{ANN}\nbob:{BOB}\n")
    return file


def owners(file: KeyFile) -> list[str | None]:
    return [file.keys.get(key_digest(key)) for key in (ANN, BOB, CAT)]


def seen(file: KeyFile) -> list[str | None]:
    """The owners after what is on disk has been looked at, twice as it takes."""
    file.poll()
    file.poll()
    return owners(file)


def test_a_file_has_a_key_a_line_and_comments(path: Path) -> None:
    path.write_bytes(f"# who may\r\nann:{ANN} # Ann\r\n\r\n  bob:a#b-0123456789\n#{CAT}\n# caf\xe9\n".encode("latin-1"))
    file = KeyFile(path)
    assert file.keys.keys() == {key_digest(ANN), key_digest("a#b-0123456789")}
    assert file.ok


@pytest.mark.parametrize(
    "content",
    [
        f"\ufeffann:{ANN}\n".encode(),
        f"ann:{ANN}\r\n".encode("utf-16"),
        f"\ufeffann:{ANN}\n".encode("utf-16-be"),
        f'"ann:{ANN}" \n'.encode(),
        f"ann:{ANN}".encode(),
        f"\r\n\tann:{ANN}\t\r\n\r\n".encode(),
    ],
    ids=["byte order mark", "PowerShell", "UTF-16, big end first", "quotes", "no line end", "tabs and CR"],
)
def test_what_editors_and_shells_put_around_keys_is_not_theirs(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert owners(KeyFile(path)) == ["ann", None, None]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("ann:short", "is not NAME:KEY or KEY, of 8 characters or more without spaces"),
        (f"ann: {ANN}", "is not NAME:KEY"),
        (f"- {ANN}", "is not NAME:KEY"),
        (f"ann {ANN}", "is not NAME:KEY"),
        (f"API_KEY={ANN}", "is a line of an env file"),
        (f"export KEY='{ANN}'", "is a line of an env file"),
        (f"api_key={ANN}", "is a line of an env file"),
        (f"ann:{ANN},", "is a line of a list"),
        (f'"{ANN}",', "is a line of a list or of a JSON document"),
        (f'["{ANN}"]', "is a line of a list or of a JSON document"),
        (f'{{"ann": "{ANN}"}}', "is a line of a list or of a JSON document"),
        (f"ann:$apr1$salt${ANN}", "is a hash"),
        (f"ann:$2y$05${ANN}", "is a hash"),
        (f"ann:{{SHA}}{ANN}", "is a hash"),
        (f"ann:{ANN}\ufffd", "is not NAME:KEY"),
    ],
)
def test_another_form_is_refused_by_its_line_without_being_shown(path: Path, line: str, what: str) -> None:
    path.write_text(f"# keys\nbob:{BOB}\n{line}\n")
    with pytest.raises(BadParameter, match=f"^line 3 of {path} {what}") as caught:
        KeyFile(path)
    assert ANN not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("key", ["abcd1234==", "aB3=dddd", "a[1]b{2}c", "$ecret-key", "a'quoted'"])
def test_keys_that_only_resemble_other_forms_are_keys(path: Path, key: str) -> None:
    path.write_text(key)
    assert KeyFile(path).keys.keys() == {key_digest(key)}


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def huge(path: Path) -> None:
    path.write_bytes(b"#" * (1 << 20) + b"\n")


NO_FILES: list[tuple[Callable[[Path], None], str]] = [
    (Path.unlink, r"cannot be read \(No such file or directory\)"),
    (folder, "is a folder; Docker creates one in place of a file to mount that does not exist"),
    (pipe, "is not a regular file"),
    (endless, "is not a regular file"),
    (huge, "has more than 1048576 bytes"),
]


@pytest.mark.parametrize(("spoil", "why"), NO_FILES)
def test_an_invalid_key_file_is_refused_at_the_start(path: Path, spoil: Callable[[Path], None], why: str) -> None:
    spoil(path)
    with pytest.raises(BadParameter, match=f"{path} {why}"):
        KeyFile(path)


@pytest.mark.parametrize(("spoil", "why"), NO_FILES)
def test_a_file_that_cannot_be_read_later_leaves_the_keys_and_is_logged_each_minute(
    path: Path,
    spoil: Callable[[Path], None],
    why: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    file = KeyFile(path, clock)
    spoil(path)
    assert seen(file) == ["ann", "bob", None]
    assert not file.ok
    for minutes in (1, 2):
        file.poll()
        errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert len(errors) == minutes
        assert re.search(f"the keys stay as they were: {path} {why}", errors[-1])
        clock.now += 61
    path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
    path.write_text(f"cat:{CAT}")
    assert seen(file) == [None, None, "cat"]
    assert file.ok


@as_root
def test_a_file_that_is_closed_to_the_service_says_whose_it_is(path: Path) -> None:
    path.chmod(0o600)
    os.seteuid(NOBODY)
    try:
        with pytest.raises(BadParameter, match=r"cannot be read: .* belongs to user 0 .* is user 65534"):
            KeyFile(path)
    finally:
        os.seteuid(0)


def test_a_revocation_takes_effect_though_another_line_is_no_key_and_says_so(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = KeyFile(path)
    path.write_text(f"bob:{BOB}\ncat:short\n")
    assert seen(file) == [None, "bob", None]
    assert not file.ok
    assert f"line 2 of {path} is not NAME:KEY" in caplog.text
    assert "short\n" not in caplog.text
    path.write_text(f"bob:{BOB}\ncat:{CAT}\n")
    assert seen(file) == [None, "bob", "cat"]
    assert file.ok


def test_keys_that_are_all_taken_out_let_nobody_in_and_say_so(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = KeyFile(path)
    path.write_text("# none\n")
    assert seen(file) == [None, None, None]
    assert f"{path} has no keys: every request is refused" in caplog.text


def in_place(path: Path, text: str) -> None:
    """As nano does; with the same length and times as before, as within a timer's tick."""
    before = path.stat()
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def renamed(path: Path, text: str) -> None:
    new = path.with_name("new")
    new.write_text(text)
    new.replace(path)


@pytest.mark.parametrize("write", [in_place, renamed])
def test_one_key_in_anothers_place_counts_however_it_is_written(path: Path, write: Callable[[Path, str], None]) -> None:
    file = KeyFile(path)
    write(path, f"ann:{ANN}\ncat:{CAT}\n")
    assert seen(file) == ["ann", None, "cat"]


def test_a_kubernetes_secret_that_is_swapped_is_read_again(tmp_path: Path) -> None:
    for version, line in (("..1", f"ann:{ANN}"), ("..2", f"cat:{CAT}")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "keys").write_text(line)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "keys").symlink_to("..data/keys")
    file = KeyFile(tmp_path / "keys")
    assert owners(file) == ["ann", None, None]
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").replace(tmp_path / "..data")
    assert seen(file) == [None, None, "cat"]


def test_a_file_that_is_being_written_is_not_taken_half(path: Path) -> None:
    file = KeyFile(path)
    for half in ("", f"bob:{BOB[:9]}", f"bob:{BOB}\nca"):
        path.write_text(half)
        file.poll()
        assert owners(file) == ["ann", "bob", None]
    path.write_text(f"bob:{BOB}\ncat:{CAT}\n")
    assert seen(file) == [None, "bob", "cat"]


def test_a_file_that_is_missing_at_one_poll_is_not_an_error(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = KeyFile(path)
    path.rename(path.with_name("keys~"))
    file.poll()
    path.with_name("keys~").rename(path)
    assert seen(file) == ["ann", "bob", None]
    assert file.ok
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_key_of_two_names_has_the_first(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_text(f"ann:{ANN}\ncat:{ANN}\n")
    assert owners(KeyFile(path)) == ["ann", None, None]
    assert "line 2 of" in caplog.text
    assert ANN not in caplog.text


def test_a_disk_that_does_not_answer_delays_no_request_and_is_logged(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    file = KeyFile(path, clock)
    hanging, go_on = threading.Event(), threading.Event()

    def hang(_: Path) -> bytes:
        hanging.set()
        go_on.wait(30)
        return b""

    monkeypatch.setattr(key_files, "_read", hang)
    file.watch()
    assert hanging.wait(30)
    assert owners(file) == ["ann", "bob", None]
    assert file.ok
    clock.now += 11
    assert owners(file) == ["ann", "bob", None]
    assert not file.ok
    assert caplog.text.count("its disk does not respond") == 1
    file.close()
    go_on.set()


def test_a_watched_file_is_polled_in_a_thread_until_it_is_closed(path: Path) -> None:
    file = KeyFile(path)
    file.watch()
    path.write_text(f"cat:{CAT}")
    wait_until(lambda: owners(file) == [None, None, "cat"])
    file.close()
    wait_until(lambda: all(thread.name != "keys keys" for thread in threading.enumerate()))


@pytest.mark.parametrize("away", [False, True], ids=["other each time", "away every other time"])
def test_a_key_that_is_taken_out_of_a_file_that_changes_all_the_time_counts_no_more_within_a_second(
    path: Path, *, away: bool
) -> None:
    file = KeyFile(path)
    for number in range(int(1 / key_files._POLL_SECONDS)):
        path.unlink(missing_ok=True)
        if not (away and number % 2):
            path.write_text(f"bob:{BOB}\n# {number}\n")
        file.poll()
    assert owners(file) == [None, "bob", None]
    assert file.ok
