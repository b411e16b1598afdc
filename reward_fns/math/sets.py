"""Sets of real numbers: intervals, inequalities in one variable, set builders, and unions of them, as pieces of a line."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

from reward_fns.math.terms import INFINITY, Node
from reward_fns.math.tokens import Unclear
from reward_fns.math.values import POSITIVE, has, value_at, variables

FLIPPED = {
    "<": ">", ">": "<", "<=": ">=", ">=": "<=", "subset": "supset", "supset": "subset", "subseteq": "supseteq",
    "supseteq": "subseteq", "in": "ni", "ni": "in",
}  # fmt: skip
EQUALITIES = ({"="}, {"~"}, {"=", "~"})


@lru_cache(maxsize=4096)
def expanded(node: Node) -> Node:
    """A value with a plus-minus sign as the list of both."""
    if not has(node, "plusminus"):
        return node
    if node.kind in ("list", "set"):
        return replace(node, parts=flattened(node.parts))
    if node.kind in ("tuple", "union", "matrix", "row", "builder", "measured", "modulo"):
        return node
    return Node("list", (signed(node, 1), signed(node, -1)), ",")


def flattened(parts: Sequence[Node]) -> tuple[Node, ...]:
    """The parts, both values of a plus-minus sign as two."""
    wholes = map(expanded, parts)
    return tuple(part for whole in wholes for part in (whole.parts if whole.kind == "list" else (whole,)))


def signed(node: Node, sign: int) -> Node:
    parts = tuple(signed(part, sign) for part in node.parts)
    if node.kind == "plusminus":
        return Node("add" if (node.name == "pm") == (sign > 0) else "subtract", parts)
    return replace(node, parts=parts)


def inequalities(node: Node) -> bool:
    parts = node.parts if node.kind == "list" else (node,)
    return all(part.kind == "relation" and not equation(part) for part in parts)


def equation(node: Node) -> bool:
    return set(node.name.split()) in EQUALITIES


def oriented(node: Node) -> Node:
    """A chain with "less" signs instead of "greater" ones."""
    names = node.name.split()
    if names and all(name in (">", ">=", "ni", "supset", "supseteq") for name in names):
        return Node("relation", node.parts[::-1], " ".join(FLIPPED[name] for name in names[::-1]))
    return node


@dataclass(frozen=True)
class Piece:
    """An interval, or a point where both ends are the same node."""

    low: Node
    high: Node
    closed: tuple[bool, bool]


MINUS_INFINITY = Node("negative", (INFINITY,))
OPEN, CLOSED = (False, False), (True, True)
REALS = Piece(MINUS_INFINITY, INFINITY, OPEN)


@lru_cache(maxsize=4096)
def solutions(node: Node) -> tuple[str, tuple[Piece, ...]] | None:
    """(variable or "", pieces) of a set of reals; None when it is none, or has conditions of another kind."""
    reader: Callable[[Node], tuple[str, tuple[Piece, ...]] | None] | None = READERS.get(node.kind)
    return reader(node) if reader else None


def interval(node: Node) -> tuple[str, tuple[Piece, ...]] | None:
    if len(node.parts) != 2:
        return None
    return "", (Piece(*node.parts, (node.name[0] == "[", node.name[1] == "]")),)


def points(node: Node) -> tuple[str, tuple[Piece, ...]] | None:
    return "", tuple(Piece(part, part, CLOSED) for part in expanded(node).parts)


def named(node: Node) -> tuple[str, tuple[Piece, ...]] | None:
    return ("", (REALS,)) if node.name == "set R" else None


def joined(node: Node) -> tuple[str, tuple[Piece, ...]] | None:
    if (node.kind == "subtract" or node.name == "minus") and len(node.parts) == 2:
        whole, removed = map(solutions, node.parts)
        if whole == ("", (REALS,)) and removed and all(piece.low == piece.high for piece in removed[1]):
            return "", without([piece.low for piece in removed[1]])
        return None
    return union_of(node.parts) if node.name == "cup" else None


def listed(node: Node) -> tuple[str, tuple[Piece, ...]] | None:
    if node.name == ";" or not all(part.kind in ("relation", "union", "tuple") for part in node.parts):
        return None
    if node.name != "or" and all(part.kind == "relation" and part.name == "!=" for part in node.parts):
        names = {part.parts[0].name for part in node.parts if part.parts[0].kind == "symbol"}
        return (names.pop(), without([part.parts[1] for part in node.parts])) if len(names) == 1 else None
    return union_of(node.parts) if node.name == "or" else intersection_of(node.parts)


def intersection_of(parts: Sequence[Node]) -> tuple[str, tuple[Piece, ...]] | None:
    """Inequalities that hold together: `2 < x and x < 3`."""
    found = union_of(parts)
    if found is None or len(found[1]) != len(parts) or not all(map(inequalities, parts)):
        return None
    try:
        low = max(found[1], key=lambda piece: (real_value(piece.low), not piece.closed[0]))
        high = min(found[1], key=lambda piece: (real_value(piece.high), piece.closed[1]))
        if real_value(low.low) > real_value(high.high):
            return None
    except Unclear:
        return None
    return found[0], (Piece(low.low, high.high, (low.closed[0], high.closed[1])),)


def union_of(parts: Sequence[Node]) -> tuple[str, tuple[Piece, ...]] | None:
    found = [solutions(part) for part in parts]
    if any(one is None for one in found):
        return None
    names = {one[0] for one in found if one and one[0]}
    if len(names) > 1:
        return None
    return "".join(names), tuple(piece for one in found if one for piece in one[1])


def without(removed: Sequence[Node]) -> tuple[Piece, ...]:
    ends = sorted(removed, key=real_value)
    bounds = [MINUS_INFINITY, *ends, INFINITY]
    return tuple(Piece(low, high, OPEN) for low, high in pairwise(bounds))


def real_value(node: Node) -> float:
    """Raises Unclear for what is no real constant."""
    if variables(node):
        raise Unclear
    value = value_at(node, POSITIVE[0], 0, 1, False)
    if value is None or isinstance(value, complex):
        raise Unclear
    return float(value)


def inequality(node: Node) -> tuple[str, tuple[Piece, ...]] | None:
    node = oriented(node)
    names, parts = node.name.split(), node.parts
    if node.name in ("in",) and parts[0].kind == "symbol":
        inner = solutions(parts[1])
        return (parts[0].name, inner[1]) if inner else None
    if node.name == "!=" and parts[0].kind == "symbol":
        return parts[0].name, without([parts[1]])
    if not all(name in ("<", "<=") for name in names):
        return None
    closed = [name == "<=" for name in names]
    if len(parts) == 3 and parts[1].kind == "symbol":
        return parts[1].name, (Piece(parts[0], parts[2], (closed[0], closed[1])),)
    if len(parts) == 2 and (found := absolute(parts, closed[0])) is not None:
        return found
    if len(parts) == 2 and parts[0].kind == "symbol" and parts[0].name not in ("e", "i"):
        return parts[0].name, (Piece(MINUS_INFINITY, parts[1], (False, closed[0])),)
    if len(parts) == 2 and parts[1].kind == "symbol":
        return parts[1].name, (Piece(parts[0], INFINITY, (closed[0], False)),)
    return None


def absolute(parts: Sequence[Node], closed: bool) -> tuple[str, tuple[Piece, ...]] | None:
    """|x - a| < b and b < |x - a|, where b is a positive constant."""
    inside, outside = (is_absolute(part) for part in parts)
    if inside == outside:
        return None
    (inner,), bound = (parts[0].parts, parts[1]) if inside else (parts[1].parts, parts[0])
    sign, centre = {"subtract": ("add", inner.parts[-1:]), "add": ("subtract", inner.parts[-1:])}.get(
        inner.kind, ("", ())
    )
    name = inner.parts[0] if sign else inner
    if name.kind != "symbol" or any(map(variables, (bound, *centre))) or real_value(bound) <= 0:
        return None
    low, high = Node("negative", (bound,)), bound
    if centre:
        middle = centre[0] if sign == "add" else Node("negative", centre)
        low, high = Node("subtract", (middle, bound)), Node("add", (middle, bound))
    if inside:
        return name.name, (Piece(low, high, (closed, closed)),)
    return name.name, (Piece(MINUS_INFINITY, low, (False, closed)), Piece(high, INFINITY, (closed, False)))


def is_absolute(node: Node) -> bool:
    return node.kind == "call" and node.name == "abs"


def builder(node: Node) -> tuple[str, tuple[Piece, ...]] | None:
    element, condition = node.parts
    if element.kind == "relation" and element.name == "in" and element.parts[1] == Node("symbol", name="set R"):
        element = element.parts[0]
    found = solutions(condition)
    return ("", found[1]) if found and element.kind == "symbol" and found[0] == element.name else None


READERS = {
    "tuple": interval, "set": points, "symbol": named, "union": joined, "list": listed, "relation": inequality,
    "builder": builder, "subtract": joined,
}  # fmt: skip


def merged(pieces: tuple[Piece, ...]) -> list[Piece]:
    """Pieces in order, those that touch as one; as they are where an end is no real constant."""
    try:
        ordered = sorted(pieces, key=lambda piece: (real_value(piece.low), not piece.closed[0]))
        found: list[Piece] = []
        for piece in ordered:
            low, high = real_value(piece.low), real_value(piece.high)
            if low > high:
                raise Unclear
            if found:
                last, end = found[-1], real_value(found[-1].high)
                if low < end or (low == end and (piece.closed[0] or last.closed[1])):
                    if high > end or (high == end and piece.closed[1]):
                        found[-1] = Piece(last.low, piece.high, (last.closed[0], piece.closed[1]))
                    continue
            found.append(piece)
        return found
    except Unclear:
        return list(pieces)
