"""Parses a multipart form as it arrives (RFC 7578); a file's bytes are copied once, into memory."""

import binascii
import re
from collections.abc import Callable, Collection
from difflib import get_close_matches
from functools import cached_property
from io import BytesIO
from typing import NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.api.content_disposition import CHARSETS, BadDisposition, parse_disposition
from app.decoding.content_kind import looks_like_image

_MAX_FIELD_BYTES = 1 << 20
_MAX_OPTION_BYTES = 1000
_MAX_PART_HEADER_BYTES = 8192  # a file name of 255 characters takes 3,060 bytes as %XX, and may be there twice
_INDEX = re.compile(r"\[\d{0,4}\]")  # PHP and axios write files[] or files[0] for several files
# Values of Content-Transfer-Encoding, a header that RFC 7578, 4.7 deprecates
_IDENTITY_ENCODINGS = (b"", b"binary", b"8bit", b"7bit")
_TRANSFER_DECODERS: dict[bytes, Callable[[bytes], bytes]] = {
    b"base64": binascii.a2b_base64,
    b"quoted-printable": binascii.a2b_qp,
}
_MISSPELLING_SIMILARITY = 0.75  # finds topk, top-k and Resolution
_SHOWN_PREAMBLE_BYTES = 300
_MAX_PREAMBLE_BYTES = 1 << 16
_MAX_BOUNDARY_PADDING_BYTES = 1024
_MAX_EMPTY_INPUTS = 100
_NOT_ENCODED_TEXT = re.compile(rb"[^\t\r\n -~]")  # bytes that base64 and quoted-printable do not produce


class BadForm(Exception):
    """The form cannot be read; `args[0]` says why."""


class TooManyFiles(BadForm):
    """The form has more files than it may."""


class BadField(BadForm):
    """An option field that is misspelled, or has two values."""


class UploadedFile(NamedTuple):
    """A file of a request; the name is "" where there is none."""

    name: str
    content: bytes


