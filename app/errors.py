"""What can go wrong, in the service's own words; `app.problems` says which HTTP status each one is."""


class ServiceError(Exception):
    """An error whose message may be shown to whoever asked."""


class NoImage(ServiceError):
    """The request brings no image."""


class TooLarge(ServiceError):
    """More bytes or more pixels than the limits allow."""


class NotAnImage(ServiceError):
    """Not one of the image formats that are taken."""


class BadImage(ServiceError):
    """An image of a known format that cannot be decoded."""


class BadParameter(ServiceError):
    """A parameter that cannot be served."""


class UnknownModel(ServiceError):
    """A model that is not served."""


class NotReady(ServiceError):
    """The model is still loading, or has failed to."""


class BadBundle(ServiceError):
    """A bundle that is not whole, or not what its manifest says."""


class NoEngine(ServiceError):
    """No engine is installed that could run the model as asked for."""
