import subprocess
import sys

import pytest

from app.api.content_disposition import BadDisposition, parse_disposition

EURO = "\u20ac rates.jpg"


def filename(header: str, charset: str = "utf-8") -> str | None:
    """The file name in a header that has one, as its bytes arrive."""
    name, found = parse_disposition(f"form-data; name=file; {header}".encode().decode("latin-1"), charset)
    assert name == "file"
    return found


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("filename=a.jpg", "a.jpg"),
        ('filename="a;b=c.jpg"', "a;b=c.jpg"),
        (r'filename="a\"b.jpg"', 'a"b.jpg'),
        ('filename="a%22b%0D%0A.jpg"', 'a"b\r\n.jpg'),
        ('filename="100%25.jpg"', "100%25.jpg"),
        ('filename=""', ""),
        (f'filename="{EURO}"', EURO),
        ("filename*=UTF-8''%e2%82%ac%20rates.jpg", EURO),
        ("FILENAME*=utf-8'en'%E2%82%AC%20rates.jpg", EURO),
        ("filename*=iso-8859-1''b%FCcher", "b\u00fccher"),
        ("filename*=\"UTF-8''%e2%82%ac%20rates.jpg\"", EURO),
        ("filename*=%e2%82%ac%20rates.jpg", EURO),
        ("filename*=punycode''abc", "abc"),
        ("filename*=UTF-8''%e2%82", "%e2%82"),
        ("filename*=shift_jis'ja'%83e%83X%83g.jpg", "\u30c6\u30b9\u30c8.jpg"),
        ("filename*=Windows-1251''%EA%EE%F2.jpg", "\u043a\u043e\u0442.jpg"),
        ("filename*=gbk''%C3%A8.jpg", "\u732b.jpg"),
        ("filename*=x-unknown''%83e%E2.jpg", "%83e%E2.jpg"),
        ("filename*=idna''%83e.jpg", "%83e.jpg"),
        ("filename=euro.jpg; filename*=UTF-8''%e2%82%ac%20rates.jpg", EURO),
        ("filename*=UTF-8''%e2%82%ac%20rates.jpg; filename=euro.jpg", EURO),
        ("filename*0*=UTF-8''%e2%82%ac; filename*1=\" rates\"; filename*2=.jpg", EURO),
        ("filename*1=b; filename*0=a", "ab"),
        (r'filename="C:\photos\a.jpg"', "a.jpg"),
        (r'filename="\\\\host\a.jpg"', "a.jpg"),
        ('filename="../a.jpg"', "../a.jpg"),
        ("filename=a.jpg; filename=a.jpg", "a.jpg"),
        ("size=3", None),
    ],
)
def test_a_file_name_is_read_as_clients_write_it(header: str, expected: str | None) -> None:
    assert filename(header) == expected


def test_the_name_of_a_field_is_read_in_the_same_ways() -> None:
    for header in ('name="\u20ac"', "name*=UTF-8''%e2%82%ac"):
        assert parse_disposition(f"form-data; {header}".encode().decode("latin-1"), "utf-8") == ("\u20ac", None)
    for header in ("form-data", "", "name=file", "; name"):
        assert parse_disposition(header, "utf-8").name is None


def test_a_parameter_that_is_given_twice_and_differs_is_refused() -> None:
    with pytest.raises(BadDisposition, match="two values for 'name'"):
        parse_disposition("form-data; name=file; name=other", "utf-8")


@pytest.mark.parametrize("unit", [';a="', ';a="\\"', ";a", '"', ";name*0=", "\\"])
def test_a_long_header_takes_no_more_than_linear_time(unit: str) -> None:
    """One of 512 KB takes 0.2 s at most; in quadratic time it would take minutes."""
    code = (
        "from app.api.content_disposition import BadDisposition, parse_disposition\n"
        f"try: parse_disposition('form-data' + {unit!r} * {(512 << 10) // len(unit)}, 'utf-8')\n"
        "except BadDisposition: pass\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
