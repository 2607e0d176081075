import base64

import pytest

from app.decoding.base64_text import BadBase64, decode_base64

FILE = b"\xff\xd8\xff\xe0" + bytes(range(256)) + b"\xfb\xef\xbe"
TEXT = base64.b64encode(FILE).decode()


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        base64.encodebytes(FILE).decode(),
        base64.encodebytes(FILE).decode().replace("\n", "\r\n"),
        f"  {TEXT[:50]}\t{TEXT[50:]} \n",
        base64.urlsafe_b64encode(FILE).decode(),
        TEXT.rstrip("="),
        base64.urlsafe_b64encode(FILE).decode().rstrip("="),
        f"data:image/jpeg;base64,{TEXT}",
        f"DATA:;Base64,{TEXT}",
        f"data:image/jpeg;name=a.jpg;base64,{TEXT}",
        "data:image/jpeg;base64," + TEXT.replace("+", "%2B").replace("/", "%2f").replace("=", "%3D"),
    ],
    ids=["plain", "lines", "CR LF", "blanks", "URL-safe", "no padding", "neither", "data", "DATA", "parameters", "%"],
)
def test_base64_is_read_as_tools_print_it(text: str) -> None:
    assert len(FILE) % 3  # so that there is padding
    assert "+" in TEXT
    assert "/" in TEXT
    assert decode_base64(text) == FILE


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (FILE.hex(), "hexadecimal"),
        ("0x" + FILE.hex(), "hexadecimal"),
        ("https://example.org/cat.jpg", "a URL, and the service fetches no URLs"),
        ("s3://bucket/cat", "the service fetches no URLs"),
        ("/home/ann/cat.jpg", "the name of a file"),
        ("C:\\photos\\cat.png", "the name of a file"),
        (repr(TEXT.encode()), "Python's text for bytes"),
        ("data:image/svg+xml,%3Csvg", "must have ;base64 before its comma"),
        ('{"b64": "AAAA"}', "JSON in a string"),
        ("caf\u00e9", "characters that are not base64"),
        (TEXT[:-3] + "==" + TEXT, "characters that are not base64"),
        ("AAAAA", "ends within a byte"),
        (None, "null"),
        ([137, 80], "a list"),
        (137, "a number"),
        ({"type": "Buffer", "data": [137]}, "an object"),
    ],
)
def test_invalid_base64_is_refused_with_what_it_is(text: object, why: str) -> None:
    with pytest.raises(BadBase64) as refused:
        decode_base64(text)
    assert why in str(refused.value)


def test_zeros_are_not_taken_for_hexadecimal() -> None:
    assert decode_base64("A" * 4000) == bytes(3000)