class MultipartForm:
    """Collects the files and options of a form that `feed` is given piece by piece (RFC 7578, RFC 2046).

    A part in one of `file_fields` is a file, with a file name or without. The field's name may have an index, such as
    files[]. A part with an empty file name and no content is an input in which no file was chosen (HTML, 4.10.21.4): it
    is not a file. An empty option counts as left out.

    Raises TooManyFiles, BadField for an option, and BadForm for everything else that is not a valid form. The caller
    of `feed` limits the size of the form.

    Args:
        content_type: of the request; it has the boundary.
        file_fields: names of the fields whose files are kept.
        options: names of the fields whose texts are kept.
        max_files: the most files, those in other fields counted.
        max_fields: the most fields that are neither files nor options.

    Attributes:
        files: in the order of the form.
        options: texts by the names of their fields.
        other_file_fields: names of other fields that have files.
        empty_inputs: the number of inputs in which no file was chosen.
    """

    def __init__(
        self,
        content_type: str,
        file_fields: Collection[str],
        options: Collection[str] = (),
        *,
        max_files: int,
        max_fields: int,
    ) -> None:
        _, parameters = parse_options_header(content_type)
        self._charset = parameters.get(b"charset", b"utf-8").decode("latin-1").lower()
        if self._charset not in CHARSETS:
            raise BadForm(f"its charset {self._charset[:20]!r} is not supported; leave it out and send utf-8")
        boundary = parameters.get(b"boundary", b"")
        if not boundary:
            raise BadForm("its Content-Type has no boundary; HTTP libraries set one if you leave the header out")
        self.files: list[UploadedFile] = []
        self.options: dict[str, str] = {}
        self.other_file_fields: list[str] = []
        self.empty_inputs = 0
        self._file_fields, self._option_names = file_fields, options
        self._files_left, self._max_files = max_files, max_files
        self._fields_left, self._max_fields = max_fields, max_fields
        self._preamble: _Preamble | None = _Preamble(boundary)
        self._ended = False
        self._begin_part()
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._add_to_header,
                    "on_header_value": self._add_to_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._add_data,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
                max_header_size=_MAX_PART_HEADER_BYTES,
            )
        except FormParserError as err:
            raise BadForm("its boundary is too long") from err

    def feed(self, piece: bytes) -> None:
        """Parse the next bytes of the form."""
        if self._preamble is not None:
            rest = self._preamble.after(piece)
            if rest is None:
                return
            self._preamble = None
            piece = rest
        try:
            self._parser.write(piece)
        except FormParserError as err:
            raise BadForm(_explain(err, piece)) from err

    def finish(self) -> None:
        """End the form, after its last piece. Raises BadForm if it has no boundary, or ends within a part."""
        if self._preamble is not None:
            raise BadForm(self._preamble.why_no_boundary())
        if not self._ended and (self._in_data or self._header or self._disposition):
            raise BadForm("it ends within a part; the last part is followed by the boundary with -- at its end")

    def _begin_part(self) -> None:
        self._header = self._value = b""
        self._disposition = self._content_type = self._transfer_encoding = b""
        self._filename: str | None = None  # None for a part that is not a file
        self._option: str | None = None
        self._content: BytesIO | None = None  # of a file that is kept, or an option
        self._in_data = False
        self._may_be_empty_input = False
        self._size = 0

    def _add_to_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        name = self._header.lower()
        if name == b"content-disposition":
            self._disposition = self._value
        elif name == b"content-type":
            self._content_type = self._value.strip().lower()
        elif name == b"content-transfer-encoding":
            self._transfer_encoding = self._value.strip().lower()
        self._header = self._value = b""

    def _end_headers(self) -> None:
        self._in_data = True
        try:
            name, filename = parse_disposition(self._disposition.decode("latin-1"), self._charset)
        except BadDisposition as err:
            raise BadForm(str(err)) from err
        if name is None:
            raise BadForm("a part has no Content-Disposition with a name")
        if self._content_type.startswith(b"multipart/"):
            raise BadForm(
                f"the part {name[:60]!r} is itself {self._content_type[:40].decode('latin-1')!r}; "
                "send each file in a part of its own"
            )
        if _INDEX.sub("", name) in self._file_fields:
            self._may_be_empty_input = filename == ""
            self._begin_file(filename or "")
            self._content = BytesIO()
        elif filename:
            self._begin_file(filename)
            self.other_file_fields.append(name)
        else:
            self._begin_field(name)

    def _begin_file(self, filename: str) -> None:
        if not self._may_be_empty_input:
            self._count_file()
        if self._transfer_encoding not in (*_IDENTITY_ENCODINGS, *_TRANSFER_DECODERS):
            encoding = self._transfer_encoding[:40].decode("latin-1")
            raise BadForm(f"the Content-Transfer-Encoding {encoding!r} is not supported; leave it out")
        self._filename = filename

    def _count_file(self) -> None:
        self._files_left -= 1
        if self._files_left < 0:
            raise TooManyFiles(f"it has more than {self._max_files} files")

    def _begin_field(self, name: str) -> None:
        if name not in self._option_names or name in self.options:
            self._fields_left -= 1
        if self._fields_left < 0:
            raise BadForm(f"it has more than {self._max_fields} fields that are neither files nor options")
        if name in self._option_names:
            self._option = name
            self._content = BytesIO()
        elif similar := get_close_matches(
            name[:40].lower().replace("-", "_"), self._option_names, n=1, cutoff=_MISSPELLING_SIMILARITY
        ):
            raise BadField(f"unknown field {name[:40]!r} in the form; did you mean {similar[0]!r}?")

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._filename is None:
            self._size += end - start
            limit = _MAX_FIELD_BYTES if self._option is None else _MAX_OPTION_BYTES
            if self._size > limit:
                raise BadForm(f"a field that is not a file is over the limit of {limit:,} bytes")
        if self._may_be_empty_input and end > start:
            self._may_be_empty_input = False
            self._count_file()
        if self._content is not None:
            self._content.write(memoryview(data)[start:end])

    def _end_part(self) -> None:
        self._in_data = False
        if self._content is None:
            return
        content = self._content.getvalue()  # shares the bytes without a copy
        self._content = None
        if self._may_be_empty_input:
            self.empty_inputs += 1
            if self.empty_inputs > _MAX_EMPTY_INPUTS:
                raise BadForm(f"it has more than {_MAX_EMPTY_INPUTS} file inputs in which no file was chosen")
            return
        if self._option is None:
            self.files.append(UploadedFile(self._filename or "", self._decode(content)))
            return
        value = content.decode("utf-8", "replace")
        if not value.strip():
            return
        if self.options.setdefault(self._option, value) != value:
            raise BadField(f"the form has two values for {self._option!r}")

    def _decode(self, content: bytes) -> bytes:
        """`content` without its transfer encoding; content that is recognised as an image is not encoded."""
        decode = _TRANSFER_DECODERS.get(self._transfer_encoding)
        if decode is None or (looks_like_image(content) and _NOT_ENCODED_TEXT.search(content)):
            return content
        try:
            return decode(content)
        except binascii.Error as err:
            raise BadForm("the data of a part is not base64, as its Content-Transfer-Encoding says") from err

    def _end(self) -> None:
        self._ended = True


