"""The judge's stand-ins for what is the program's.

Plain data arrives as the judge's own. An object arrives as a mirror, an instance of a class that mirrors the program's
class. It has the same name and bases, and those special methods that the program's class has. So `with`, `for`, `in`,
`except` and `isinstance` work by Python's own rules. Each use is a request to the program, with two limits:

- What a test expects never goes to the program, and a program never says whether it was met. A comparison of a mirror
  with plain data is made here or not at all. An operator of a mirror with plain data is the program's only where the
  tests themselves treat the class as one.
- A value of a class derived from a built-in one (a named tuple, an IntEnum) is compared as the plain value that it is.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from reward_fns.code.inside import wire
from reward_fns.code.inside.program import SPECIAL_METHODS

COMPARISONS = {"__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"}
OPERATORS = set(SPECIAL_METHODS[SPECIAL_METHODS.index("__add__") :])
# What isinstance of a mirror says besides the mirror's class, for types of the interpreter.
INTERPRETER_TYPES: dict[str, type] = {
    "function": types.FunctionType, "generator": types.GeneratorType, "method": types.MethodType,
    "builtin_function_or_method": types.BuiltinFunctionType, "async_generator": types.AsyncGeneratorType,
    "map": map, "filter": filter, "zip": zip, "enumerate": enumerate, "dict_keys": type({}.keys()),
    "dict_values": type({}.values()), "dict_items": type({}.items()), "list_iterator": type(iter([])),
}  # fmt: skip
TESTS_FILE = "test.py"


class Unsupported(BaseException):
    """The tests need what the judge cannot do: a fault of the verifier, not of the answer. Tests that swallow it are undecided
    all the same, so each is kept in `raised`."""

    raised: ClassVar[list[Unsupported]] = []

    def __init__(self, what: str):
        super().__init__(what)
        self.raised.append(self)


class Mirror(type):
    """The class of mirrored classes."""

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], *, made: bool = False) -> Any:
        if not made and any(isinstance(base, Mirror) for base in bases):
            raise Unsupported(f"a test derives the class {name} from one of the program")
        return super().__new__(cls, name, bases, namespace)

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], *, made: bool = False) -> None:
        super().__init__(name, bases, namespace)

    def __call__(cls, *args: object, **kwargs: object) -> object:
        return program_of(cls).call(cls, args, kwargs)

    def __getattr__(cls, name: str) -> object:
        return program_of(cls).get(cls, name)

    def __setattr__(cls, name: str, value: object) -> None:
        program_of(cls).set(cls, name, value)

    def __iter__(cls) -> Iterator[object]:
        return iter(program_of(cls).special(cls, "__iter__"))

    def __len__(cls) -> int:
        return program_of(cls).special(cls, "__len__")

    def __getitem__(cls, key: object) -> object:
        return program_of(cls).special(cls, "__getitem__", key)

    def __contains__(cls, item: object) -> bool:
        if not is_remote(item) and cls not in program_of(cls).owned:
            raise Unsupported(f"{cls.__name__}.__contains__ is the program's own, which could lie")
        return bool(program_of(cls).special(cls, "__contains__", item))

    def __bool__(cls) -> bool:
        return True


class Remote(metaclass=Mirror, made=True):
    """What every mirror can do."""

    def __getattr__(self, name: str) -> object:
        if name == "__dataclass_fields__":
            raise Unsupported("the tests read the fields of a dataclass of the program")
        return program_of(self).get(self, name)

    def __setattr__(self, name: str, value: object) -> None:
        if name.startswith("__") and isinstance(self, BaseException):
            object.__setattr__(self, name, value)
        else:
            program_of(self).set(self, name, value)

    def __delattr__(self, name: str) -> None:
        program_of(self).ask("delete", **place_of(self), attribute=name)

    def __copy__(self) -> object:
        return program_of(self).value("copy", **place_of(self))

    def __deepcopy__(self, memo: object) -> object:
        return program_of(self).value("deepcopy", **place_of(self))

    def __reduce_ex__(self, protocol: object) -> Any:
        raise Unsupported("the tests pickle an object of the program")


class Named(Remote, made=True):
    """A function that is looked up by its name at each call: a method is one of a fresh object."""

    def __call__(self, *args: object, **kwargs: object) -> object:
        return program_of(self).call(self, args, kwargs)


_places: dict[int, tuple[Any, dict[str, Any], object]] = {}  # by address; holding the object keeps it its own


def program_of(mirror: object) -> Any:
    """The client that a mirror asks (`client.Program`). Raises AttributeError for what is no mirror."""
    place = _places.get(id(mirror))
    if place is None:
        raise AttributeError("not an object of the program")
    return place[0]


def place_of(mirror: object) -> dict[str, Any]:
    """How a request says which thing of the program is meant: {"ref": number} or {"name": name}."""
    return _places[id(mirror)][1]


def put_in_place(mirror: Any, program: object, **where: object) -> Any:
    _places[id(mirror)] = (program, where, mirror)
    return mirror


def make_class(name: str, bases: tuple[type, ...], facts: dict[str, Any], base: Any) -> Any:
    """The mirror of a class of the program, which has said the `facts` of it (`program.Server.describe`)."""
    namespace: dict[str, Any] = {"__module__": str(facts["module"]), "__doc__": facts["doc"], "__qualname__": name}
    had = {method for method in facts["special"] if method in SPECIAL_METHODS}
    raised, held = any(issubclass(one, BaseException) for one in bases), bool(facts["held"])
    snapshot = base if isinstance(base, type) and not held else set if facts["view"] else None
    if held:
        had -= COMPARISONS | {"__hash__"}
    elif not raised:
        had |= {"__str__", "__repr__"}
    namespace |= {method: make_method(method, snapshot) for method in had}
    if raised:
        namespace["__str__"] = exception_text
    if snapshot and not raised:
        namespace |= {method: make_method(method, snapshot) for method in ("__eq__", "__ne__", "__contains__")}
    if not held and not raised:
        namespace.setdefault("__hash__", object.__hash__ if facts["hashable"] else None)
        namespace["__by_dataclass__"] = bool(facts["dataclass"])
        namespace["__dict__"] = property(lambda self: program_of(self).get(self, "__dict__"))
    shown = snapshot if base else INTERPRETER_TYPES.get(name) if facts["module"] in ("builtins", "types") else None
    if name in ("function", "method", "builtin_function_or_method"):
        namespace["__doc__"] = property(lambda self: program_of(self).get(self, "__doc__"))
    if shown:
        namespace["__class__"] = property(lambda self: shown)
    return Mirror(name, bases, namespace, made=True)


def is_remote(value: object) -> bool:
    return id(value) in _places


def make_method(name: str, snapshot: type | None) -> Callable[..., object]:
    """The special method of a mirrored class. `snapshot` is the built-in type whose plain value a comparison takes."""
    if name in METHODS:
        return METHODS[name]

    def method(self: Any, *args: Any) -> object:
        program = program_of(self)
        if all(map(is_remote, args)):
            return program.special(self, name, *args)
        if name in COMPARISONS or name == "__contains__":
            return compare_with_plain(program, self, name, snapshot, args[0])
        if name in OPERATORS and not program.owns(self):
            raise Unsupported(f"{type(self).__name__}.{name} with plain data is the program's own, which could lie")
        return program.special(self, name, *args)

    return method


def compare_with_plain(program: Any, mirror: Any, name: str, snapshot: type | None, other: object) -> object:
    """A comparison with what a test may expect: with a plain value here, never by the program's own method."""
    if name == "__contains__" and program.owns(mirror):  # the item is an argument here: nothing says that it is there
        return program.special(mirror, name, other)
    if snapshot:
        plain = program.value("snapshot", **place_of(mirror))
        return other in plain if name == "__contains__" else getattr(plain, name)(other)
    if name == "__contains__":
        if hasattr(type(mirror), "__iter__"):
            return any(item is other or item == other for item in mirror)
        raise Unsupported(f"{type(mirror).__name__}.__contains__ is the program's own, which could lie")
    known = other is None or type(mirror).__dict__.get("__by_dataclass__", False)
    foreign = known or (not program.owns(mirror) and type(other).__name__ != type(mirror).__name__)
    if foreign and name in ("__eq__", "__ne__"):
        return NotImplemented
    raise Unsupported(f"{type(mirror).__name__}.{name} with plain data is the program's own, which could lie")


