"""Errors of the service; `app.api.problems` maps each class to an HTTP status.

The class names are the `reason` label of crossvit_rejected_total.
"""

from bundle.bundle_errors import ExplainedError


class NoImage(ExplainedError):
    """The request has no image."""


class BadBody(ExplainedError):
    """The body is not in the content coding that its headers name."""


class UnknownCoding(ExplainedError):
    """The body is in a content coding that is not supported."""


class TooLarge(ExplainedError):
    """More bytes, pixels or images than the limits allow."""


class NotAnImage(ExplainedError):
    """The bytes are not in a supported image format."""


class BadImage(ExplainedError):
    """An image of a supported format cannot be decoded, or not within the decoder's time and memory."""


class BadParameter(ExplainedError):
    """A parameter or option has an invalid value."""


class NoInspection(ExplainedError):
    """The model's bundle has no inspection graph: the model can be neither explained nor embedded."""


class NotCalibrated(ExplainedError):
    """The request needs calibrated scores, or a cascade, and the model has none that fits."""


class BadInference(ExplainedError):
    """A request of the Open Inference Protocol is invalid, or names something that the model does not have."""


class UnknownModel(ExplainedError):
    """The named model is not served."""


class NotReady(ExplainedError):
    """The model is still loading or failed to load, or its engine is being restarted."""


class QueueFull(ExplainedError):
    """The queue is full."""


class Overloaded(ExplainedError):
    """The memory for request bodies is used up."""


class TooLate(ExplainedError):
    """The request's deadline has passed, or would pass before its answer is ready."""


class SlowClient(ExplainedError):
    """The request's body did not arrive in time."""


class EngineFailed(ExplainedError):
    """The engine raised or died while it had the request."""


class EngineHung(ExplainedError):
    """The engine did not answer in time while it had the request."""


class Unauthorized(ExplainedError):
    """The request has no key, or an unknown one."""


class Forbidden(ExplainedError):
    """The key or the port does not allow the operation."""


class RateLimited(ExplainedError):
    """The key has used up its rate."""


class LoadFailed(ExplainedError):
    """A model could not be loaded; the one that was served before still is."""


class WrongAnswers(ExplainedError):
    """An engine's logits differ from the recorded ones of the golden images."""


class NoEngine(ExplainedError):
    """No installed engine can run the model as requested."""


class PullFailed(ExplainedError):
    """The bundle of a source could not be made; the program that tried has printed why."""
