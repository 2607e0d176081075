import time

import pytest

from model.files.bad_files import UnknownFormat
from model.files.formats import FORMATS, recognised
from tests.support.pictures import encoded, scene


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_are_told_by_their_first_bytes(kind: str) -> None:
    assert recognised(encoded(scene(8, 8), kind)) == kind


@pytest.mark.parametrize("brand", [b"mif1\0\0\0\0avif", b"avis\0\0\0\0mif1"])
def test_an_avif_may_have_any_brand_first(brand: bytes) -> None:
    assert recognised(b"\0\0\0\x18ftyp" + brand + b"miaf" + bytes(50)) == "AVIF"


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"", "the file is empty"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "the image is HEIC, which is not supported; convert it to JPEG"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "the image is HEIC"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "the image is Canon's raw format"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", "the bytes are a video, not an image"),
        (b"II*\0\x08\0\0\0", "the image is TIFF or a camera's raw format, which is not supported"),
        (b"MM\0*\0\0\0\x08", "the image is TIFF"),
        (b"\xff\x0a\xfa\x1f", "the image is JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "the image is JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "the image is JPEG 2000"),
        (b"\xff\x4f\xff\x51\0\x2f", "the image is JPEG 2000"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "the image is SVG"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- a -->\n<svg width='1'>", "the image is SVG"),
        (b"%PDF-1.7", "the image is PDF"),
        (b"8BPS\0\1", "the image is PSD"),
        (b"gimp xcf v011\0", "the image is XCF"),
        (b"\x8bJNG\r\n\x1a\n", "the image is MNG or JNG"),
        (b"\x8aMNG\r\n\x1a\n", "the image is MNG or JNG"),
        (b"\x0a\x05\x01\x08" + bytes(124), "the image is PCX"),
        (b"#define cat_width 16\n#define cat_height 16\n", "the image is XBM"),
        (b"/* made by hand */\n#define cat_width 16\n", "the image is XBM"),
        (b"/* XPM */\nstatic char", "the image is XBM or XPM"),
        (b"P6\n8 8\n255\n", "the image is PNM"),
        (bytes(128) + b"DICM", "the image is DICOM"),
        (b"\n<!DOCTYPE html><html><svg>", "the bytes are an HTML page, not an image"),
        (b"<!-- x --><html>", "the bytes are an HTML page"),
        (b'{"error": "not found"}', "the bytes are JSON, not an image"),
        (b"/9j/4AAQSkZJRgABAQ", "the bytes are text in base64: decode it first"),
        (b"data:image/png;base64,iVBORw0KGgo", "the bytes are text in base64"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS, not the image: run `git lfs pull`"),
        (b"PK\3\4", "the bytes are a ZIP archive"),
        (b"\x1f\x8b\x08\0", "the bytes are an archive or compressed"),
        (b"\x00\x05\x16\x07\0\2\0\0Mac OS X", "AppleDouble"),
        (b"\x93NUMPY\1\0", "an array of NumPy"),
        (bytes(100), "not a JPEG, .* image, but all zeros"),
        (b"\0\0\2\0\0\0\0\0\0\0\0\0\x10\0\x10\0", "not a JPEG"),  # TGA, which is not a cursor
    ],
)
def test_other_formats_are_refused_by_name(head: bytes, message: str) -> None:
    with pytest.raises(UnknownFormat, match=message):
        recognised(head)


@pytest.mark.parametrize("piece", [b"<!---->", b"<svx", b"<?xml", b"[", b" ", b"<!--", b"<html", b"<", b"\0"])
def test_no_input_makes_recognition_slow(piece: bytes) -> None:
    started = time.process_time()
    for head in (piece * 3000, b"<" + piece * 3000, b"<?xml " + piece * 3000):
        with pytest.raises(UnknownFormat):
            recognised(head)
    assert time.process_time() - started < 0.5