def exception_text(self: Any) -> str:
    told = vars(self).get("__told__")
    return told if told is not None else program_of(self).value("str", **place_of(self))


def next_item(self: Any) -> object:
    return program_of(self).next_item(self)


def truth(self: Any) -> object:
    """Asked twice: a truth that changes by being looked at is none."""
    told = [program_of(self).special(self, "__bool__") for _ in range(2)]
    if told[0] is not told[1]:
        raise RuntimeError(f"the truth of a {type(self).__name__} changes while it is read")
    return told[0]


def call_mirror(self: Any, *args: object, **kwargs: object) -> object:
    return program_of(self).call(self, args, kwargs)


def leave(self: Any, kind: Any, error: BaseException | None, trace: types.TracebackType | None) -> object:
    """`__exit__`. It may swallow what the program raised, or the test on purpose. A failure of the test it does not see."""
    failure = is_failure(error)
    given = (None, None, None) if failure else (kind, error, None)
    return bool(program_of(self).special(self, "__exit__", *given)) and not failure


async def leave_later(self: Any, kind: Any, error: BaseException | None, trace: types.TracebackType | None) -> object:
    failure = is_failure(error)
    given = (None, None, None) if failure else (kind, error, None)
    return bool(await program_of(self).special(self, "__aexit__", *given)) and not failure


def is_failure(error: BaseException | None) -> bool:
    """Whether it says that a test failed, and not that the program or the test raised something on purpose."""
    if error is None or getattr(error, "__of_program__", False):
        return False
    return isinstance(error, AssertionError | Unsupported | wire.Closed) or from_assertion(error)


def from_assertion(error: BaseException) -> bool:
    """Whether it left an assertion of the tests, whatever its kind."""
    trace, lines = error.__traceback__, None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == TESTS_FILE:
            lines = (trace.tb_frame.f_globals.get("__asserted__"), trace.tb_lineno)
        trace = trace.tb_next
    return lines is not None and lines[0] is not None and lines[1] in lines[0]


METHODS: dict[str, Callable[..., Any]] = {
    "__call__": call_mirror, "__next__": next_item, "__bool__": truth, "__exit__": leave, "__aexit__": leave_later,
    "__await__": lambda self: program_of(self).coroutine(place_of(self)["ref"]).__await__(),
    "__str__": lambda self: program_of(self).value("str", **place_of(self)),
    "__repr__": lambda self: program_of(self).value("repr", **place_of(self)),
}  # fmt: skip
