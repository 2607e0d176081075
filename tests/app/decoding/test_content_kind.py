import base64

import pytest

from app.decoding.content_kind import looks_like_image, mistaken
from tests.support.pictures import encoded, scene

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
FILES = [encoded(scene(40, 30), kind) for kind in FORMATS]


@pytest.mark.parametrize("body", FILES, ids=FORMATS)
def test_an_image_is_accepted_and_its_text_in_hexadecimal_or_a_data_uri_is_named(body: bytes) -> None:
    assert looks_like_image(body)
    assert mistaken(body) is None
    assert "hexadecimal" in (mistaken(body.hex().encode()) or "")
    assert "a data URI" in (mistaken(b"data:image/jpeg;base64," + base64.b64encode(body)) or "")


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"\x1f\x8b\x08\x00", "gzip data: unpack it first"),
        (b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n', "a form whose Content-Type does not say so"),
        (b"10000;chunk-signature=0a1b\r\n\xff\xd8", "aws-chunked"),
        (b"https://example.org/cat.jpg", "a URL, and the service fetches no URLs"),
        (b"s3://bucket/cat.jpg", "a URL, and the service fetches no URLs"),
        (b"[object File]", "JavaScript's text for an object"),
        (b"file=@photo.jpg", "an urlencoded form"),
        (b"file=%FF%D8%FF&top_k=2", "an urlencoded form"),
        (b"image=/9j/4AAQSkZJRg", "an urlencoded form"),
        (b"@photo.jpg", "the name of a file"),
        (b"/home/ann/Photo 1.PNG\n", "the name of a file"),
        ("{}".encode("utf-16"), "text in UTF-16"),
    ],
)
def test_what_was_sent_instead_is_named(body: bytes, what: str) -> None:
    assert what in (mistaken(body) or "")


def test_content_encoding_is_advised_for_a_body_and_not_for_a_file_in_a_form() -> None:
    assert "Content-Encoding: gzip" in (mistaken(b"\x1f\x8b\x08\x00", body=True) or "")
    assert "Content-Encoding" not in (mistaken(b"\x1f\x8b\x08\x00") or "")


@pytest.mark.parametrize(
    "body", [b"", b"hello", b"%PDF-1.7", b"<svg xmlns=''/>", b'{"image": 1}', b"<html>", b"/9j/4AAQSkZJRg", bytes(100)]
)
def test_a_file_of_another_kind_is_left_to_the_decoder(body: bytes) -> None:
    assert mistaken(body) is None
