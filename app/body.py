"""A request's body: read within limits of size, time and memory; the images in it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from starlette.requests import Request

from app.errors import NoImage, NotAnImage, Overloaded, SlowClient, TooLarge
from app.form import BadForm, File, Form, TooManyFiles

FIELD = "file"
FIELDS = "files"
_HOW = f"send the image as multipart field '{FIELD}', or as the body with Content-Type: image/jpeg"
_HOW_MANY = f"send the images as multipart fields '{FIELDS}'"
_OTHER_FIELDS = 8  # of a form, that are no file


@dataclass
class Bodies:
    """The limits for bodies: `max_bytes` and `seconds` for each, `all_bytes` for what is held of all at once."""

    max_bytes: int
    all_bytes: int
    seconds: float
    held: int = 0
    arriving: list["Body"] = field(default_factory=list)  # the oldest first

    def evict_before(self, body: "Body") -> bool:
        """End the oldest body that is still arriving, so that a stalled one holds no memory that `body` needs.

        False if `body` is the oldest itself.
        """
        oldest = next(iter(self.arriving), body)
        if oldest is body or oldest.timeout is None:
            return False
        if not oldest.timeout.expired():  # or else it ends by itself
            oldest.evicted = True
            oldest.timeout.reschedule(0)
        self.held -= oldest.received  # now, or others would be ended for the same need before this one has gone
        oldest.received = 0
        self.arriving.remove(oldest)
        return True

    @contextmanager
    def holding(self, request: Request) -> Iterator["Body"]:
        """The body of `request`, whose memory counts until the block ends."""
        body = Body(request, self)
        try:
            yield body
        finally:
            self.held -= body.received


class Body:
    """A request's body. What reads it raises TooLarge as soon as it passes the limit, SlowClient when it takes too
    long, and Overloaded where there is no memory for it; what comes after that is not read.
    """

    def __init__(self, request: Request, limits: Bodies) -> None:
        self._request = request
        self._limits = limits
        self.received = 0
        self.evicted = False
        self.timeout: asyncio.Timeout | None = None

    async def whole(self) -> bytes:
        """All of it."""
        async with self._in_time():
            return b"".join([chunk async for chunk in self._stream()])

    async def image(self) -> bytes:
        """The one image, in a form or the body itself; NoImage, or NotAnImage where the content type cannot be one."""
        kind = self._request.headers.get("Content-Type", "application/octet-stream").partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            image = (await self._files(FIELD, 1, _HOW))[0].content
        elif kind.startswith("image/") or kind == "application/octet-stream":
            image = await self.whole()
        else:
            raise NotAnImage(f"the content type {kind[:60]!r} is no image; {_HOW}")
        if not image:
            raise NoImage(f"the image is empty; {_HOW}")
        return image

    async def images(self, most: int) -> list[File]:
        """The images of a form with their file names, `most` at most; an empty one may be among them."""
        return await self._files(FIELDS, most, _HOW_MANY)

    async def _stream(self) -> AsyncGenerator[bytes, None]:
        too_large = TooLarge(f"the request body is over the limit of {self._limits.max_bytes:,} bytes")
        declared = self._request.headers.get("Content-Length", "0")
        if declared.isdecimal() and int(declared) > self._limits.max_bytes:
            raise too_large
        async for chunk in self._request.stream():
            if self.evicted:  # with this chunk on its way
                raise TimeoutError
            self.received += len(chunk)
            self._limits.held += len(chunk)
            if self.received > self._limits.max_bytes:
                raise too_large
            if self._limits.held > self._limits.all_bytes and not self._limits.evict_before(self):
                raise Overloaded("too many request bodies are arriving at once", retry_after=1)
            yield chunk

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._limits.seconds) as self.timeout:
                self._limits.arriving.append(self)
                yield
        except TimeoutError as err:
            why = "had to make room for others" if self.evicted else f"was not there within {self._limits.seconds:g} s"
            raise SlowClient(f"the request body {why}") from err
        finally:
            if self in self._limits.arriving:
                self._limits.arriving.remove(self)

    async def _files(self, field: str, most: int, how: str) -> list[File]:
        try:
            form = Form(self._request.headers.get("Content-Type", ""), field, max_files=most, max_fields=_OTHER_FIELDS)
            async with self._in_time():
                async for piece in self._stream():
                    form.feed(piece)
        except TooManyFiles as err:
            if most > 1:
                raise TooLarge(f"the form has more than {most} files, the most in one request") from err
            raise NoImage(f"the form brings more than one file; {how}, or several to /classify/batch") from err
        except BadForm as err:
            raise NoImage(f"the multipart body cannot be read: {err}; {how}") from err
        if not form.files:
            raise NoImage(f"the multipart body has no file in the field '{field}'; {how}")
        return form.files
