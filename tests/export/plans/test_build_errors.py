from pathlib import Path

import pytest

from export.plans.build_errors import NodeError, driver_version, failed, no_driver, not_parsed

GIB = 1 << 30


def test_every_error_of_the_parser_is_shown_with_its_node() -> None:
    text = not_parsed(
        [
            NodeError("Resize", "node_resize", 7, "no such mode", "UNSUPPORTED_NODE, a.cpp:3, parse"),
            NodeError("Attention", "node_9", 9, "no plugin", "UNSUPPORTED_NODE, b.cpp:4, importAttention"),
        ]
    )
    assert text.splitlines() == [
        "TensorRT cannot take the graph; a newer TensorRT may, or another --precision:",
        "  Resize 'node_resize' (node 7): no such mode [UNSUPPORTED_NODE, a.cpp:3, parse]",
        "  Attention 'node_9' (node 9): no plugin [UNSUPPORTED_NODE, b.cpp:4, importAttention]",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)",
        "[virtualMemoryBuffer.cpp::resizePhysical] Error Code 2: OutOfMemory (Requested size was 6291456000 bytes.)",
        "Requested amount of GPU memory (34359738368 bytes) could not be allocated.",
        "Skipping tactic 0x1 due to insufficient memory on requested size of 8589934592 detected",
        "Tactic Device request: 9000MB Available: 4000MB. Device memory is insufficient to use tactic.",
    ],
)
def test_a_lack_of_memory_is_recognised(line: str) -> None:
    text = failed("TensorRT built no engine", [line], (GIB, 80 * GIB))
    assert "memory does not suffice (1.0 of 80.0 GiB are free now; " in text
    assert "smaller --batch-sizes" in text
    assert line in text


def test_other_failures_are_shown_as_they_are_each_line_once() -> None:
    line = "Error Code 10: Could not find any implementation for node {ForeignNode[...]}."
    assert failed("it failed", [line, line], None) == f"it failed:\n  {line}"
    assert failed("it failed", [], None) == "it failed:\n  TensorRT gave no reason"
    assert "(end other processes" in failed("it failed", ["out of memory"], None)


def test_a_driver_that_is_missing_or_too_old() -> None:
    assert "no NVIDIA driver is installed" in no_driver(0, 13000)
    assert no_driver(12040, 13050).endswith(
        "supports CUDA up to 12.4, but the package cuda-bindings is for 13.5: update the driver, or "
        "pip install 'cuda-bindings==12.*'"
    )


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (dvs)  Tue", "580.95.05"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023", "535.129.03"),
        ("something else", None),
    ],
)
def test_the_drivers_own_version(tmp_path: Path, line: str, version: str | None) -> None:
    (tmp_path / "version").write_text(f"{line}\nGCC version:  gcc version 12.3.0 (Ubuntu 12.3.0)\n")
    assert driver_version(tmp_path / "version") == version


def test_where_the_system_does_not_tell_the_drivers_version(tmp_path: Path) -> None:
    assert driver_version(tmp_path / "nowhere") is None
