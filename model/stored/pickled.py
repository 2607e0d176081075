"""Pickles as plain data: nothing that a file names is imported, looked up or called.

Python's unpickler, and PyTorch's with `weights_only`, find a class by its name and call it. This one only follows the
opcodes (PEP 307, 3154 and 574, as the standard library's `pickletools` parses them): a global is its name, and a call
is an `Object` that records what would have been called with what. So a checkpoint may hold objects of any library,
which need not be installed, and a hostile one has nothing to run. The caller alone decides what becomes a tensor.
"""

import builtins
import pickletools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

MAX_OPCODES = 400_000  # some 3 s; a CrossViT with its optimizer takes 100,000
_MAX_CALL_ARGS = 1000  # of one call
_MAX_NAME_LETTERS = 500  # of a class or function

# Modules whose functions no checkpoint calls. Nothing is called anyhow: this is for saying what such a file is.
_HARMFUL_MODULES = frozenset(
    [
        *("os", "posix", "nt", "sys", "subprocess", "shutil", "socket", "runpy", "importlib", "ctypes", "pty", "code"),
        *("codeop", "webbrowser", "marshal", "pickle", "_pickle", "timeit", "pdb", "profile", "cProfile", "tempfile"),
        *("urllib", "http", "requests", "asyncio", "signal", "threading", "torch.hub", "torch.jit"),
    ]
)


class Malformed(ValueError):
    """Bytes that are no pickle, or one that is larger or odder than any checkpoint's."""


