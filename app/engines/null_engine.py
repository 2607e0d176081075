"""An engine that computes nothing: it measures what the service costs beside its engine, on any machine.

`auto` never takes it. Its answers are wrong by intent, so the golden logits are not asked of it
(app.engines.engine_process.golden_check).
"""

import time
from collections.abc import Iterator

import numpy as np

from app.engines.interface import EngineFiles
from bundle.precisions import F32
from bundle.tensors import OUTPUTS, Images, Outputs

_BATCH = 32


class NullEngine:
    """Answers with zeros, n images in n / `rate` seconds.

    Args:
        classes: of the bundle's network.
        rate: images per second; 0 answers at once.
    """

    name = "null"
    precision = F32
    batch = _BATCH

    def __init__(self, classes: int, rate: float) -> None:
        self._classes = classes
        self._image_seconds = 1 / rate if rate else 0.0
        self._zeros = np.zeros(len(OUTPUTS) * self.batch * classes, np.float32)

    def load(self, side: int) -> None:
        pass

    def run(self, images: Images) -> Outputs:
        end = time.perf_counter() + len(images) * self._image_seconds
        shape = (len(OUTPUTS), len(images), self._classes)
        count = int(np.prod(shape))
        if count > self._zeros.size:
            self._zeros = np.zeros(count, np.float32)
        time.sleep(max(0.0, end - time.perf_counter()))
        return self._zeros[:count].reshape(shape)

    def close(self) -> None:
        pass


def offer_null(files: EngineFiles, _: int) -> Iterator[NullEngine]:
    yield NullEngine(files.classes, files.null_rate)
