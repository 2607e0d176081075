"""A multipart form, taken apart as it arrives: a file's bytes are copied once, into memory."""

import binascii
import re
from collections.abc import Callable, Collection
from difflib import get_close_matches
from io import BytesIO
from typing import NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.api.content_disposition import CHARSETS, BadDisposition, parse_disposition
from app.decoding.content_kind import looks_like_image

_MAX_FIELD_BYTES = 1 << 20
_MAX_OPTION_BYTES = 1000
_MAX_HEADER_BYTES = 8192  # of a part: a name of 255 characters takes 3,060 bytes as %XX, and may be there twice
_INDEX = re.compile(r"\[\d{0,4}\]")  # PHP's and axios's names of what are several: files[], files[0]
# Content-Transfer-Encoding, of which RFC 7578, 4.7 wants none
_AS_IT_IS = (b"", b"binary", b"8bit", b"7bit")
_TRANSFERS: dict[bytes, Callable[[bytes], bytes]] = {
    b"base64": binascii.a2b_base64,
    b"quoted-printable": binascii.a2b_qp,
}
_NEAR = 0.75  # of a name to an option's: topk, top-k, Resolution
_FIRST_BYTES = 300
_MAX_PREAMBLE_BYTES = 1 << 16
_MAX_PADDING_BYTES = 1024  # after the first boundary
_MAX_UNCHOSEN = 100  # inputs for files in which none was chosen
_NO_TEXT = re.compile(rb"[^\t\r\n -~]")  # what neither base64 nor quoted-printable has


class BadForm(Exception):
    """The form cannot be read; `args[0]` says why."""


class TooManyFiles(BadForm):
    """The form has more files than it may."""


class BadField(BadForm):
    """A field that is meant for an option, and cannot be it."""


class File(NamedTuple):
    name: str
    content: bytes


class Form:
    """Collects the files in `fields`, and the texts in `options`, of a form that `feed` is given piece by piece.

    As RFC 7578 and RFC 2046 have it: what is in `fields` is a file, with a file name or without. A name may have an
    index, such as files[]. `others` are the names of other fields with files. Raises TooManyFiles for more than
    `max_files` files, those in other fields counted, BadField, and BadForm for more than `max_fields` fields that are
    neither, or what is no form; `finish` raises it for a form that breaks off. Limits of size are for whoever feeds it.

    A part with an empty file name and nothing in it is an input in which no file was chosen (HTML, 4.10.21.4): it is no
    file, and sets `unchosen`. An option that is empty counts as left out.
    """

    def __init__(
        self,
        content_type: str,
        fields: Collection[str],
        options: Collection[str] = (),
        *,
        max_files: int,
        max_fields: int,
    ) -> None:
        _, parameters = parse_options_header(content_type)
        self._charset = parameters.get(b"charset", b"utf-8").decode("latin-1").lower()
        if self._charset not in CHARSETS:
            raise BadForm("the charset of a form is utf-8; leave it out")
        boundary = parameters.get(b"boundary", b"")
        if not boundary:
            raise BadForm("its Content-Type has no boundary; HTTP libraries set it if you leave the header out")
        self.files: list[File] = []
        self.options: dict[str, str] = {}
        self.others: list[str] = []
        self.unchosen = 0
        self._fields, self._options = fields, options
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
                max_header_size=_MAX_HEADER_BYTES,
            )
        except FormParserError as err:
            raise BadForm("its boundary is too long") from err

    def feed(self, piece: bytes) -> None:
        """Take the next bytes of the form."""
        if self._preamble is not None:
            rest = self._preamble.after(piece)
            if rest is None:
                return
            self._preamble = None
            piece = rest
        try:
            self._parser.write(piece)
        except FormParserError as err:
            raise BadForm(_why(err, piece)) from err

    def finish(self) -> None:
        """Raise BadForm if the form has not begun, or breaks off within a part, when all of it has been fed."""
        if self._preamble is not None:
            raise BadForm(self._preamble.why_none())
        if not self._ended and (self._in_data or self._header or self._disposition):
            raise BadForm("it breaks off within a part; after the last one its boundary stands, with -- at the end")

    def _begin_part(self) -> None:
        self._header = self._value = self._disposition = self._kind = self._transfer = b""
        self._name: str | None = None  # of a file
        self._option: str | None = None
        self._content: BytesIO | None = None  # of a file in the fields, or an option
        self._in_data = False
        self._may_be_unchosen = False
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
            self._kind = self._value.strip().lower()
        elif name == b"content-transfer-encoding":
            self._transfer = self._value.strip().lower()
        self._header = self._value = b""

    def _end_headers(self) -> None:
        self._in_data = True
        try:
            name, filename = parse_disposition(self._disposition.decode("latin-1"), self._charset)
        except BadDisposition as err:
            raise BadForm(str(err)) from err
        if name is None:
            raise BadForm("a part has no Content-Disposition with a name")
        if self._kind.startswith(b"multipart/"):
            raise BadForm(
                f"the part {name[:60]!r} is {self._kind[:40].decode('latin-1')!r} itself; each file has a part"
            )
        if _INDEX.sub("", name) in self._fields:
            self._may_be_unchosen = filename == ""
            self._begin_file(filename or "")
            self._content = BytesIO()
        elif filename:
            self._begin_file(filename)
            self.others.append(name)
        else:
            self._begin_field(name)

    def _begin_file(self, filename: str) -> None:
        if not self._may_be_unchosen:
            self._count_file()
        if self._transfer not in (*_AS_IT_IS, *_TRANSFERS):
            raise BadForm(
                f"the Content-Transfer-Encoding {self._transfer[:40].decode('latin-1')!r} is not taken; leave it out"
            )
        self._name = filename

    def _count_file(self) -> None:
        self._files_left -= 1
        if self._files_left < 0:
            raise TooManyFiles(f"it has more than {self._max_files} files")

    def _begin_field(self, name: str) -> None:
        if name not in self._options or name in self.options:
            self._fields_left -= 1
        if self._fields_left < 0:
            raise BadForm(f"it has more than {self._max_fields} fields that are neither files nor options")
        if name in self._options:
            self._option = name
            self._content = BytesIO()
        elif near := get_close_matches(name[:40].lower().replace("-", "_"), self._options, n=1, cutoff=_NEAR):
            raise BadField(f"there is no field {name[:40]!r} in this form; {near[0]!r} is one")

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._name is None:
            self._size += end - start
            most = _MAX_FIELD_BYTES if self._option is None else _MAX_OPTION_BYTES
            if self._size > most:
                raise BadForm(f"a field that is no file is over the limit of {most:,} bytes")
        if self._may_be_unchosen and end > start:
            self._may_be_unchosen = False
            self._count_file()
        if self._content is not None:
            self._content.write(memoryview(data)[start:end])

    def _end_part(self) -> None:
        self._in_data = False
        if self._content is None:
            return
        content = self._content.getvalue()  # shares the bytes, and copies none
        self._content = None
        if self._may_be_unchosen:
            self.unchosen += 1
            if self.unchosen > _MAX_UNCHOSEN:
                raise BadForm(f"it has more than {_MAX_UNCHOSEN} inputs for files in which none was chosen")
            return
        if self._option is None:
            self.files.append(File(self._name or "", self._decoded(content)))
            return
        value = content.decode("utf-8", "replace")
        if not value.strip():
            return
        if self.options.setdefault(self._option, value) != value:
            raise BadField(f"the form has two values for {self._option!r}")

    def _decoded(self, content: bytes) -> bytes:
        """`content` without its transfer encoding, unless it plainly is in none."""
        decode = _TRANSFERS.get(self._transfer)
        if decode is None or (looks_like_image(content) and _NO_TEXT.search(content)):
            return content
        try:
            return decode(content)
        except binascii.Error as err:
            raise BadForm("the data of a part is not base64, as its Content-Transfer-Encoding says") from err

    def _end(self) -> None:
        self._ended = True


