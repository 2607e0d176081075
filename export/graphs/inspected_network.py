"""The network that is inspected: pixels and classes in, what it looked at out."""

from torch import Tensor

from export.graphs.served_network import OnPixels
from model.fusion_inspection import Inspection, inspect


class Inspected(OnPixels):
    """The network that also says what its answer comes from."""

    def forward(self, image: Tensor, classes: Tensor) -> Inspection:
        """uint8 RGB (batch, side, side, 3) and class indices (batch, k) to an Inspection."""
        return inspect(self.network, self.normalized(image), classes)
