"""The part of the README that a run writes."""

from pathlib import Path

BEGIN, END = "<!-- bench -->", "<!-- /bench -->"


def replaced(text: str, part: str) -> str:
    """`text` with `part` between the markers. ValueError unless each is there once, in order."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"the text needs {BEGIN} and {END}, once each and in this order")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{part.strip()}\n{END}{after}"


def update(readme: Path, part: str) -> None:
    """Write `part` between the markers of the file."""
    readme.write_text(replaced(readme.read_text(), part))
