"""A request's body: read within limits of size, time and memory; the images in it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from starlette.requests import Request

from app.api.content_coding import Coded
from app.api.multipart import BadField, BadForm, File, Form, TooManyFiles
from app.decoding.content_kind import mistaken
from app.errors import BadParameter, NoImage, NotAnImage, Overloaded, SlowClient, TooLarge
from bundle.bundle_errors import ExplainedError

FIELD = "file"
FIELDS = "files"
_HOW = f"send the image as multipart field '{FIELD}', or as the body with Content-Type: image/jpeg"
_HOW_MANY = f"send the images as multipart fields '{FIELDS}'"
_FORM = "multipart/form-data"
_URLENCODED = "application/x-www-form-urlencoded"
_OTHER_FIELDS = 8  # of a form, that are neither files nor options


@dataclass
class Upload:
    """What a request brings: image files, and the options in its form by their names.

    `content_type` is the body's own where it is the image itself, else "".
    """

    files: list[File]
    options: dict[str, str] = field(default_factory=dict)
    content_type: str = ""

    def explained(self, err: ExplainedError) -> ExplainedError:
        """`err`, which says that a file cannot be decoded, with what its content type says of it."""
        kind = self.content_type.partition(";")[0].strip().lower()
        if kind == _URLENCODED:  # which takes the ends of lines out of a file
            return type(err)(f"{err}; curl sends a file as it is with --data-binary, or -F {FIELD}=@FILE, not with -d")
        if not kind or kind.startswith("image/") or kind.endswith("/octet-stream"):
            return err
        return type(err)(f"{err}; it came with the Content-Type {kind[:60]!r}")


@dataclass
class Bodies:
    """The limits for bodies: `max_bytes` and `seconds` for each, `all_bytes` for what is held of all at once."""

    max_bytes: int
    all_bytes: int
    seconds: float
    held: int = 0
    arriving: list["Body"] = field(default_factory=list)  # the oldest first

    def evict_before(self, body: "Body") -> bool:
        """End other bodies that are still arriving, so that stalled ones hold no memory that `body` needs.

        Those that hold the most go first, of equals the oldest, and no more than have to. False, and none is ended, if
        all of them together would not make room.
        """
        others = [other for other in self.arriving if other is not body and other.timeout is not None]
        if self.held - sum(other.received for other in others) > self.all_bytes:
            return False
        for other in sorted(others, key=lambda other: -other.received):
            if self.held <= self.all_bytes:
                break
            self._end(other)
        return True

    def _end(self, body: "Body") -> None:
        if body.timeout is not None and not body.timeout.expired():  # or else it ends by itself
            body.evicted = True
            body.timeout.reschedule(0)
        self.held -= body.received  # now, or others would be ended for the same need before this one has gone
        body.received = 0
        self.arriving.remove(body)

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

    async def image(self, options: Collection[str] = ()) -> Upload:
        """The one image: in a form, or the body itself, whatever its content type says. `options` are fields' names.

        Raises NoImage, BadParameter for a form's fields, or NotAnImage for a body that plainly is something else.
        """
        content_type = self._request.headers.get("Content-Type", "")
        if _is_form(content_type):
            upload = await self._form(options, 1, _HOW)
        else:
            upload = Upload([File("", await self.whole())], content_type=content_type)
        image = upload.files[0].content
        if not image:
            raise NoImage(f"the image is empty; {_HOW}")
        coded = "Content-Encoding" in self._request.headers
        if what := mistaken(image, body=not coded and not _is_form(content_type)):
            sent = f"the body ({content_type[:60]})" if upload.content_type else "the file"
            raise NotAnImage(f"{sent} is no image but {what}. Or {_HOW}")
        return upload

    async def images(self, most: int, options: Collection[str] = ()) -> Upload:
        """The images of a form with their file names, `most` at most; an empty one may be among them."""
        content_type = self._request.headers.get("Content-Type", "")
        if not _is_form(content_type):
            raise NoImage(f"the content type {content_type[:60]!r} is no {_FORM}; {_HOW_MANY}")
        return await self._form(options, most, _HOW_MANY)

    async def _stream(self) -> AsyncGenerator[bytes, None]:
        """The body in pieces, without its content codings; the limits are on what arrives and on what it decodes to."""
        declared = self._request.headers.get("Content-Length", "0")
        if declared.isdecimal() and int(declared) > self._limits.max_bytes:
            raise self._too_large()
        codings = self._request.headers.get("Content-Encoding", "")
        body = Coded(codings)
        arrived = 0
        async for chunk in self._request.stream():
            if self.evicted:  # with this chunk on its way
                raise TimeoutError
            arrived += len(chunk)
            if arrived > self._limits.max_bytes:
                raise self._too_large()
            for piece in body.feed(chunk):
                if piece:
                    self._hold(piece, codings)
                    yield piece
                if codings:  # a small chunk may be much to inflate
                    await asyncio.sleep(0)
        for piece in filter(None, body.finish()):
            self._hold(piece, codings)
            yield piece

    def _hold(self, piece: bytes, codings: str) -> None:
        self.received += len(piece)
        self._limits.held += len(piece)
        if self.received > self._limits.max_bytes:
            raise self._too_large(" after decompression" if codings else "")
        if self._limits.held > self._limits.all_bytes and not self._limits.evict_before(self):
            raise Overloaded("too many request bodies are arriving at once", retry_after=1)

    def _too_large(self, when: str = "") -> TooLarge:
        return TooLarge(f"the request body is over the limit of {self._limits.max_bytes:,} bytes{when}")

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

    async def _form(self, options: Collection[str], most: int, how: str) -> Upload:
        try:
            content_type = self._request.headers.get("Content-Type", "")
            form = Form(content_type, (FIELD, FIELDS), options, max_files=most, max_fields=_OTHER_FIELDS)
            async with self._in_time():
                async for piece in self._stream():
                    form.feed(piece)
            form.finish()
        except TooManyFiles as err:
            if most > 1:
                raise TooLarge(f"the form has more than {most} files, the most in one request") from err
            raise NoImage(f"the form brings more than one file; {how}, or several to /classify/batch") from err
        except BadField as err:
            raise BadParameter(str(err)) from err
        except BadForm as err:
            raise NoImage(f"the multipart body cannot be read: {err}; {how}") from err
        if not form.files and form.unchosen:
            raise NoImage(f"no file was chosen in the form: the file name is empty, and so is the file; {how}")
        if not form.files:
            seen = f", but in {', '.join(repr(name[:60]) for name in form.others[:5])}" if form.others else ""
            raise NoImage(
                f"the multipart body has no file in the field '{FIELD if most == 1 else FIELDS}'{seen}; {how}"
            )
        return Upload(form.files, form.options)


def _is_form(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == _FORM
