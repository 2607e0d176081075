import pytest

from app.form import BadForm, File, Form, TooManyFiles

KIND = "multipart/form-data; boundary=x"
CONTENT = b"\r\n--\r\n--y\r\n-\r" + bytes(range(256)) + b"\r\n--"  # begins like the boundary again and again


def part(content: bytes, field: str = "file", name: str | None = "a.jpg") -> bytes:
    filename = "" if name is None else f'; filename="{name}"'
    head = f'--x\r\nContent-Disposition: form-data; name="{field}"{filename}\r\nContent-Type: image/jpeg\r\n\r\n'
    return head.encode() + content + b"\r\n"


def taken_apart(body: bytes, size: int = 1 << 16, kind: str = KIND) -> list[File]:
    """The files of `body`, which comes in pieces of `size` bytes."""
    form = Form(kind, "file", max_files=2, max_fields=1)
    for start in range(0, len(body), size):
        form.feed(body[start : start + size])
    return form.files


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1 << 16])
def test_files_come_out_as_they_went_in_however_they_are_cut(size: int) -> None:
    body = b"\r\n" + part(b"text", "text", None) + part(CONTENT) + part(b"", name="b") + b"--x--\r\nepilogue"
    assert taken_apart(body, size) == [("a.jpg", CONTENT), ("b", b"")]


def test_files_in_other_fields_count_and_are_not_kept() -> None:
    assert taken_apart(part(CONTENT, "other") + part(b"a") + b"--x--") == [("a.jpg", b"a")]
    with pytest.raises(TooManyFiles):
        taken_apart(3 * part(b"a", "other") + b"--x--")


def test_a_part_that_does_not_end_is_none() -> None:
    assert taken_apart(part(b"a") + part(CONTENT)[:-2]) == [("a.jpg", b"a")]


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
        (2 * part(b"1", "a", None), "Too many fields. Maximum number of fields is 1."),
        (part(bytes((1 << 20) + 1), "a", None), "Part exceeded maximum size of 1024KB."),
        (b'--x\r\nContent-Disposition: form-data; filename="a"\r\n\r\n', '"name" must be provided'),
        (b"--x\r\n\r\n", '"name" must be provided'),
        (b"nonsense", "Invalid multipart data."),
        (b"--x\r\nA b: c\r\n", "Invalid multipart data."),
        (b"--x\r\n" + 100 * b"A: b\r\n", "Invalid multipart data."),
    ],
    ids=["fields", "long field", "no name", "no headers", "nonsense", "bad header", "many headers"],
)
def test_what_is_no_form_is_refused(body: bytes, why: str) -> None:
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
