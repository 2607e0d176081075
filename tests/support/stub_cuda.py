"""A CUDA runtime for the real package cuda-bindings where there is no GPU: cuda_runtime.cpp, compiled by g++.

The package has NVIDIA's runtime inside, which needs a driver. Its Python layer gets the runtime's functions from the
module cuda.bindings._internal.runtime, as Cython modules get functions from each other: by name, from capsules in
`__pyx_capi__`. `install` puts the stub's functions there before that layer is imported.
"""

import ctypes
import shutil
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_name("cuda_runtime.cpp")

_REPLACED: list[object] = []  # capsules, to which the names belong that the new ones have too


def compiled_runtime(folder: Path) -> Path | None:
    """The stub as a library in `folder`; None without g++."""
    compiler = shutil.which("g++")
    if compiler is None:
        return None
    library = folder / "cuda_runtime.so"
    flags = ["-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, "-o", str(library), str(_SOURCE)], check=True)
    return library


def install(library: Path) -> ctypes.CDLL:
    """Make the stub the runtime of cuda.bindings, for good; nothing of it may be imported yet but internals.

    Functions that the stub lacks fail with what NVIDIA's runtime says where there is no driver.
    """
    from cuda.bindings._internal import runtime

    stub = ctypes.CDLL(str(library))
    python = ctypes.pythonapi
    python.PyCapsule_GetName.argtypes, python.PyCapsule_GetName.restype = [ctypes.py_object], ctypes.c_void_p
    python.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    python.PyCapsule_New.restype = ctypes.py_object
    functions = runtime.__pyx_capi__
    for name, capsule in list(functions.items()):
        function = getattr(stub, name.removeprefix("_"), None) if name.startswith("_cuda") else None
        if function is not None:
            signature = python.PyCapsule_GetName(capsule)
            _REPLACED.append(capsule)
            functions[name] = python.PyCapsule_New(ctypes.cast(function, ctypes.c_void_p), signature, None)
    return stub
