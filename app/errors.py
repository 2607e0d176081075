"""Errors of the service; `app.api.problems` maps each class to an HTTP status.

The class names are the `reason` label of crossvit_rejected_total.
"""

from bundle.bundle_errors import ExplainedError


class NoImage(ExplainedError):
    """The request brings no image."""


class BadBody(ExplainedError):
    """A body that is not in the content coding that its headers name."""


class UnknownCoding(ExplainedError):
    """A body in a content coding that is not taken."""


class TooLarge(ExplainedError):
    """More bytes, pixels or images than the limits allow."""


class NotAnImage(ExplainedError):
    """Not one of the image formats that are taken."""


class BadImage(ExplainedError):
    """An image of a known format that cannot be decoded, or not within the decoder's time and memory."""


class BadParameter(ExplainedError):
    """A parameter that cannot be served."""


class BadInference(ExplainedError):
    """A request of the Open Inference Protocol that is not one, or asks for what the model has not."""


class UnknownModel(ExplainedError):
    """A model that is not served."""


class NotReady(ExplainedError):
    """The model is still loading, has failed to, or its engine is being rebuilt."""


class QueueFull(ExplainedError):
    """As many images wait as the queue holds."""


class Overloaded(ExplainedError):
    """The memory for request bodies is taken."""


class TooLate(ExplainedError):
    """The request's deadline has passed, or would pass before its answer is there."""


class SlowClient(ExplainedError):
    """The request's body did not arrive in time."""


class EngineFailed(ExplainedError):
    """The engine raised or died while it had the request."""


class EngineHung(ExplainedError):
    """The engine did not come back in time while it had the request."""


class Unauthorized(ExplainedError):
    """No key, or one that is not known."""


class Forbidden(ExplainedError):
    """A key, or a port, that does not open this."""


class RateLimited(ExplainedError):
    """The key has used up its rate."""


class LoadFailed(ExplainedError):
    """A model that could not be loaded; what was served before still is."""


class WrongAnswers(ExplainedError):
    """An engine whose logits are not the recorded ones."""


class NoEngine(ExplainedError):
    """No engine is installed that could run the model as asked for."""
