"""Tables as Markdown."""

import pandas as pd


def table(rows: pd.DataFrame) -> str:
    """The rows without their index, and without columns in which nothing is. Pipes in cells must be escaped already."""
    cells = rows.astype(object).where(rows.notna(), "").astype(str)
    written: str = cells.loc[:, (cells != "").any()].to_markdown(index=False, disable_numparse=True)
    return written


def print_table(rows: pd.DataFrame) -> None:
    print(f"{table(rows)}\n", flush=True)


def spread(values: pd.Series, form: str = ".2f") -> str:
    """The median, the least and the largest."""
    return f"{values.median():{form}} ({values.min():{form}} to {values.max():{form}})"
