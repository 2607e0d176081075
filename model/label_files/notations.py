"""Text in JSON, Python's literals, YAML and TensorFlow's label maps to plain data, in time linear in its length.

What is larger, deeper or odder than the labels of a network is refused before it costs more.
"""

import ast
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence

import yaml

from model.label_files.printed_code import NotLabels, check_strings, held
from model.label_files.structured_labels import MAX_CLASSES, WANTED, BadLabels

_MAX_NESTING = 32  # lists and objects within each other
_MOST_VALUES = 1_000_000
_LARGEST_NUMBER = 1 << 63
_MAX_TREE_CHARACTERS = 1 << 20  # characters of Python or YAML, whose trees take a hundred times as much
_MAX_PYTHON_TOKENS = 300_000  # of Python beside its strings: some 150,000 nodes

_STRING = re.compile(r"'(?:[^'\\\n]|\\.)*+'?+|\"(?:[^\"\\\n]|\\.)*+\"?+", re.DOTALL)
_TOKEN = re.compile(r"\w++|[^\w\s]")
_VALUE = r"(?:(-?\d{1,18}+)|\"([^\"\n]*+)\"|'([^'\n]*+)')"
_FIELD = re.compile(rf"\s*+(\w++)\s*+:\s*+{_VALUE}[\s,;]*+")
_ITEM = re.compile(r"\s*+item\s*+:?+\s*+\{([^{}]*+)\}")
_COMMENT = re.compile(r"^[^\S\n]*+#.*$", re.MULTILINE)
_NESTED = "is nested too deeply to be a list of labels"
_TOO_MUCH = "holds more than the labels of a network"


def json_or_python(text: str, origin: str, *, named: bool) -> object:
    """JSON, or what Python prints of a list or a dictionary. `named`: whether the file is called JSON."""
    try:
        content = _json(text, origin)
    except json.JSONDecodeError as err:
        if err.msg == "Extra data" and (items := _json_lines(text, origin)):
            return _checked(items, origin)
        other = "" if named else ", nor a list or a dictionary of Python"
        refusal = f"{origin} is not JSON: line {err.lineno}, column {err.colno}{other}; {WANTED}"
        content = _evaluated(text, origin, refusal)
    except RecursionError as err:
        raise BadLabels(f"{origin} {_NESTED}") from err
    return _checked(content, origin)


def assigned(text: str, origin: str) -> object:
    """The list or dictionary that a file of Python gives a name, and nothing else."""
    refusal = f"{origin} is code, and more than a list or a dictionary of names; {WANTED}"
    return _checked(_evaluated(text, origin, refusal), origin)


def of_yaml(text: str, origin: str) -> object:
    """Strings, lists and dictionaries, as a YAML document has them; aliases are refused, which multiply what it has."""
    _check_length(text, origin, "YAML")
    stack: list[list[object]] = [[]]
    mappings: list[bool] = []
    try:
        for count, event in enumerate(yaml.parse(text, Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader))):
            if isinstance(event, yaml.AliasEvent):
                raise BadLabels(
                    f"{origin} has an alias of YAML (*{str(event.anchor)[:40]}); write out what it stands for"
                )
            if isinstance(event, yaml.ScalarEvent):
                stack[-1].append(event.value)
            elif isinstance(event, yaml.CollectionStartEvent):
                stack.append([])
                mappings.append(isinstance(event, yaml.MappingStartEvent))
            elif isinstance(event, yaml.CollectionEndEvent):
                values = stack.pop()
                stack[-1].append(_mapping(values, origin) if mappings.pop() else values)
            if len(stack) > _MAX_NESTING:
                raise BadLabels(f"{origin} {_NESTED}")
            if count > _MOST_VALUES:
                raise BadLabels(f"{origin} {_TOO_MUCH}; {WANTED}")
    except (yaml.YAMLError, RecursionError) as err:
        raise BadLabels(f"{origin} is not YAML ({' '.join(str(err).split())[:100]}); {WANTED}") from err
    if len(stack[0]) > 1:
        raise BadLabels(f"{origin} has several documents of YAML; {WANTED}")
    return _checked(stack[0][0] if stack[0] else None, origin)


def of_label_map(text: str, origin: str) -> object:
    """A label map of TensorFlow: `item { id: 1 name: 'cat' }`, one after another."""
    text = _COMMENT.sub("", text)
    try:
        items = [
            {key: int(number) if number else double or single for key, number, double, single in _in_row(_FIELD, item)}
            for (item,) in _in_row(_ITEM, text)
        ]
    except ValueError as err:
        raise BadLabels(f"{origin} is a label map with more than numbers and names in its items; {WANTED}") from err
    return _checked(items, origin)


def is_label_map(text: str) -> bool:
    return bool(_ITEM.match(text))


def _in_row(pattern: re.Pattern[str], text: str) -> Iterator[tuple[str, ...]]:
    """The groups of each match, one after another; ValueError for anything else but space in `text`."""
    place = 0
    while match := pattern.match(text, place):
        yield match.groups("")
        place = match.end()
    if text[place:].strip():
        raise ValueError("something else")


