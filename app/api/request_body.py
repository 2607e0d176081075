"""A request's body: read within limits of size, time and memory; the images in it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from starlette.requests import Request

from app.api.content_coding import ContentDecoder
from app.api.multipart import BadField, BadForm, MultipartForm, TooManyFiles, UploadedFile
from app.decoding.content_kind import mistaken
from app.errors import BadParameter, NoImage, NotAnImage, Overloaded, SlowClient, TooLarge
from bundle.bundle_errors import ExplainedError

FILE_FIELD = "file"
BATCH_FIELD = "files"

_SEND_ONE = f"send the image as multipart field '{FILE_FIELD}', or as the body with Content-Type: image/jpeg"
_SEND_SEVERAL = f"send the images as multipart fields '{BATCH_FIELD}'"
_MULTIPART = "multipart/form-data"
_URLENCODED = "application/x-www-form-urlencoded"
_MAX_OTHER_FIELDS = 8  # form fields that are neither files nor options


@dataclass
class Upload:
    """The image files of a request, and the options in its form.

    Attributes:
        files: in the order of the request; an image that is the body itself has no name.
        options: the texts of the form's option fields, by the fields' names.
        content_type: the body's own where it is the image itself, else "".
    """

    files: list[UploadedFile]
    options: dict[str, str] = field(default_factory=dict)
    content_type: str = ""

    def with_content_type(self, err: ExplainedError) -> ExplainedError:
        """`err`, raised for a file that cannot be decoded, with a hint where the body's content type explains it."""
        kind = self.content_type.partition(";")[0].strip().lower()
        if kind == _URLENCODED:  # curl -d removes the line ends of a file
            return type(err)(
                f"{err}; curl sends a file unchanged with --data-binary, or -F {FILE_FIELD}=@FILE, not with -d"
            )
        if not kind or kind.startswith("image/") or kind.endswith("/octet-stream"):
            return err
        return type(err)(f"{err}; it came with the Content-Type {kind[:60]!r}")