class _Preamble:
    """What stands before a form's first boundary, which begins a line (RFC 2046, 5.1.1)."""

    def __init__(self, boundary: bytes) -> None:
        self._boundary = boundary
        delimiter = b"\r\n--" + boundary
        self._first_boundary = re.compile(
            re.escape(delimiter)
            + rb"(?:[ \t]{0,%d}(?P<end>\r\n|--)|[ \t]{%d})" % (_MAX_PADDING_BYTES, _MAX_PADDING_BYTES + 1)
        )
        self._longest = len(delimiter) + _MAX_PADDING_BYTES + 2
        self._seen = bytearray(b"\r\n")

    def after(self, piece: bytes) -> bytes | None:
        """All that has come from the first boundary on, None if it is still to come. Raises BadForm beyond limits."""
        start = max(len(self._seen) - self._longest, 0)
        self._seen += piece
        found = self._first_boundary.search(self._seen, start, _MAX_PREAMBLE_BYTES + self._longest)
        if found is not None and found["end"] is None:
            raise BadForm(f"its first boundary has more than {_MAX_PADDING_BYTES:,} blanks after it")
        if found is not None:
            return b"--" + self._boundary + bytes(self._seen[found.start("end") :])
        if len(self._seen) > _MAX_PREAMBLE_BYTES + self._longest:
            raise BadForm(f"{self.why_none()}, or has more than {_MAX_PREAMBLE_BYTES:,} bytes before it")
        return None

    def why_none(self) -> str:
        """Why there is no boundary in the whole of the form."""
        first = bytes(self._seen[2 : 2 + _FIRST_BYTES])
        if not first:
            return "it is empty"
        if re.match(rb"\s*--" + re.escape(self._boundary) + rb"\n", first):
            return "its lines end in LF alone; those of a form end in CR LF"
        text = self._boundary[:60].decode("latin-1")
        if other := re.match(rb"\s*--([^\r\n]{1,70})\r?\n", first):
            return f"its boundary is {other[1].decode('latin-1')!r}, but its Content-Type says {text!r}"
        return f"the boundary {text!r} of its Content-Type is not in it" + (
            "; it is an image itself, and no form" if looks_like_image(first) else ""
        )


def _why(err: FormParserError, piece: bytes) -> str:
    """What the parser cannot read, in words that name it."""
    words, at = str(err), getattr(err, "offset", -1)
    if "header size" in words:
        return f"a header of a part is longer than {_MAX_HEADER_BYTES:,} bytes"
    if "header count" in words:
        return "a part has too many headers"
    if at >= 0 and piece[at : at + 1] in (b" ", b"\t") and piece[:at].endswith(b"\n"):
        return "a header of a part goes on in a second line; write it in one"
    return "the headers of its parts are not as RFC 7578 has them"
