"""The image in a request: a multipart field, or the body itself."""

from collections.abc import AsyncGenerator

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from app.errors import NoImage, NotAnImage, TooLarge

FIELD = "file"
_HOW = f"send the image as multipart field '{FIELD}', or as the body with Content-Type: image/jpeg"


async def read_image(request: Request, max_bytes: int) -> bytes:
    """The bytes of the request's image, whatever they are.

    Raises NoImage, NotAnImage where the content type cannot be one, and TooLarge as soon as the body passes
    `max_bytes`; what comes after that is not read.
    """
    kind = request.headers.get("Content-Type", "application/octet-stream").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        image = await _field(request.headers, _limited(request, max_bytes), max_bytes)
    elif kind.startswith("image/") or kind == "application/octet-stream":
        image = b"".join([chunk async for chunk in _limited(request, max_bytes)])
    else:
        raise NotAnImage(f"the content type {kind[:60]!r} is no image; {_HOW}")
    if not image:
        raise NoImage(f"the image is empty; {_HOW}")
    return image


async def _limited(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    too_large = TooLarge(f"the request body is over the limit of {max_bytes:,} bytes")
    declared = request.headers.get("Content-Length", "0")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise too_large
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > max_bytes:
            raise too_large
        yield chunk


async def _field(headers: Headers, stream: AsyncGenerator[bytes, None], max_bytes: int) -> bytes:
    parser = MultiPartParser(headers, stream, max_files=1, max_fields=8)
    parser.spool_max_size = max_bytes  # in memory: the body's limit bounds it
    try:
        form = await parser.parse()
    except MultiPartException as err:
        raise NoImage(f"the multipart body cannot be read, or brings more than one file; {_HOW}") from err
    part = form.get(FIELD)
    if not isinstance(part, UploadFile):
        raise NoImage(f"the multipart body has no file in the field '{FIELD}'; {_HOW}")
    return await part.read()
