"""A multipart form, taken apart as it arrives: a file's bytes are copied once, into memory."""

from io import BytesIO
from typing import NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

_CHARSETS = ("utf-8", "us-ascii", "iso-8859-1")  # what clients declare; some of Python's take minutes, or raise
_MAX_FIELD_BYTES = 1 << 20


class BadForm(Exception):
    """The form cannot be read; `args[0]` says why."""


class TooManyFiles(BadForm):
    """The form has more files than it may."""


class File(NamedTuple):
    name: str
    content: bytes


class Form:
    """Collects the files in `field` of a form that `feed` is given piece by piece, as RFC 7578 and RFC 2046 have it.

    Raises TooManyFiles for more than `max_files` files, those in other fields counted, and BadForm for more than
    `max_fields` fields that are no file, or what is no form. A part that does not end is no part. Limits of size are
    for whoever feeds it.
    """

    def __init__(self, content_type: str, field: str, *, max_files: int, max_fields: int) -> None:
        _, options = parse_options_header(content_type)
        self._charset = options.get(b"charset", b"utf-8").decode("latin-1").lower()
        if self._charset not in _CHARSETS:
            raise BadForm("the charset of a form is utf-8; leave it out")
        if b"boundary" not in options:
            raise BadForm("its Content-Type has no boundary")
        self.files: list[File] = []
        self._field = field
        self._files_left, self._max_files = max_files, max_files
        self._fields_left, self._max_fields = max_fields, max_fields
        self._begin_part()
        try:
            self._parser = MultipartParser(
                options[b"boundary"],
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._add_to_header,
                    "on_header_value": self._add_to_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._add_data,
                    "on_part_end": self._end_part,
                },
            )
        except FormParserError as err:
            raise BadForm("its boundary is too long") from err

    def feed(self, piece: bytes) -> None:
        """Take the next bytes of the form."""
        try:
            self._parser.write(piece)
        except FormParserError as err:
            raise BadForm("Invalid multipart data.") from err

    def _begin_part(self) -> None:
        self._header = self._value = self._disposition = b""
        self._name: str | None = None  # of a file
        self._content: BytesIO | None = None  # of a file in the field
        self._size = 0

    def _add_to_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise BadForm('The Content-Disposition header field "name" must be provided.')
        if b"filename" not in options:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise BadForm(f"Too many fields. Maximum number of fields is {self._max_fields}.")
            return
        self._files_left -= 1
        if self._files_left < 0:
            raise TooManyFiles(f"Too many files. Maximum number of files is {self._max_files}.")
        self._name = self._text(options[b"filename"])
        if self._text(options[b"name"]) == self._field:
            self._content = BytesIO()

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._content is not None:
            self._content.write(memoryview(data)[start:end])
        elif self._name is None:
            self._size += end - start
            if self._size > _MAX_FIELD_BYTES:
                raise BadForm(f"Part exceeded maximum size of {_MAX_FIELD_BYTES // 1024}KB.")

    def _end_part(self) -> None:
        if self._content is not None:
            self.files.append(File(self._name or "", self._content.getvalue()))  # shares the bytes, and copies none
        self._content = None

    def _text(self, raw: bytes) -> str:
        try:
            return raw.decode(self._charset)
        except UnicodeDecodeError:
            return raw.decode("latin-1")
