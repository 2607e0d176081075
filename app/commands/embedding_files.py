"""Writes embeddings: NumPy's npy and npz, and Parquet."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.errors import BadParameter
from bundle.atomic_files import check_replaceable, replace_file
from bundle.installation import require_packages

Embeddings = NDArray[np.float32]  # (files, numbers)


def embedding_writer(out: Path) -> Callable[[Sequence[Path], Embeddings], None]:
    """What writes the paths of files and their embeddings to `out`, in one step; its name's end says in which format.

    Raises BadParameter at once if nothing can be written there, and NotInstalled without the package for the format.
    """
    if out.suffix not in _CONTENTS:
        raise BadParameter(f"--out {out}: the name must end in one of {', '.join(_CONTENTS)}")
    if not out.parent.is_dir():
        raise BadParameter(f"--out {out}: there is no folder {out.parent}")
    if out.suffix == ".parquet":
        require_packages(("pyarrow",), "parquet", f"--out {out}")

    with _writing(out):
        check_replaceable(out)

    def write(paths: Sequence[Path], embeddings: Embeddings) -> None:
        with _writing(out):
            replace_file(out, _CONTENTS[out.suffix](list(map(_text, paths)), embeddings), mode=0o644)

    return write


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise BadParameter(f"--out {out} cannot be written: {err.strerror}") from err


def _text(path: Path) -> str:
    r"""`path`, with \udcXX for each byte XX that is not UTF-8, as `crossvit classify` prints it."""
    return str(path).encode(errors="backslashreplace").decode()


def _npy(_: list[str], embeddings: Embeddings) -> bytes:
    file = BytesIO()
    np.save(file, embeddings)
    return file.getvalue()


def _npz(paths: list[str], embeddings: Embeddings) -> bytes:
    file = BytesIO()
    np.savez(file, paths=np.array(paths, dtype=np.str_), embeddings=embeddings)
    return file.getvalue()


def _parquet(paths: list[str], embeddings: Embeddings) -> bytes:
    """A table with the columns `path` and `embedding`, a list of float32 of one length."""
    import pyarrow as pa  # here, since it is optional
    from pyarrow import parquet

    file = BytesIO()
    numbers = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), embeddings.shape[1])
    parquet.write_table(pa.table({"path": pa.array(paths, pa.string()), "embedding": numbers}), file)
    return file.getvalue()


_CONTENTS: dict[str, Callable[[list[str], Embeddings], bytes]] = {".npy": _npy, ".npz": _npz, ".parquet": _parquet}
