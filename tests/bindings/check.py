"""mypy on sources against given stubs: its errors, and on what type each attribute is looked up.

Run as a command, `python -m tests.bindings.check`, to keep mypy out of the tests' process: a JSON of jobs in, one of
findings out.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mypy import build
from mypy.main import process_options
from mypy.modulefinder import BuildSource
from mypy.nodes import Expression, MemberExpr, MypyFile, RefExpr
from mypy.nodes import TypeInfo as ClassInfo
from mypy.options import Options
from mypy.types import AnyType, CallableType, Instance, Overloaded, Type, UnionType, get_proper_type

ROOT = Path(__file__).parents[2]
ANY = "Any"


class Access(NamedTuple):
    """`owner`.`name`; `found` is the type of that, or what it returns. ANY stands for what mypy does not know."""

    owner: str
    name: str
    found: str
    line: int


@dataclass(frozen=True)
class Findings:
    errors: list[str]  # as mypy prints them
    accesses: list[Access]


def check(stubs: Path, cache: Path, *jobs: tuple[str, str]) -> list[Findings]:
    """What mypy finds in each job's path, from the project's root, if it has the job's text; `stubs` come first."""
    task = json.dumps({"stubs": str(stubs), "cache": str(cache), "jobs": jobs})
    command = [sys.executable, "-m", "tests.bindings.check"]
    done = subprocess.run(command, input=task, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found = json.loads(done.stdout)
    return [Findings(errors, [Access(*access) for access in accesses]) for errors, accesses in found]


def _check_all(stubs: str, cache: str, jobs: Sequence[tuple[str, str]]) -> list[Findings]:
    sources = {path: BuildSource(path, ".".join(Path(path).with_suffix("").parts)) for path, _ in jobs}
    # The project's own options; but without the stubs some of its ignores have a use, and with them have none.
    flags = ["--no-warn-unused-ignores", "--follow-imports=silent", "--cache-dir", cache]
    _, options = process_options([*flags, *sources])
    options.follow_imports_for_stubs = True
    options.mypy_path = [stubs]
    build.build(list(sources.values()), options)  # what they import is taken from the cache from now on
    options.export_types = True
    return [_check(sources[path], text, options) for path, text in jobs]


def _check(source: BuildSource, text: str, options: Options) -> Findings:
    # mypy takes nothing from its cache that is given as text, so the types are this source's, and only its; but it
    # looks at the text only if the path stands for another file.
    with tempfile.NamedTemporaryFile(suffix=".py") as instead:
        options.shadow_file = [[str(source.path), instead.name]]
        result = build.build([BuildSource(source.path, source.module, text)], options)
    accesses = [
        Access(owner, looked_up.name, _known(kind), looked_up.line)
        for looked_up, kind in result.types.items()
        if isinstance(looked_up, MemberExpr)
        for owner in _owners(looked_up.expr, result.types.get(looked_up.expr))
    ]
    return Findings(result.errors, accesses)


def _owners(expression: Expression, kind: Type | None) -> Sequence[str]:
    if isinstance(expression, RefExpr) and isinstance(expression.node, MypyFile | ClassInfo):
        return [expression.node.fullname]
    proper = get_proper_type(kind)
    if isinstance(proper, UnionType):
        return [owner for item in proper.items for owner in _owners(expression, item)]
    if isinstance(proper, Instance):
        return [proper.type.fullname]
    return [ANY] if isinstance(proper, AnyType) else []


def _known(kind: Type) -> str:
    proper = get_proper_type(kind)
    if isinstance(proper, Overloaded):
        proper = proper.items[0]
    if isinstance(proper, CallableType):
        proper = get_proper_type(proper.ret_type)
    return ANY if isinstance(proper, AnyType) else str(proper)


def main() -> None:
    task = json.load(sys.stdin)
    all_findings = _check_all(task["stubs"], task["cache"], task["jobs"])
    json.dump([(findings.errors, findings.accesses) for findings in all_findings], sys.stdout)


if __name__ == "__main__":
    main()
