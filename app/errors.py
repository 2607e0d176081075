"""What can go wrong, in the service's own words; `app.problems` says which HTTP status each one is.

The names of these classes are the `reason` of crossvit_rejected_total.
"""


class ServiceError(Exception):
    """An error whose message may be shown to whoever asked; `retry_after`, in seconds, where trying again may help."""

    def __init__(self, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NoImage(ServiceError):
    """The request brings no image."""


class BadBody(ServiceError):
    """A body that is not in the content coding that its headers name."""


class UnknownCoding(ServiceError):
    """A body in a content coding that is not taken."""


class TooLarge(ServiceError):
    """More bytes, pixels or images than the limits allow."""


class NotAnImage(ServiceError):
    """Not one of the image formats that are taken."""


class BadImage(ServiceError):
    """An image of a known format that cannot be decoded, or not within the decoder's time and memory."""


class BadParameter(ServiceError):
    """A parameter that cannot be served."""


class BadInference(ServiceError):
    """A request of the Open Inference Protocol that is not one, or asks for what the model has not."""


class UnknownModel(ServiceError):
    """A model that is not served."""


class NotReady(ServiceError):
    """The model is still loading, has failed to, or its engine is being rebuilt."""


class QueueFull(ServiceError):
    """As many images wait as the queue holds."""


class Overloaded(ServiceError):
    """The memory for request bodies is taken."""


class TooLate(ServiceError):
    """The request's deadline has passed, or would pass before its answer is there."""


class SlowClient(ServiceError):
    """The request's body did not arrive in time."""


class EngineFailed(ServiceError):
    """The engine raised or died while it had the request."""


class EngineHung(ServiceError):
    """The engine did not come back in time while it had the request."""


class Unauthorized(ServiceError):
    """No key, or one that is not known."""


class Forbidden(ServiceError):
    """A key, or a port, that does not open this."""


class RateLimited(ServiceError):
    """The key has used up its rate."""


class LoadFailed(ServiceError):
    """A model that could not be loaded; what was served before still is."""


class BadBundle(ServiceError):
    """A bundle that is not whole, or not what its manifest says."""


class WrongAnswers(ServiceError):
    """An engine whose logits are not the recorded ones."""


class NoEngine(ServiceError):
    """No engine is installed that could run the model as asked for."""


class DeviceLost(NoEngine):
    """An engine failed on its device, and may have left it so that in this process no other engine works there."""
