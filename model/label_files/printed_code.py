"""What Python, NumPy and pandas print of labels: which of it holds them as they are. Nothing of it is run."""

import ast
import re

# What holds a list or a dictionary and leaves its order as it is; a set has none.
_KEEPS = (
    *("array", "asarray", "list", "tuple", "dict", "OrderedDict", "Index", "Series", "Categorical"),
    *("dict_keys", "dict_values", "dict_items", "odict_keys", "odict_values", "odict_items"),
)
_CALL = re.compile(r"[A-Za-z_][\w.]*\(\s*[\[({\"']")
_ONE_STRING = re.compile(r"""[rRuU]?(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')""")


class NotLabels(ValueError):
    """A literal that is read, but whose labels or their order cannot be told; the message says why."""


def is_printed(text: str) -> bool:
    """Whether `text` is a tuple, or a call that holds a literal: `OrderedDict([…])`, `array([…])`."""
    begun = re.match(r"\(\s*[\[({\"']", text) is not None or _CALL.match(text) is not None
    return begun and text.rstrip().endswith(")")


def held(content: ast.expr | None) -> ast.expr:
    """`content`, or what a call that keeps its argument as it is has as such; NotLabels for another call."""
    if isinstance(content, ast.Call) and content.args:
        called = content.func.attr if isinstance(content.func, ast.Attribute) else getattr(content.func, "id", "")
        if called not in _KEEPS:
            raise NotLabels(f"is code: a call of {called!r}, which is not run")
        return content.args[0]
    if content is None:
        raise NotLabels("has no value")
    return content


def check_strings(content: ast.expr, text: str) -> None:
    """NotLabels for `'cat' 'dog'`, which is one string to Python, and two to NumPy, which prints them so."""
    lines = [line.encode() for line in re.split(r"\r\n|\n|\r", text)]
    for node in ast.walk(content):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            source = lines[node.lineno - 1][node.col_offset : node.end_col_offset].decode()
            if node.end_lineno != node.lineno or not _ONE_STRING.fullmatch(source):
                raise NotLabels("has strings without a comma between them, as NumPy prints them: print its tolist()")