def _json(text: str, origin: str) -> object:
    return json.loads(
        text,
        object_pairs_hook=lambda pairs: _object(pairs, origin),
        parse_int=lambda digits: _number(digits, origin),
        parse_constant=lambda name: _no_number(name, origin),
    )


def _json_lines(text: str, origin: str) -> list[object] | None:
    """The objects or lists of JSON Lines, or None if the lines are none."""
    lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
    if len(lines) > MAX_CLASSES:
        raise BadLabels(f"{origin} has more than {MAX_CLASSES:,} lines, and no network here so many classes; {WANTED}")
    try:
        items = [_json(line, origin) for line in lines]
    except json.JSONDecodeError:
        return None
    return items if all(isinstance(item, dict | list) for item in items) else None


def _number(digits: str, origin: str) -> int:
    if len(digits) > len(str(_LARGEST_NUMBER)):
        raise BadLabels(f"{origin} has a number of {len(digits)} digits, which is not an index; {WANTED}")
    return int(digits)


def _no_number(name: str, origin: str) -> object:
    raise BadLabels(f"{origin} has {name} without quotation marks, which is not a name; {WANTED}")


def _object(pairs: Sequence[tuple[str, object]], origin: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise BadLabels(f"{origin} has {name[:40]!r} twice in one object; {WANTED}")
        found[name] = value
    return found


def _mapping(values: Sequence[object], origin: str) -> dict[str, object]:
    keys = values[::2]
    if not all(isinstance(key, str) for key in keys):
        raise BadLabels(f"{origin} has a list or an object as a key; {WANTED}")
    return dict(zip(map(str, keys), values[1::2], strict=True))


def _check_length(text: str, origin: str, kind: str) -> None:
    if len(text) > _MAX_TREE_CHARACTERS:
        raise BadLabels(f"{origin} is {kind} of more than {_MAX_TREE_CHARACTERS:,} characters; {WANTED}")


def _evaluated(text: str, origin: str, refusal: str) -> object:
    """The literal that `text` is, or assigns; nothing is run. BadLabels, by `refusal` if it is more than a literal."""
    _check_length(text, origin, "Python, or damaged JSON,")
    if sum(1 for _ in _TOKEN.finditer(_STRING.sub(" s ", text))) > _MAX_PYTHON_TOKENS:
        raise BadLabels(f"{origin} {_TOO_MUCH}; {WANTED}")
    try:
        return _literal(text)
    except (RecursionError, MemoryError) as err:
        raise BadLabels(f"{origin} {_NESTED}") from err
    except NotLabels as err:
        raise BadLabels(f"{origin} {err}; {WANTED}") from err
    except (ValueError, TypeError, SyntaxError) as err:
        raise BadLabels(refusal) from err


def _literal(text: str) -> object:
    """ValueError if `text` is not a literal, or has a key twice."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of backslashes in names
        statements = ast.parse(text.strip()).body
    if len(statements) != 1 or not isinstance(statements[0], ast.Expr | ast.Assign):
        raise ValueError("more than a literal")
    content = held(statements[0].value)
    for node in ast.walk(content):
        if isinstance(node, ast.Dict) and not all(_is_plain_key(key) for key in node.keys):
            raise ValueError("keys that could take for ever to tell apart")
        if isinstance(node, ast.Set):
            raise ValueError("a set has no order")
    check_strings(content, text.strip())
    found: object = ast.literal_eval(content)
    if isinstance(content, ast.Dict) and isinstance(found, dict) and len(found) < len(content.keys):
        raise ValueError("a key is there twice")
    return found


def _is_plain_key(key: ast.expr | None) -> bool:
    value = key.value if isinstance(key, ast.Constant) else None
    return isinstance(value, str) or (isinstance(value, int) and value < _LARGEST_NUMBER)


def _checked(content: object, origin: str) -> object:
    """`content`; BadLabels if it is deeper or more than a network's labels, or has numbers that are no indices."""
    level, values = [content], 0
    for _ in range(_MAX_NESTING):
        held = [item for item in level if isinstance(item, list | tuple | Mapping)]
        if any(len(item) > MAX_CLASSES for item in held):
            raise BadLabels(f"{origin} has more than {MAX_CLASSES:,} labels, which no network here has; {WANTED}")
        if any(isinstance(item, int) and abs(item) >= _LARGEST_NUMBER for item in level):
            raise BadLabels(f"{origin} has a number of more than 18 digits, which is not an index; {WANTED}")
        values += len(level)
        if values > _MOST_VALUES:
            raise BadLabels(f"{origin} {_TOO_MUCH}; {WANTED}")
        if not held:
            return content
        level = [value for item in held for value in (item.values() if isinstance(item, Mapping) else item)]
    raise BadLabels(f"{origin} {_NESTED}")