class _Preamble:
    """Finds a form's first boundary, which begins a line (RFC 2046, 5.1.1)."""

    def __init__(self, boundary: bytes) -> None:
        self._boundary = boundary
        self._max_boundary_bytes = len(b"\r\n--" + boundary) + _MAX_BOUNDARY_PADDING_BYTES + 2
        self._received = bytearray(b"\r\n")

    @cached_property
    def _first_boundary(self) -> re.Pattern[bytes]:
        padding = _MAX_BOUNDARY_PADDING_BYTES
        ends = rb"(?:[ \t]{0,%d}(?P<end>\r\n|--)|[ \t]{%d})" % (padding, padding + 1)
        return re.compile(re.escape(b"\r\n--" + self._boundary) + ends)

    def after(self, piece: bytes) -> bytes | None:
        """All bytes from the first boundary on, None if it has not come yet. Raises BadForm beyond the limits."""
        if len(self._received) == 2 and piece.startswith(b"--%b\r\n" % self._boundary):
            return piece  # the usual form has no preamble; a compiled expression costs more than the rest of the form
        start = max(len(self._received) - self._max_boundary_bytes, 0)
        self._received += piece
        limit = _MAX_PREAMBLE_BYTES + self._max_boundary_bytes
        match = self._first_boundary.search(self._received, start, limit)
        if match is not None and match["end"] is None:
            raise BadForm(f"its first boundary is followed by more than {_MAX_BOUNDARY_PADDING_BYTES:,} blanks")
        if match is not None:
            return b"--" + self._boundary + bytes(self._received[match.start("end") :])
        if len(self._received) > limit:
            raise BadForm(f"{self.why_no_boundary()}, or comes after more than {_MAX_PREAMBLE_BYTES:,} bytes")
        return None

    def why_no_boundary(self) -> str:
        """The likely reason why the whole form has no boundary."""
        start = bytes(self._received[2 : 2 + _SHOWN_PREAMBLE_BYTES])
        if not start:
            return "it is empty"
        if re.match(rb"\s*--" + re.escape(self._boundary) + rb"\n", start):
            return "its lines end in LF only; those of a form end in CR LF"
        boundary = self._boundary[:60].decode("latin-1")
        if other := re.match(rb"\s*--([^\r\n]{1,70})\r?\n", start):
            return f"its boundary is {other[1].decode('latin-1')!r}, but its Content-Type says {boundary!r}"
        hint = "; it is an image, not a form" if looks_like_image(start) else ""
        return f"the boundary {boundary!r} of its Content-Type is not in it{hint}"


def _explain(err: FormParserError, piece: bytes) -> str:
    """Why the parser could not read `piece`."""
    message, offset = str(err), getattr(err, "offset", -1)
    if "header size" in message:
        return f"a header of a part is longer than {_MAX_PART_HEADER_BYTES:,} bytes"
    if "header count" in message:
        return "a part has too many headers"
    if offset >= 0 and piece[offset : offset + 1] in (b" ", b"\t") and piece[:offset].endswith(b"\n"):
        return "a header of a part continues on a second line; write it on one line"
    return "the headers of its parts do not follow RFC 7578"
