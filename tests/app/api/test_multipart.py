import base64
import time

import pytest

from app.api.multipart import BadField, BadForm, MultipartForm, TooManyFiles, UploadedFile
from tests.support.pictures import encoded, scene

KIND = "multipart/form-data; boundary=x"
CONTENT = b"\r\n--\r\n--y\r\n-\r" + bytes(range(256)) + b"\r\n--"  # begins like the boundary again and again


def part(content: bytes, field: str = "file", name: str | None = "a.jpg") -> bytes:
    filename = "" if name is None else f'; filename="{name}"'
    head = f'--x\r\nContent-Disposition: form-data; name="{field}"{filename}\r\nContent-Type: image/jpeg\r\n\r\n'
    return head.encode() + content + b"\r\n"


def read(body: bytes, size: int = 1 << 16, kind: str = KIND) -> MultipartForm:
    """The form in `body`, which comes in pieces of `size` bytes."""
    form = MultipartForm(kind, ("file", "files"), ("top_k", "resolution"), max_files=2, max_fields=1)
    for start in range(0, len(body), size):
        form.feed(body[start : start + size])
    form.finish()
    return form


def taken_apart(body: bytes, size: int = 1 << 16, kind: str = KIND) -> list[UploadedFile]:
    """Its files."""
    return read(body, size, kind).files


def with_headers(*headers: str, content: bytes = b"abc") -> bytes:
    """A form of one part that has these headers."""
    return b"--x\r\n" + "".join(f"{header}\r\n" for header in headers).encode() + b"\r\n" + content + b"\r\n--x--"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1 << 16])
def test_files_come_out_as_they_went_in_however_they_are_cut(size: int) -> None:
    body = b"\r\n" + part(b"text", "text", None) + part(CONTENT) + part(b"", name="b") + b"--x--\r\nepilogue"
    assert taken_apart(body, size) == [("a.jpg", CONTENT), ("b", b"")]


def test_files_in_other_fields_count_and_are_not_kept() -> None:
    assert taken_apart(part(CONTENT, "other") + part(b"a") + b"--x--") == [("a.jpg", b"a")]
    with pytest.raises(TooManyFiles):
        taken_apart(3 * part(b"a", "other") + b"--x--")


def test_a_form_that_breaks_off_is_refused_and_one_without_its_last_dashes_is_not() -> None:
    for body in (part(b"a") + part(CONTENT)[:-2], part(b"a") + part(b"b")[:40], part(b"a")):
        with pytest.raises(BadForm, match="ends within a part"):
            taken_apart(body)
    assert taken_apart(part(b"a") + b"--x\r\n") == [("a.jpg", b"a")]


@pytest.mark.parametrize("size", [1, 3, 1 << 16])
def test_text_before_and_after_the_parts_is_ignored(size: int) -> None:
    before = b"This is a multi-part message in MIME format.\r\n--xy\r\nmore --x\r\n"
    assert taken_apart(before + part(b"a") + b"--x--\r\nand after\r\n" + part(b"b"), size) == [("a.jpg", b"a")]


@pytest.mark.parametrize("name", ["file", "files", "file[]", "files[]", "files[0]", "files[31]"])
def test_the_field_of_a_file_may_be_of_one_or_many_and_have_an_index(name: str) -> None:
    assert taken_apart(part(b"a", name) + b"--x--") == [("a.jpg", b"a")]


def test_a_file_needs_no_file_name() -> None:
    assert taken_apart(part(CONTENT, name=None) + b"--x--") == [("", CONTENT)]
    assert taken_apart(part(bytes(3 << 20), name=None) + b"--x--") == [("", bytes(3 << 20))]


def test_options_are_read_and_files_in_other_fields_are_named() -> None:
    body = part(b"2", "top_k", None) + part(b"a", "image") + part(b"u", "_charset_", None) + b"--x--"
    form = read(body)
    assert (form.options, form.other_file_fields, form.files) == ({"top_k": "2"}, ["image"], [])


@pytest.mark.parametrize("name", ["topk", "top-k", "Top_K", "resolutions"])
def test_a_field_that_nearly_is_an_option_is_refused(name: str) -> None:
    with pytest.raises(BadField, match=f"unknown field '{name}' in the form; did you mean '(top_k|resolution)'"):
        read(part(b"2", name, None) + b"--x--")


