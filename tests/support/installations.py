"""The project as a user installs it: its wheel and sdist, and environments with the wheel in them."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("app", "bundle", "export", "model")
NOT_FOR_SERVING = ("torch", "onnxscript", "onnx_ir", "nncf")


def files_of_checkout() -> set[str]:
    """The files that git has, or would add, by their paths; those that are deleted are not among them."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()}


def build_distributions(out: Path) -> tuple[Path, Path]:
    """Build the sdist from a copy of the checkout, and the wheel from the sdist, without a network; their paths."""
    source = out / "source"
    for name in files_of_checkout():
        copy = source / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy)
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), "build", "--quiet", "--offline", "--no-build-isolation", "--python", sys.executable]
    subprocess.run([*command, "--out-dir", str(out), str(source)], check=True)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


def borrowing_environment(folder: Path, wheel: Path) -> Path:
    """An environment with the wheel, and links to this one's packages but those not for serving; its `bin`."""
    venv.create(folder, symlinks=True)
    _pip(folder / "bin" / "python", "--no-deps", "--no-index", "--no-compile", str(wheel))
    site = folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    for lent in (Path(path) for path in sys.path if path.endswith("-packages")):
        for entry in lent.iterdir():
            package = entry.name.partition("-")[0].partition(".")[0]
            if (
                entry.suffix != ".pth"
                and package not in (*NOT_FOR_SERVING, "crossvit")
                and not (site / entry.name).exists()
            ):
                (site / entry.name).symlink_to(entry)
    return folder / "bin"


def empty_environment(folder: Path, requirements: Iterable[str]) -> Path:
    """An environment with `requirements` and what they need, from the package index; its `bin`."""
    venv.create(folder, symlinks=True)
    _pip(folder / "bin" / "python", "-c", str(ROOT / "constraints.txt"), *requirements)
    return folder / "bin"


def installed_megabytes(bin_folder: Path) -> float:
    """The size of the environment's packages, without the bytecode that pip makes of them."""
    files = (path for path in (bin_folder.parent / "lib").rglob("*") if path.suffix != ".pyc")
    return sum(path.lstat().st_size for path in files if path.is_file() and not path.is_symlink()) / 1e6


def elsewhere(bin_folder: Path, home: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """The environment variables of a user with an empty home, none of whose variables concern this project."""
    ours = ("CROSSVIT_", "HF_", "PYTHON", "VIRTUAL_ENV", "XDG_", "COVERAGE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    home.mkdir(exist_ok=True)
    path = f"{bin_folder}{os.pathsep}{kept['PATH']}"
    return {**kept, "HOME": str(home), "PATH": path, **settings}


def _pip(python: Path, *arguments: str) -> None:
    """Install into the environment of `python`, which has no pip of its own."""
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