class BodyLimits:
    """The limits of request bodies, and the memory that all of them hold.

    Where a body needs memory and there is none, other bodies that are still arriving are evicted: a client that sends
    most of a body and then stalls cannot keep the others out.

    Args:
        max_bytes: of one body, as it arrives and after decompression.
        max_total_bytes: of all bodies at once.
        seconds: within which a body must arrive.
    """

    def __init__(self, max_bytes: int, max_total_bytes: int, seconds: float) -> None:
        self.max_bytes = max_bytes
        self.max_total_bytes = max_total_bytes
        self.seconds = seconds
        self.held_bytes = 0
        self.arriving: list[RequestBody] = []  # the oldest first

    @contextmanager
    def open_body(self, request: Request) -> Iterator["RequestBody"]:
        """The body of `request`, whose memory counts until the block ends."""
        body = RequestBody(request, self)
        try:
            yield body
        finally:
            self.held_bytes -= body.held_bytes

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Count a body of `size` bytes that has arrived by another way, until the block ends. Raises Overloaded."""
        self.held_bytes += size
        try:
            if self.held_bytes > self.max_total_bytes and not self.make_room():
                raise overloaded()
            yield
        finally:
            self.held_bytes -= size

    def make_room(self, body: "RequestBody | None" = None) -> bool:
        """Evict other arriving bodies until what `body` holds fits; False, with none evicted, if that is impossible.

        The largest go first, the oldest of equals, and no more than needed.
        """
        others = [other for other in self.arriving if other is not body]
        if self.held_bytes - sum(other.held_bytes for other in others) > self.max_total_bytes:
            return False
        for other in sorted(others, key=lambda other: -other.held_bytes):
            if self.held_bytes <= self.max_total_bytes:
                break
            other.evict()
        return True


class RequestBody:
    """A request's body; BodyLimits.open_body makes one.

    Its readers raise TooLarge as soon as the body passes its limit, SlowClient when it takes too long or is evicted,
    and Overloaded where no memory can be had for it. What comes after that is not read.
    """

    def __init__(self, request: Request, limits: BodyLimits) -> None:
        self._request = request
        self._limits = limits
        self.timeout = asyncio.timeout(limits.seconds)
        self._evicted = False
        self.held_bytes = 0

    async def whole(self) -> bytes:
        """All of it."""
        async with self._in_time():
            return b"".join([chunk async for chunk in self._stream()])

    async def image(
        self, options: Collection[str] = (), *, fields: Sequence[str] = (FILE_FIELD,), advice: str = _SEND_ONE
    ) -> Upload:
        """The one image: in a form, or the body itself under any content type.

        `options` are names of form fields, `fields` names of those that may have the image; errors name the first one,
        and give the `advice`.

        Raises NoImage, BadParameter for a form's fields, or NotAnImage for a body that is recognised as another format.
        """
        content_type = self._request.headers.get("Content-Type", "")
        if _is_form(content_type):
            upload = await self._form(options, 1, advice, fields)
        else:
            upload = Upload([UploadedFile("", await self.whole())], content_type=content_type)
        image = upload.files[0].content
        if not image:
            raise NoImage(f"the image is empty; {advice}")
        is_coded = "Content-Encoding" in self._request.headers
        if kind := mistaken(image, body=not is_coded and not _is_form(content_type)):
            subject = f"the body ({content_type[:60]})" if upload.content_type else "the file"
            raise NotAnImage(f"{subject} is not an image but {kind}. Or {advice}")
        return upload

    async def images(self, max_files: int, options: Collection[str] = ()) -> Upload:
        """The images of a form with their file names, at most `max_files`; they may be empty. Raises as `image`."""
        content_type = self._request.headers.get("Content-Type", "")
        if not _is_form(content_type):
            raise NoImage(f"the content type {content_type[:60]!r} is not {_MULTIPART}; {_SEND_SEVERAL}")
        return await self._form(options, max_files, _SEND_SEVERAL, (BATCH_FIELD,))

    def evict(self) -> None:
        """Stop reading: the reader raises SlowClient at its next turn of the event loop.

        The memory counts as free at once, or several bodies would be evicted for the same need.
        """
        if not self.timeout.expired():  # an expired one ends the reader anyway
            self._evicted = True
            self.timeout.reschedule(0)
        self._limits.held_bytes -= self.held_bytes
        self.held_bytes = 0
        self._limits.arriving.remove(self)

    async def _stream(self) -> AsyncGenerator[bytes, None]:
        """The body in pieces, without its content codings; limits apply to what arrives and to what it decodes to."""
        declared = self._request.headers.get("Content-Length", "0")
        if declared.isdecimal() and int(declared) > self._limits.max_bytes:
            raise self._too_large()
        codings = self._request.headers.get("Content-Encoding", "")
        decoder = ContentDecoder(codings)
        arrived = 0
        async for chunk in self._request.stream():
            if self._evicted:  # the chunk was on its way when the timeout was set
                raise TimeoutError
            arrived += len(chunk)
            if arrived > self._limits.max_bytes:
                raise self._too_large()
            for piece in decoder.feed(chunk):
                if piece:
                    self._hold(piece, codings)
                    yield piece
                if codings:  # a small chunk may decode to many pieces: let other requests run in between
                    await asyncio.sleep(0)
        for piece in filter(None, decoder.finish()):
            self._hold(piece, codings)
            yield piece

    def _hold(self, piece: bytes, codings: str) -> None:
        self.held_bytes += len(piece)
        self._limits.held_bytes += len(piece)
        if self.held_bytes > self._limits.max_bytes:
            raise self._too_large(" after decompression" if codings else "")
        if self._limits.held_bytes > self._limits.max_total_bytes and not self._limits.make_room(self):
            raise overloaded()

    def _too_large(self, when: str = "") -> TooLarge:
        return TooLarge(f"the request body is over the limit of {self._limits.max_bytes:,} bytes{when}")

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        try:
            async with self.timeout:
                self._limits.arriving.append(self)
                yield
        except TimeoutError as err:
            if self._evicted:
                raise SlowClient("the request body was dropped to make room for others") from err
            raise SlowClient(f"the request body did not arrive within {self._limits.seconds:g} s") from err
        finally:
            if self in self._limits.arriving:
                self._limits.arriving.remove(self)

    async def _form(self, options: Collection[str], max_files: int, advice: str, fields: Sequence[str]) -> Upload:
        try:
            form = MultipartForm(
                self._request.headers.get("Content-Type", ""),
                file_fields={*fields, FILE_FIELD, BATCH_FIELD},
                options=options,
                max_files=max_files,
                max_fields=_MAX_OTHER_FIELDS,
            )
            async with self._in_time():
                async for piece in self._stream():
                    form.feed(piece)
            form.finish()
        except TooManyFiles as err:
            if max_files > 1:
                raise TooLarge(f"the form has more than {max_files} files, the limit for one request") from err
            raise NoImage(f"the form has more than one file; {advice}, or several to /classify/batch") from err
        except BadField as err:
            raise BadParameter(str(err)) from err
        except BadForm as err:
            raise NoImage(f"the multipart body cannot be read: {err}; {advice}") from err
        if not form.files and form.empty_inputs:
            raise NoImage(f"no file was chosen in the form: the file and its name are empty; {advice}")
        if not form.files:
            others = ", ".join(repr(name[:60]) for name in form.other_file_fields[:5])
            where = f", but in {others}" if others else ""
            raise NoImage(f"the multipart body has no file in the field '{fields[0]}'{where}; {advice}")
        return Upload(form.files, form.options)


def overloaded() -> Overloaded:
    """The error of a body for which there is no memory."""
    return Overloaded("too many request bodies are arriving at once", retry_after=1)


def _is_form(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == _MULTIPART
