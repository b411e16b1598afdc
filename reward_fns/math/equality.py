r"""Whether two answers, read as trees, are the same: values, lists, sets, intervals, relations, matrices.

Names may be missing on one side (`x = 5` and `5`), order matters in tuples and in blanks (`4; 9`), and an inequality in
one variable is the set of its solutions. Everything else that only one side has makes the two different.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from reward_fns.math import notation, units
from reward_fns.math.sets import (
    equation,
    expanded,
    flattened,
    inequalities,
    merged,
    oriented,
    solutions,
)  # fmt: skip
from reward_fns.math.terms import EMPTY, INFINITY, Node
from reward_fns.math.tokens import Unclear
from reward_fns.math.values import MIXED, POSITIVE, equal_values, rooted, value_at, variables

MAX_ELEMENTS = 64  # of lists in any order; each is compared with each
SYMMETRIC = frozenset(("=", "!=", "~", "parallel", "perp", "cong", "sim"))


def equal(gold: Node, answer: Node) -> bool:
    """Whether two answers are the same. Raises Unclear where that cannot be said."""
    if gold == answer:
        return True
    gold, answer = (
        expanded(SYNONYMS.get(node.name, node) if node.kind == "words" else equations(node)) for node in (gold, answer)
    )
    if gold == answer:
        return True
    if gold.kind == "ratio" and answer.kind == "ratio":
        return equal_ratios(gold, answer)
    sequences = [letters(node) for node in (gold, answer)]
    if all(sequences) and max(map(len, sequences)) > 2:
        return sequences[0] == sequences[1]
    if gold.kind == "list" or answer.kind == "list":
        return equal_lists(gold, answer)
    if not {"measured", "degree"}.isdisjoint((gold.kind, answer.kind)):
        (gold, ours), (answer, theirs) = measured(gold), measured(answer)
        return units.agree(ours, theirs) and equal(gold, answer)
    if answer.kind == "modulo" and gold.kind == "number":  # the remainder itself, with its modulus
        residue, modulus = answer.parts
        return residue == gold and modulus.kind == "number" and 0 <= gold.value < modulus.value
    if "modulo" in (gold.kind, answer.kind):
        return gold.kind == answer.kind and equal_residues(gold, answer)
    if "relation" in (gold.kind, answer.kind):
        return equal_relations(gold, answer)
    if "words" in (gold.kind, answer.kind):
        return gold.kind == answer.kind and units.stem_words(gold.name) == units.stem_words(answer.name)
    if "based" in (gold.kind, answer.kind):
        return equal_digits(gold, answer)
    collections = {"tuple", "set", "union", "builder", "matrix", "det", "cases", "row"}
    if gold.kind in collections or answer.kind in collections or named_set(gold) or named_set(answer):
        return equal_collections(gold, answer)
    return equal_scalars(gold, answer)


SYNONYMS = dict.fromkeys(
    ("no solution", "no solutions", "no real solution", "no real solutions", "empty set", "the empty set"), EMPTY
)
SYNONYMS |= dict.fromkeys(("all real numbers", "all reals", "any real number"), Node("symbol", name="set R"))
SYNONYMS |= {"infinity": INFINITY, "does not exist": Node("words", name="dne")}


@lru_cache(maxsize=4096)
def letters(node: Node) -> tuple[str, ...]:
    """The capitals of a name such as ABC or \\triangle PQR, in order; () for anything else."""
    if node.kind == "symbol" and (node.name[0].isupper() or node.name[0] == "\\") and not node.name.startswith("set"):
        return (node.name,)
    if node.kind == "multiply":
        parts = [letters(part) for part in node.parts]
        return tuple(name for part in parts for name in part) if all(parts) and not greek(parts) else ()
    return ()


def equations(node: Node) -> Node:
    """A system in braces, without conditions, as the list of its equations; any other answer as it is."""
    rows = [row.parts for row in node.parts] if node.kind == "cases" else []
    if rows and all(len(row) == 1 and row[0].kind == "relation" for row in rows):
        return Node("list", tuple(row[0] for row in rows), ",")
    return node


def greek(parts: Sequence[tuple[str, ...]]) -> bool:
    """Whether Greek letters are factors here, which no name of points has."""
    return any(name[0] == "\\" and name not in FIGURES for part in parts for name in part)


FIGURES = ("\\triangle", "\\angle", "\\square", "\\odot")


def equal_ratios(gold: Node, answer: Node) -> bool:
    """Equal up to a factor; times of day (3:30) as they are."""
    if "time" in (gold.name, answer.name) or len(gold.parts) != len(answer.parts):
        return pairwise_equal(gold.parts, answer.parts)
    ours, theirs = ([Node("divide", (part, node.parts[0])) for part in node.parts[1:]] for node in (gold, answer))
    return pairwise_equal(ours, theirs)


def measured(node: Node) -> tuple[Node, str]:
    """A value without the words after it, a scale word (million) multiplied in, and those words. A degree sign is one."""
    if node.kind == "degree":
        return node.parts[0], "deg"
    if node.kind != "measured":
        return node, ""
    first, _, rest = node.name.partition(" ")
    if (factor := notation.FACTORS.get(first.casefold())) is not None and first:
        scaled = node.parts[0]
        scaled = Node("percent", (scaled,)) if factor < 1 else Node("multiply", (scaled, Node("number", value=factor)))
        return scaled, rest
    return node.parts[0], node.name


def named_set(node: Node) -> bool:
    return node.kind == "symbol" and node.name.startswith("set ")


def equal_scalars(gold: Node, answer: Node) -> bool:
    """Two single values. A percentage is its value, and also its figure where the other has no percent sign."""
    if gold.kind == "percent" and answer.kind != "percent" and equal_scalars(gold.parts[0], answer):
        return True
    if answer.kind == "percent" and gold.kind != "percent" and equal_scalars(gold, answer.parts[0]):
        return True
    if equal_values(gold, answer):
        return True
    if variables(gold) or variables(answer) or not (inexact(gold) or inexact(answer)):
        return False
    a, b = (value_at(node, POSITIVE[0], 0, 1, False) for node in (gold, answer))
    if a is None or b is None:
        raise Unclear
    if isinstance(a, complex) and isinstance(b, complex):
        return abs(a - b) <= 0.5 / notation.ROUNDING
    if isinstance(a, complex) or isinstance(b, complex) or abs(a) == float("inf") or abs(b) == float("inf"):
        return False
    return notation.same_fraction(Fraction(a), Fraction(b), exact=False)


@lru_cache(maxsize=4096)
def inexact(node: Node) -> bool:
    return (node.kind == "number" and bool(node.name)) or any(map(inexact, node.parts))


def equal_digits(gold: Node, answer: Node) -> bool:
    """Numerals in a base: the same digits in the same base, which one side may leave out."""
    if gold.kind == answer.kind:
        return False  # equal ones are identical
    based, other = (gold, answer) if gold.kind == "based" else (answer, gold)
    other = other.parts[0] if other.kind == "group" else other
    return other.kind == "number" and not other.name and other.value == based.value


def equal_residues(gold: Node, answer: Node) -> bool:
    """`a mod m`, and `x \\equiv a \\pmod m`: the same modulus, and the same residue."""
    (ours, modulus), (theirs, other) = gold.parts, answer.parts
    if not equal(modulus, other):
        return False
    if ours.kind == theirs.kind == "relation" and ours.parts[0] != theirs.parts[0]:
        return False
    ours, theirs = last_term(ours), last_term(theirs)
    a, b, m = (value_at(node, POSITIVE[0], 0, 1, False) for node in (ours, theirs, modulus))
    if isinstance(a, Fraction) and isinstance(b, Fraction) and isinstance(m, Fraction) and m:
        return (a - b) % m == 0
    return equal(ours, theirs)


def last_term(node: Node) -> Node:
    return node.parts[-1] if node.kind == "relation" else node


def equal_lists(gold: Node, answer: Node) -> bool:
    """Lists of parts. In order for blanks (";"), tuples, and lists that go on ("..."); else in any order."""
    if gold.kind == "tuple" or answer.kind == "tuple":
        if inequalities(gold) or inequalities(answer):  # x > 1 and x < 3 for (1, 3)
            return bool(equal_solutions(gold, answer))
        pair = gold if gold.kind == "tuple" else answer
        return pair.name == "()" and pairwise_equal(gold.parts, answer.parts)
    for one, other in ((gold, answer), (answer, gold)):
        if one.kind == "relation" and one.name == "in" and is_name(one.parts[0]):
            return equal(one.parts[1], other) if one is gold else equal(other, one.parts[1])
    if gold.kind in ("union", "relation", "builder") or answer.kind in ("union", "relation", "builder"):
        verdict = equal_solutions(gold, answer)
        if verdict is not None:
            return verdict
    joins = {node.name for node in (gold, answer)} & {"and", "or"}
    if joins and inequalities(gold) and inequalities(answer):
        verdict = equal_solutions(gold, answer)
        if verdict is not None or len(joins) == 2:
            return bool(verdict)
    (names, ours), (other_names, theirs) = unnamed(parts_of(gold)), unnamed(parts_of(answer))
    if names and other_names and set(names) != set(other_names):
        return False
    if len(set(names)) > 1 and len(set(other_names)) > 1:
        mine, given = dict(zip(names, ours, strict=True)), dict(zip(other_names, theirs, strict=True))
        return all(equal(mine[name], given[name]) for name in mine)
    ordered = ";" in (gold.name, answer.name) or dotted(ours) or dotted(theirs) or len(set(names or other_names)) > 1
    return pairwise_equal(ours, theirs) if ordered else same_elements(ours, theirs)


def parts_of(node: Node) -> tuple[Node, ...]:
    return node.parts if node.kind in ("list", "set") else (node,)


def dotted(parts: Sequence[Node]) -> bool:
    return any(part.kind == "symbol" and part.name == "..." for part in parts)


def unnamed(parts: Sequence[Node]) -> tuple[tuple[str, ...], tuple[Node, ...]]:
    """(names, parts) with `x = 5` as 5 where names are letters. Equal names are given once; ("x", "y") for `x=1, y=2`."""
    names, values = [], []
    for part in parts:
        if part.kind == "relation" and part.name in ("=", "~") and part.parts[0].kind == "symbol":
            names.append(part.parts[0].name.split("_")[0])
            values.append(part.parts[1])
        else:
            values.append(part)
    if len(set(names)) <= 1:
        return tuple(names[:1]), flattened(values)
    if len(names) == len(parts):
        return tuple(names), tuple(values)
    return (), tuple(parts)


def pairwise_equal(gold: Sequence[Node], answer: Sequence[Node]) -> bool:
    return len(gold) == len(answer) and all(equal(a, b) for a, b in zip(gold, answer, strict=True))


def same_elements(gold: Sequence[Node], answer: Sequence[Node]) -> bool:
    """The same elements as often on both sides; where the counts differ, repeated elements count once."""
    if max(len(gold), len(answer)) > MAX_ELEMENTS:
        raise Unclear
    if len(gold) != len(answer):
        gold, answer = distinct(gold), distinct(answer)
    rest = list(answer)
    if len(gold) != len(rest):
        return False
    for element in gold:
        found = next((i for i, other in enumerate(rest) if equal(element, other)), None)
        if found is None:
            return False
        del rest[found]
    return True


def distinct(parts: Sequence[Node]) -> list[Node]:
    kept: list[Node] = []
    for part in parts:
        if not any(equal(part, other) for other in kept):
            kept.append(part)
    return kept


def equal_collections(gold: Node, answer: Node) -> bool:
    """Tuples, intervals, sets, matrices, and unions of them."""
    if "set" in (gold.kind, answer.kind) and gold.kind in ("set", *SCALAR) and answer.kind in ("set", *SCALAR):
        return same_elements(parts_of(expanded(gold)), parts_of(expanded(answer)))
    vectors = [vector(node) for node in (gold, answer)]
    if "tuple" in (gold.kind, answer.kind) and vectors[0] is not None and vectors[1] is not None:
        return pairwise_equal(vectors[0], vectors[1])
    if gold.kind == answer.kind and gold.kind in ("matrix", "det", "cases", "row"):
        return pairwise_equal(gold.parts, answer.parts)
    verdict = equal_solutions(gold, answer)
    if verdict is not None:
        return verdict
    if gold.kind != answer.kind or gold.name != answer.name:
        return False
    if gold.kind == "union" and gold.name != "minus":
        return same_elements(gold.parts, answer.parts)
    return pairwise_equal(gold.parts, answer.parts)


SCALAR = (
    "number",
    "symbol",
    "divide",
    "negative",
    "call",
    "power",
    "add",
    "subtract",
    "multiply",
    "pi",
    "measured",
    "group",
)


def vector(node: Node) -> tuple[Node, ...] | None:
    """The entries of a tuple in round brackets, of a column or of a row."""
    if node.kind == "tuple":
        return node.parts if node.name == "()" else None
    if node.kind == "matrix" and all(len(row.parts) == 1 for row in node.parts):
        return tuple(row.parts[0] for row in node.parts)
    return node.parts[0].parts if node.kind == "matrix" and len(node.parts) == 1 else None


def equal_relations(gold: Node, answer: Node) -> bool:
    if gold.kind != "relation" or answer.kind != "relation":
        return relation_for_value(gold, answer)
    ours, theirs = oriented(gold), oriented(answer)
    if ours.name == theirs.name and len(ours.parts) == len(theirs.parts):
        if is_name(ours.parts[0]) and ours.parts[0] == theirs.parts[0]:
            return pairwise_equal(ours.parts[1:], theirs.parts[1:])
        if len(letters(ours.parts[0])) > 2 or len(letters(theirs.parts[0])) > 2:
            return pairwise_equal(ours.parts, theirs.parts)
        try:
            if pairwise_equal(ours.parts, theirs.parts):
                return True
        except Unclear:
            pass
        if set(ours.name.split()) <= SYMMETRIC and same_elements(ours.parts, theirs.parts):
            return True
    if len(ours.parts) == len(theirs.parts) == 2 and {ours.name, theirs.name} <= {"=", "!=", "<", "<="}:
        factor = constant_factor(ours, theirs)
        if factor is None:
            return False
        if ours.name == theirs.name:
            return ours.name in ("=", "!=") or factor > 0
        return False
    verdict = equal_solutions(gold, answer)
    return bool(verdict)


def constant_factor(gold: Node, answer: Node) -> float | None:
    """The factor between two relations, each with all its terms on one side; None when it is not constant."""
    ours, theirs = (Node("subtract", node.parts) for node in (gold, answer))
    if variables(ours) != variables(theirs) or not variables(ours):
        return None
    points = POSITIVE if rooted(ours) or rooted(theirs) else POSITIVE + MIXED
    factors: list[float | Fraction] = []
    for point in points:
        a, b = (value_at(node, point, 0, 1, False) for node in (ours, theirs))
        if a is None or b is None:
            continue
        if isinstance(a, complex) or isinstance(b, complex):
            raise Unclear
        if b == 0 or a == 0:
            continue
        factors.append(a / b if isinstance(a, Fraction) and isinstance(b, Fraction) else float(a) / float(b))
    if len(factors) < 3:
        raise Unclear
    first = factors[0]
    return float(first) if all(abs(float(factor - first)) <= abs(float(first)) * 1e-9 for factor in factors) else None


def relation_for_value(gold: Node, answer: Node) -> bool:
    """A relation on one side, a bare value, set or interval on the other."""
    relation, _ = (gold, answer) if gold.kind == "relation" else (answer, gold)
    if equation(relation):
        first, last = relation.parts[0], relation.parts[-1]
        if relation.name == "~":  # a value and about what it is
            return any(equal(part, answer) if relation is gold else equal(gold, part) for part in relation.parts)
        if is_name(last) and not variables(first):  # 5 = x
            first, last = last, first
        if is_name(first) or (
            relation is answer and ((is_unweighted(first) and len(variables(first)) > 1) or same_constant(first, last))
        ):
            return equal(gold, last) if relation is answer else equal(last, answer)
        return False
    if relation.name == "in" and is_name(relation.parts[0]):
        return equal(gold, relation.parts[1]) if relation is answer else equal(relation.parts[1], answer)
    return bool(equal_solutions(gold, answer))


def is_name(node: Node) -> bool:
    """A letter, a function at a place, letters side by side (AB, |AB|), a tuple of letters, or a label in words (Area)."""
    if node.kind == "words":
        return units.is_label(node.name)
    if node.kind in ("symbol", "apply"):
        return True
    if node.kind in ("multiply", "tuple"):
        return all(map(is_name, node.parts))
    return node.kind == "call" and (
        node.name in ("det", "gcd", "lcm") or (node.name == "abs" and bool(letters(node.parts[0])))
    )


def is_unweighted(node: Node) -> bool:
    """A sum or product of names without a coefficient, as in x + y = 5. The square of one letter is an equation."""
    if node.kind in ("add", "subtract", "multiply", "divide", "measured", "group", "degree"):
        return all(map(is_unweighted, node.parts))
    if node.kind == "power":
        return is_unweighted(node.parts[0])
    return is_name(node)


def same_constant(first: Node, last: Node) -> bool:
    try:
        return not variables(first) and equal_scalars(measured(first)[0], measured(last)[0])
    except Unclear:
        return False


def equal_solutions(gold: Node, answer: Node) -> bool | None:
    """Whether two sets of reals (intervals, inequalities, builders) are equal; None when one is no such set."""
    ours, theirs = (solutions(node) for node in (gold, answer))
    if ours is None or theirs is None:
        return None
    if ours[0] and theirs[0] and ours[0] != theirs[0] and "builder" not in (gold.kind, answer.kind):
        return False  # x > 3 and y > 3
    mine, other = merged(ours[1]), merged(theirs[1])
    if len(mine) != len(other):
        return False
    rest = list(other)
    for piece in mine:
        found = next(
            (p for p in rest if p.closed == piece.closed and equal(piece.low, p.low) and equal(piece.high, p.high)),
            None,
        )
        if found is None:
            return False
        rest.remove(found)
    return True
