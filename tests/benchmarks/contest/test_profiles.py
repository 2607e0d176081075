import json
from pathlib import Path

from benchmarks.contest.contestant import PROFILED_CALLS
from benchmarks.contest.profiles import session_nodes


def test_nodes_on_the_cpu_beside_another_provider_are_named(tmp_path: Path) -> None:
    def node(name: str, operator: str, provider: str, microseconds: int) -> dict[str, object]:
        args = {"op_name": operator, "provider": provider}
        return {"cat": "Node", "name": f"{name}_kernel_time", "dur": microseconds, "args": args}

    def call(milliseconds: int) -> list[dict[str, object]]:
        product = node("a", "MatMul", "CUDAExecutionProvider", 9000 * milliseconds)
        return [product, node("b", "Cast", "CPUExecutionProvider", 1000 * milliseconds)]

    events = [*call(50), *(event for _ in range(PROFILED_CALLS) for event in call(1))]
    file = tmp_path / "profile.json"
    file.write_text(json.dumps([{"cat": "Session", "name": "model_run", "dur": 1}, *events]))
    found = session_nodes(file, skipped=1)
    assert found["nodes"] == [("MatMul (CUDAExecutionProvider)", 1, 9.0), ("Cast (CPUExecutionProvider)", 1, 1.0)]
    assert found["nodes_on_cpu"] == ["Cast b"]