def test_an_option_has_one_value() -> None:
    assert read(2 * part(b"2", "top_k", None) + b"--x--").options == {"top_k": "2"}
    with pytest.raises(BadField, match="two values for 'top_k'"):
        read(part(b"2", "top_k", None) + part(b"3", "top_k", None) + b"--x--")


def test_an_input_in_which_no_file_was_chosen_is_no_file() -> None:
    unchosen = part(b"", name="")
    form = read(unchosen + part(b"a") + unchosen + part(b"b") + unchosen + b"--x--")
    assert (form.files, form.empty_inputs) == ([("a.jpg", b"a"), ("a.jpg", b"b")], 3)
    assert taken_apart(part(b"a", name="") + part(b"", name=None) + b"--x--") == [("", b"a"), ("", b"")]
    with pytest.raises(TooManyFiles):
        taken_apart(3 * part(b"a", name="") + b"--x--")
    with pytest.raises(BadForm, match="more than 100 file inputs in which no file was chosen"):
        taken_apart(101 * unchosen + b"--x--")


def test_an_empty_option_is_left_out() -> None:
    body = part(b"", "top_k", None) + part(b"2", "top_k", None) + part(b" ", "resolution", None) + b"--x--"
    assert read(body).options == {"top_k": "2"}


@pytest.mark.parametrize("coding", ["base64", "quoted-printable"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_a_declared_transfer_encoding_of_a_plain_image_is_ignored(kind: str, coding: str) -> None:
    image = encoded(scene(40, 30), kind)
    headers = ['Content-Disposition: form-data; name="file"; filename="a"', f"Content-Transfer-Encoding: {coding}"]
    assert taken_apart(with_headers(*headers, content=image)) == [("a", image)]
    packed = base64.encodebytes(image) if coding == "base64" else b"=\r\n".join(b"=%02X" % byte for byte in image)
    assert taken_apart(with_headers(*headers, content=packed)) == [("a", image)]


@pytest.mark.parametrize("size", [64, 1 << 16, 10_000_000])
@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"\r\n--x" + 300_000 * b" ", "its first boundary is followed by more than 1,024 blanks"),
        (1_000_000 * b"\r\n--xX", "or comes after more than 65,536 bytes"),
        (500 * (b"\r\n--x" + 1000 * b" " + b"X"), "or comes after more than 65,536 bytes"),
        (100_000 * b"a" + b"\r\n" + part(b"a") + b"--x--", "or comes after more than 65,536 bytes"),
    ],
    ids=["padding", "false boundaries", "both", "text"],
)
def test_what_is_before_the_first_boundary_is_limited_and_quickly_read(body: bytes, why: str, size: int) -> None:
    started = time.process_time()
    with pytest.raises(BadForm, match=why):
        taken_apart(body, size)
    assert time.process_time() - started < 5  # seconds; reading it again and again would take hours


@pytest.mark.parametrize("size", [11, 1000, 1 << 20])
def test_as_much_as_may_stand_before_the_first_boundary_is_read(size: int) -> None:
    before = 10_000 * b"\r\n--xX" + b"\r\n"
    body = part(b"a").replace(b"--x\r\n", b"--x" + 1024 * b" " + b"\r\n") + b"--x--"
    assert taken_apart(before + body, size) == [("a.jpg", b"a")]


def test_an_input_for_files_that_was_left_empty_is_no_file() -> None:
    assert taken_apart(part(b"", "second", "") + part(b"a") + part(b"b") + b"--x--") == [
        ("a.jpg", b"a"),
        ("a.jpg", b"b"),
    ]


@pytest.mark.parametrize(
    ("coding", "content"),
    [
        ("binary", CONTENT),
        ("8BIT", CONTENT),
        ("7bit", CONTENT),
        ("base64", base64.encodebytes(CONTENT)),
        ("Quoted-Printable", b"=\r\n".join(b"=%02X" % byte for byte in CONTENT)),
    ],
)
def test_a_transfer_encoding_is_undone(coding: str, content: bytes) -> None:
    disposition = 'Content-Disposition: form-data; name="file"; filename="a"'
    body = with_headers(disposition, f"Content-Transfer-Encoding: {coding}", content=content)
    assert taken_apart(body) == [("a", CONTENT)]


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        (["Content-Transfer-Encoding: x-uuencode"], "the Content-Transfer-Encoding 'x-uuencode' is not supported"),
        (["Content-Transfer-Encoding: base64"], "is not base64, as its Content-Transfer-Encoding says"),
        (["Content-Type: multipart/mixed; boundary=y"], "send each file in a part of its own"),
        (["X-More: a", " b"], "continues on a second line"),
        (["X-More: " + 9000 * "a"], "longer than 8,192 bytes"),
    ],
)
def test_an_invalid_part_is_refused_with_the_reason(headers: list[str], why: str) -> None:
    disposition = 'Content-Disposition: form-data; name="file"; filename="a"'
    with pytest.raises(BadForm, match=why):
        taken_apart(with_headers(disposition, *headers))


