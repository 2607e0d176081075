from pathlib import Path

from benchmarks.cpu.services import PEERS


def test_the_port_comes_last_in_every_command() -> None:
    bundle = Path("artifacts/crossvit_tiny")
    assert PEERS["ours"].command(bundle)[-3:] == ["--bundle", str(bundle), "--port"]
    assert PEERS["litserve-onnxruntime"].command(bundle)[-2:] == ["onnxruntime", str(bundle)]
    assert PEERS["plain"].command(bundle)[-1] == str(bundle)
