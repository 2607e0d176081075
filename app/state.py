"""What is served, and whether it is ready."""

from app.errors import NotReady, UnknownModel
from app.model import Model


class Serving:
    """The models by name, one of them the default; empty until they are loaded."""

    def __init__(self, default: str) -> None:
        self.default = default
        self.models: dict[str, Model] = {}
        self.failed = False

    def model(self, name: str | None = None) -> Model:
        """The model called `name`, or the default one. Raises UnknownModel, or NotReady while it is loading."""
        name = name or self.default
        model = self.models.get(name)
        if model is not None:
            return model
        if name == self.default:
            raise NotReady(f"{name} cannot be served; the log says why" if self.failed else f"{name} is loading")
        raise UnknownModel(f"there is no model {name[:60]!r}; GET /models lists those that are served")
