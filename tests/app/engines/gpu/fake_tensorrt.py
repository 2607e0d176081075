"""Fakes of the package tensorrt, as far as app.engines.gpu.cuda_device uses it: none of them runs a network."""

from enum import IntEnum
from types import ModuleType
from typing import Any

SIDE = 4
CLASSES = 5


class Trt(ModuleType):
    """TensorRT as far as loading a plan: a fake, that says why it fails to the first logger only, as the real one."""

    __version__ = "10.16.1.11"

    class DataType(IntEnum):
        UINT8 = 0
        FLOAT = 1

    class TensorIOMode(IntEnum):
        INPUT = 1
        OUTPUT = 2

    class ExecutionContextAllocationStrategy(IntEnum):
        USER_MANAGED = 2

    ICudaEngine = IExecutionContext = object

    class ILogger:
        class Severity(IntEnum):
            INTERNAL_ERROR = 0
            ERROR = 1
            WARNING = 2

    def __init__(self) -> None:
        super().__init__("tensorrt")
        self.loggers: list[Any] = []
        self.says: str | None = None
        self.reads: LoadedPlan | None = None
        self.starts: Exception | None = None

    def Runtime(self, logger: Any) -> "Trt":  # noqa: N802 - TensorRT's name
        self.loggers.append(logger)
        if self.starts:
            raise self.starts
        return self

    def deserialize_cuda_engine(self, _plan: bytes) -> "LoadedPlan | None":
        if self.says is not None:
            self.loggers[0].log(self.ILogger.Severity.ERROR, self.says)
        return self.reads


class LoadedPlan:
    """A fake of TensorRT's engine and its execution context in one. The method `refuses` fails as the real one does.

    set_optimization_profile_async raises RuntimeError then, and the others return false or None.
    """

    num_io_tensors = 2
    num_optimization_profiles = 2
    device_memory_size_v2 = 512

    def __init__(self, trt: Trt, refuses: str) -> None:
        self._trt = trt
        self._refuses = refuses

    def get_tensor_name(self, index: int) -> str:
        return ("image", "logits")[index]

    def get_tensor_dtype(self, name: str) -> Trt.DataType:
        return Trt.DataType.UINT8 if name == "image" else Trt.DataType.FLOAT

    def get_tensor_mode(self, name: str) -> Trt.TensorIOMode:
        return Trt.TensorIOMode.INPUT if name == "image" else Trt.TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, SIDE, SIDE, 3) if name == "image" else (-1, CLASSES)

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        assert name == "image"
        return [((1, 8)[index], SIDE, SIDE, 3)] * 3

    def create_execution_context(self, _strategy: Trt.ExecutionContextAllocationStrategy) -> "LoadedPlan | None":
        return self if self._does("create_execution_context") else None

    def set_optimization_profile_async(self, _profile: int, _stream: int) -> bool:
        if not self._does("set_optimization_profile_async"):
            raise RuntimeError("Error in set optimization profile async.")
        return True

    def set_input_shape(self, _name: str, _shape: tuple[int, ...]) -> bool:
        return self._does("set_input_shape")

    def set_tensor_address(self, _name: str, _address: int) -> bool:
        return self._does("set_tensor_address")

    def set_device_memory(self, _address: int, _size: int) -> None:
        pass

    def execute_async_v3(self, _stream: int) -> bool:
        return self._does("execute_async_v3")

    def _does(self, method: str) -> bool:
        if method != self._refuses:
            return True
        self._trt.loggers[0].log(Trt.ILogger.Severity.ERROR, f"IExecutionContext::{method}: not so")
        return False
