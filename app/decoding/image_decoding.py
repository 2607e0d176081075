"""Image files to the network's pixels, by model.preprocess; its errors become the service's."""

from app.errors import BadImage, NotAnImage, TooLarge
from model.files.bad_files import BadFile, TooManyPixels, UnknownFormat
from model.preprocess import Pixels, preprocess
from model.spec import Preprocessing


def decode(body: bytes, steps: Preprocessing, max_pixels: int, *, scaled_jpeg: bool = False) -> Pixels:
    """The pixels (crop, crop, 3) of the image file `body`, as model.preprocess.preprocess makes them.

    Raises NotAnImage, TooLarge (more than `max_pixels`, found before decoding) or BadImage.
    """
    try:
        return preprocess(body, steps, max_pixels, scaled_jpeg=scaled_jpeg)
    except UnknownFormat as err:
        raise NotAnImage(str(err)) from err
    except TooManyPixels as err:
        raise TooLarge(str(err)) from err
    except BadFile as err:
        raise BadImage(str(err)) from err
