"""The protocol of a GPU that decodes JPEGs. `nvimagecodec` implements it, `jpeg_decoder` uses it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from app.engines.gpu.device import Address


@dataclass(frozen=True)
class Bitmap:
    """Decoded pixels in the GPU's memory: RGB, rows `pitch` bytes apart. They stay until the next call that decodes."""

    address: Address
    pitch: int
    width: int
    height: int


class JpegDevice(Protocol):
    """A GPU that decodes JPEGs. Work is done in the order of the calls, at some time after them; DeviceError."""

    def decode(self, bodies: Sequence[bytes]) -> list[Bitmap | None]:
        """A bitmap for each body, None for one that cannot be decoded."""
        ...

    def take(self, size: int) -> Address:
        """`size` bytes of the GPU's memory."""
        ...

    def give_back(self, address: Address) -> None: ...

    def copy_in(self, to: Address, array: NDArray[Any]) -> None: ...

    def copy_out(self, to: NDArray[Any], address: Address) -> None: ...

    def launch(
        self, kernel: str, blocks: tuple[int, int, int], threads: tuple[int, int], arguments: Sequence[int]
    ) -> None:
        """Run a kernel of resize.cu; all have the arguments (pointer, int, int, pointer, pointer, pointer, pointer)."""
        ...

    def wait(self) -> None:
        """Wait here until all is done."""
        ...

    def close(self) -> None: ...