@pytest.mark.parametrize(
    "header",
    [
        'CONTENT-DISPOSITION: FORM-DATA; NAME="file"; FILENAME="a"',
        "content-disposition:form-data;name=file;filename=a",
        "Content-Disposition:  form-data ;  name = file ; filename = a",
        "Content-Disposition: form-data; filename=a; name=file",
        'Content-Disposition: file; name="file"; filename="a"; size=3',
    ],
)
def test_a_disposition_may_be_written_in_many_ways(header: str) -> None:
    assert taken_apart(with_headers(header)) == [("a", b"abc")]


@pytest.mark.parametrize("boundary", ["x y", 70 * "b", "'()+_,-./:=?", "----WebKitFormBoundary7MA4"])
@pytest.mark.parametrize("size", [1, 1 << 16])
def test_a_boundary_may_be_quoted_and_long(boundary: str, size: int) -> None:
    body = (part(CONTENT) + b"--x--").replace(b"--x", b"--" + boundary.encode())
    content = CONTENT.replace(b"--x", b"--" + boundary.encode())
    assert taken_apart(body, size, f'Multipart/Form-Data; charset=utf-8; BOUNDARY="{boundary}"') == [("a.jpg", content)]


@pytest.mark.parametrize("padding", [b" ", b"\t  "])
def test_a_boundary_may_have_blanks_after_it(padding: bytes) -> None:
    body = (part(b"a") + part(b"b")).replace(b"--x\r\n", b"--x" + padding + b"\r\n") + b"--x--"
    assert taken_apart(body) == [("a.jpg", b"a"), ("a.jpg", b"b")]


@pytest.mark.parametrize(
    ("charset", "name"),
    [("utf-8", "b\u00fccher"), ("iso-8859-1", "b\u00c3\u00bccher"), ("US-ASCII", "b\u00c3\u00bccher")],
)
def test_names_are_read_in_the_charset_of_the_form(charset: str, name: str) -> None:
    body = part(b"a", name="b\u00fccher") + b"--x--"
    assert taken_apart(body, kind=f"{KIND}; charset={charset}") == [(name, b"a")]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (2 * part(b"1", "a", None), "it has more than 1 fields that are neither files nor options"),
        (part(bytes((1 << 20) + 1), "a", None), "a field that is not a file is over the limit of 1,048,576 bytes"),
        (b'--x\r\nContent-Disposition: form-data; filename="a"\r\n\r\n', "no Content-Disposition with a name"),
        (b"--x\r\n\r\n", "no Content-Disposition with a name"),
        (b"nonsense", "the boundary 'x' of its Content-Type is not in it"),
        (b"", "it is empty"),
        (b"\xff\xd8\xff\xe0 an image", "it is an image, not a form"),
        (b"--y\r\nContent-Disposition: form-data", "its boundary is 'y', but its Content-Type says 'x'"),
        ((part(b"a") + b"--x--").replace(b"\r\n", b"\n"), "its lines end in LF only; those of a form end in CR LF"),
        (b"--x\r\nA b: c\r\n", "headers of its parts do not follow RFC 7578"),
        (b"--x\r\n" + 100 * b"A: b\r\n", "too many headers"),
    ],
    ids=[
        *("fields", "long field", "no name", "no headers", "nonsense", "empty", "image", "other boundary", "LF"),
        *("bad header", "many headers"),
    ],
)
def test_an_invalid_form_is_refused_with_the_reason(body: bytes, why: str) -> None:
    with pytest.raises(BadForm, match=why):
        taken_apart(body)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("", "no boundary"),
        ("multipart/form-data", "no boundary"),
        (f"multipart/form-data; boundary={300 * 'x'}", "too long"),
        (f"{KIND}; charset=punycode", "charset"),
    ],
)
def test_a_content_type_that_says_no_form_is_refused(kind: str, why: str) -> None:
    with pytest.raises(BadForm, match=why):
        taken_apart(b"", kind=kind)