class Harmful(Malformed):
    """A pickle that would call what no checkpoint calls, and did not; the message is the name."""


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function by its name, `module.name`."""

    name: str


@dataclass(eq=False, repr=False, slots=True)
class Object:
    """A call that was not made: the name of what would be called, its arguments, and what the result would be given.

    `state` is what its attributes would be set from, `entries` and `items` what it would hold as a mapping or a list.
    """

    name: str
    args: tuple[object, ...] = ()
    state: object = None
    entries: dict[object, object] = field(default_factory=dict)
    items: list[object] = field(default_factory=list)


Rebuild = Callable[[str, tuple[object, ...]], object]
Persistent = Callable[[object], object]


class Budget:
    """How many opcodes the pickles of one file may still have, together."""

    def __init__(self, opcodes: int = MAX_OPCODES) -> None:
        self._most = self._left = opcodes

    def take(self) -> None:
        """One opcode more; Malformed if there are too many."""
        self._left -= 1
        if self._left < 0:
            raise Malformed(f"it holds more beside the tensors than a checkpoint does (over {self._most:,} opcodes)")


def read_pickle(file: IO[bytes], rebuild: Rebuild, persistent: Persistent, *budgets: Budget) -> object:
    """The next pickle in `file`, whose opcodes count against `budgets`; the file is left behind its end.

    `rebuild` is given the name and the arguments of each call and returns what stands for its result, `persistent`
    the id of each object that is stored elsewhere. Raises Malformed.
    """
    try:
        return _Machine(rebuild, persistent).run(file, budgets)
    except Malformed:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as err:
        raise Malformed("it is not a pickle, or damaged") from err


class _Machine:
    """The pickle machine with a stack, marks in it, and a memo. Its values are plain data, Globals and Objects."""

    def __init__(self, rebuild: Rebuild, persistent: Persistent) -> None:
        self._rebuild, self._persistent = rebuild, persistent
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._steps: dict[str, Callable[[Any], None]] = {
            name: getattr(self, f"_{step or name.lower()}") for step, names in _STEPS.items() for name in names.split()
        }

    def run(self, file: IO[bytes], budgets: Sequence[Budget]) -> object:
        steps, push = self._steps, self._push
        for opcode, argument, _ in pickletools.genops(file):
            for budget in budgets:
                budget.take()
            steps.get(opcode.name, push)(argument)
        return self._stack.pop()

    def _push(self, value: object) -> None:
        """Every opcode that has no step of its own pushes its argument."""
        self._stack.append(value)

    def _since_mark(self) -> list[Any]:
        values, self._stack = self._stack, self._marked.pop()
        return values

    def _nothing(self, _: object) -> None:
        pass

    def _none(self, _: object) -> None:
        self._push(None)

    def _true(self, _: object) -> None:
        self._push(True)

    def _false(self, _: object) -> None:
        self._push(False)

    def _mark(self, _: object) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def _pop(self, _: object) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._since_mark()

    def _pop_mark(self, _: object) -> None:
        self._since_mark()

    def _dup(self, _: object) -> None:
        self._push(self._stack[-1])

    def _get(self, key: str | int) -> None:
        self._push(self._memo[int(key)])

    def _put(self, key: str | int) -> None:
        self._memo[int(key)] = self._stack[-1]

    def _memoize(self, _: object) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _empty_list(self, _: object) -> None:
        self._push([])

    def _list(self, _: object) -> None:
        """Lists, and sets too: their members are not hashed, which could take for ever."""
        self._push(self._since_mark())

    def _empty_dict(self, _: object) -> None:
        self._push({})

    def _dict(self, _: object) -> None:
        values = self._since_mark()
        self._push({})
        self._set(values)

    def _tuple(self, _: object) -> None:
        self._push(tuple(self._since_mark()))

    def _tuple0(self, _: object) -> None:
        self._push(())

    def _tuple1(self, _: object) -> None:
        self._stack[-1:] = [tuple(self._stack[-1:])]

    def _tuple2(self, _: object) -> None:
        self._stack[-2:] = [tuple(self._stack[-2:])]

    def _tuple3(self, _: object) -> None:
        self._stack[-3:] = [tuple(self._stack[-3:])]

    def _append(self, _: object) -> None:
        self._extend([self._stack.pop()])

    def _appends(self, _: object) -> None:
        self._extend(self._since_mark())

    def _extend(self, values: list[Any]) -> None:
        target = self._stack[-1]
        (target.items if isinstance(target, Object) else _of(list, target)).extend(values)

    def _setitem(self, _: object) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set([key, value])

    def _setitems(self, _: object) -> None:
        self._set(self._since_mark())

    def _set(self, values: list[Any]) -> None:
        target = self._stack[-1]
        entries = target.entries if isinstance(target, Object) else _of(dict, target)
        entries.update(zip(map(_key, values[::2]), values[1::2], strict=True))

    def _global(self, name: str) -> None:
        self._push(_named(name.replace(" ", ".", 1)))

    def _stack_global(self, _: object) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._push(_named(f"{_of(str, module)[: _MAX_NAME_LETTERS + 1]}.{_of(str, name)[: _MAX_NAME_LETTERS + 1]}"))

    def _reduce(self, _: object) -> None:
        args, called = self._stack.pop(), self._stack.pop()
        self._call(called, args)

    def _newobj_ex(self, _: object) -> None:
        kwargs, args, called = self._stack.pop(), self._stack.pop(), self._stack.pop()
        self._call(called, (*_arguments(args), kwargs))

    def _obj(self, _: object) -> None:
        called, *args = self._since_mark()
        self._call(called, tuple(args))

    def _inst(self, name: str) -> None:
        self._call(_named(name.replace(" ", ".", 1)), tuple(self._since_mark()))

    def _call(self, called: object, args: object) -> None:
        name = called.name if isinstance(called, Global) else "a call of a value"
        if _is_harmful(name):
            raise Harmful(name)
        self._push(self._rebuild(name, _arguments(args)))

    def _build(self, _: object) -> None:
        state = self._stack.pop()
        if isinstance(self._stack[-1], Object):  # tensors have no state that matters
            self._stack[-1].state = state

    def _persid(self, value: object) -> None:
        self._push(self._persistent(value))

    def _binpersid(self, _: object) -> None:
        self._push(self._persistent(self._stack.pop()))


# How each opcode is done; an empty name is the opcode's own.
_STEPS = {
    "": "MARK POP POP_MARK DUP MEMOIZE EMPTY_LIST LIST EMPTY_DICT DICT TUPLE TUPLE1 TUPLE2 TUPLE3 APPEND APPENDS "
    "SETITEM SETITEMS STACK_GLOBAL REDUCE NEWOBJ_EX OBJ INST GLOBAL BUILD PERSID BINPERSID NONE",
    "nothing": "PROTO FRAME STOP READONLY_BUFFER",
    "true": "NEWTRUE",
    "false": "NEWFALSE",
    "get": "GET BINGET LONG_BINGET",
    "put": "PUT BINPUT LONG_BINPUT",
    "tuple0": "EMPTY_TUPLE",
    "empty_list": "EMPTY_SET",
    "appends": "ADDITEMS",
    "list": "FROZENSET",
    "reduce": "NEWOBJ",
}


def _is_harmful(name: str) -> bool:
    module, _, function = name.rpartition(".")
    if module in ("builtins", "__builtin__"):  # its classes are data; getattr is how methods and enums are written
        return function != "getattr" and not isinstance(vars(builtins).get(function), type)
    known = module in _HARMFUL_MODULES or module.partition(".")[0] in _HARMFUL_MODULES
    return known and (function[:1].islower() or function == "Popen")


def _named(name: str) -> Global:
    """A name that a file gives once, and may use a hundred thousand times."""
    if len(name) > _MAX_NAME_LETTERS:
        raise Malformed("a name of a class that is too long")
    return Global(name)


def _arguments(value: object) -> tuple[object, ...]:
    if isinstance(value, tuple) and len(value) > _MAX_CALL_ARGS:
        raise Malformed(f"a call with more than {_MAX_CALL_ARGS:,} arguments")
    found: tuple[object, ...] = _of(tuple, value)
    return found


def _of(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise Malformed(f"a {type(value).__name__} stands where a {kind.__name__} belongs")
    return value


def _key(value: object) -> object:
    """A key as it is if hashing it is cheap and no two collide by design; others stand for themselves."""
    if isinstance(value, str) or (isinstance(value, int) and abs(value) < 1 << 31):
        return value
    return object()
