"""What is logged, as a process writes it."""

import json
import re
import subprocess
import sys
from typing import Any

import pytest

PRELUDE = """
import logging, structlog, sys, warnings
from app.telemetry.logs import configure
configure({level!r}, {form!r})
log = logging.getLogger("app.somewhere")
request = structlog.get_logger("app.request")
"""
DROPPING = PRELUDE.format(level="info", form="json").replace("'json')", "'json', waits=False)")


def written(script: str, *, level: str = "info", form: str = "json") -> str:
    """What `script` writes to standard error, and nowhere else."""
    command = [sys.executable, "-c", PRELUDE.format(level=level, form=form) + script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == ""
    return done.stderr


def events(script: str, **options: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written(script, **options).splitlines()]


def test_structlog_and_logging_look_the_same() -> None:
    ours, library = events("request.info('it is %s', 'so'); log.info('it is %s', 'so')")
    assert ours.keys() == library.keys() == {"timestamp", "level", "logger", "event"}
    assert (ours["event"], ours["level"], ours["logger"]) == ("it is so", "info", "app.request")
    assert (library["event"], library["level"], library["logger"]) == ("it is so", "info", "app.somewhere")
    assert ours["timestamp"].endswith("Z")


def test_an_event_is_one_line_whatever_is_in_it() -> None:
    forged = '\n{"level": "error", "event": "forged"}\r\x1b[31m\u2028'
    (line, field) = events(f"log.info('%s', {forged!r}); request.info('request', path={forged!r})")
    assert line["event"] == field["path"] == forged


def test_an_exception_is_one_line_without_the_values_of_variables() -> None:
    script = """
def fail(key):
    raise ValueError("by name")
try:
    fail("the-" + "secret")
except ValueError:
    log.exception("failed")
    request.exception("failed")
"""
    for event in events(script):
        assert event["event"] == "failed"
        assert event["exception"].startswith("Traceback")
        assert "ValueError: by name" in event["exception"]
    for form in ("json", "console"):
        text = written(script, form=form)
        assert text.count("ValueError: by name") == 2
        assert "the-secret" not in text


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_what_is_under_the_level_is_not_logged(level: str, expected: list[str]) -> None:
    script = "for name in ('debug', 'info', 'warning', 'error'): getattr(log, name)('x'); getattr(request, name)('y')"
    found = events(script, level=level)
    for event in ("x", "y"):
        assert [line["level"] for line in found if line["event"] == event] == expected


def test_a_warning_of_python_is_an_event_too() -> None:
    (event,) = events("warnings.warn('soon gone', DeprecationWarning)")
    assert (event["level"], event["logger"]) == ("warning", "py.warnings")
    assert "soon gone" in event["event"]


def test_the_parser_of_forms_does_not_log_their_bytes() -> None:
    script = """
from python_multipart.multipart import MultipartParser
try:
    MultipartParser(b"x").write(b"--xyz")
except Exception as err:
    log.info(type(err).__name__)
"""
    assert [event["event"] for event in events(script, level="debug")] == ["MultipartParseError"]


def test_auto_is_json_where_nobody_watches_and_console_is_for_reading() -> None:
    assert json.loads(written("log.info('hello')", form="auto"))["event"] == "hello"
    text = written("log.info('hello'); request.info('request', status=200)", form="console")
    assert len(text.splitlines()) == 2
    assert "hello" in text
    assert "status=200" in text
    assert "\x1b" not in text  # no colours in a file


def test_an_unread_standard_error_blocks_nothing_and_dropped_lines_are_counted() -> None:
    script = DROPPING + (
        "import time\n"
        "started = time.monotonic()\n"
        "for number in range(3000): log.info('%d %s', number, 5000 * 'x')\n"  # more than a pipe and the queue hold
        "print(time.monotonic() - started, flush=True)\n"
        "sys.stdin.read(1)\n"
        "time.sleep(0.3)\n"
        "log.info('the end')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        assert float(process.stdout.readline()) < 20  # it comes back at all
        process.stdin.write(b"x")
        process.stdin.close()
        found = [json.loads(line)["event"] for line in process.stderr]
    assert process.returncode == 0
    numbers = [int(event.split()[0]) for event in found if event.endswith("x")]
    told = re.compile(r"(\d+) lines of the log were dropped: standard error did not take them in time")
    dropped = [int(match[1]) for event in found if (match := told.fullmatch(event))]  # several on a busy machine
    assert numbers == sorted(set(numbers))
    assert sum(dropped) == 3000 - len(numbers) > 0
    assert found[-1] == "the end"


def test_lines_that_wait_at_the_end_of_the_process_are_written() -> None:
    script = DROPPING + ("for number in range(5000): log.info('%d', number)\n")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert [json.loads(line)["event"] for line in done.stderr.splitlines()] == [str(number) for number in range(5000)]


def test_a_service_with_a_closed_standard_error_ends_with_status_0() -> None:
    script = DROPPING + "log.info('x')"
    command = f"exec {sys.executable} -c '{script.replace(chr(39), chr(34))}' 2>&-"
    assert subprocess.run(["/bin/sh", "-c", command], timeout=60, check=True).returncode == 0
