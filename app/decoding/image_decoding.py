"""Image files to the network's pixels, by model.preprocess; its errors become the service's."""

from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import BadImage, NotAnImage, TooLarge
from model.crop_windows import Size
from model.files.bad_files import BadFile, TooManyPixels, UnknownFormat
from model.preprocess import Pixels, preprocess_and_measure
from model.spec import Preprocessing


def decode(body: bytes, steps: Preprocessing, max_pixels: int, *, scaled_jpeg: bool = False) -> Pixels:
    """The pixels (crop, crop, 3) of the image file `body`, as model.preprocess.preprocess makes them.

    Raises NotAnImage, TooLarge (more than `max_pixels`, found before decoding) or BadImage.
    """
    return decode_and_measure(body, steps, max_pixels, scaled_jpeg=scaled_jpeg)[0]


def decode_and_measure(
    body: bytes, steps: Preprocessing, max_pixels: int, *, scaled_jpeg: bool = False
) -> tuple[Pixels, Size]:
    """The pixels of `decode`, and the size of the upright picture."""
    with service_errors():
        return preprocess_and_measure(body, steps, max_pixels, scaled_jpeg=scaled_jpeg)


@contextmanager
def service_errors() -> Iterator[None]:
    """Raise the service's errors for those of files: NotAnImage, TooLarge or BadImage."""
    try:
        yield
    except UnknownFormat as err:
        raise NotAnImage(str(err)) from err
    except TooManyPixels as err:
        raise TooLarge(str(err)) from err
    except BadFile as err:
        raise BadImage(str(err)) from err
