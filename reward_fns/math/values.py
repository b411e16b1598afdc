r"""The value of a formula at several points, exactly in rational numbers where it has one, else in floating point.

Two formulas are equal when they agree at every point. Variables are positive at the first points; they are negative at the
others, which count only where no root, logarithm or fractional power of a variable occurs ("variables under a root are
positive"), or where an absolute value does. Where floating point cannot tell, mpmath decides with 60 digits.
"""

import math
import operator
import zlib
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any

from reward_fns.math.terms import Node
from reward_fns.math.tokens import Unclear

Value = Any  # a Fraction, or a number of the arithmetic that is used
POSITIVE, MIXED, LARGE = (1, 2, 3), (4, 5, 6), (7, 8, 9, 10)  # numbers of the points; large ones tell floors apart
MAX_BITS = 60_000
MAX_FACTORIAL = 3000
EQUAL, APART = 1e-11, 1e-7  # relative: surely equal below the first, surely not above the second
DIGITS = 60


APPLIED = frozenset("fghFGHPEI")  # letters of functions


class Undefined(ValueError):
    """No value at this point."""


class Floating:
    """Complex arithmetic of the standard library."""

    def __init__(self) -> None:
        import cmath

        self.functions = cmath
        self.pi, self.e, self.i = cmath.pi, cmath.e, 1j
        self.gamma: Callable[[Value], Value] = lambda x: math.gamma(x.real if isinstance(x, complex) else x)

    def number(self, value: Fraction) -> Value:
        return float(value)


class Precise:
    """mpmath, with 60 digits."""

    def __init__(self) -> None:
        import mpmath

        self.functions = mpmath.MPContext()
        self.functions.dps = DIGITS
        self.pi, self.e, self.i = +self.functions.pi, +self.functions.e, self.functions.mpc(0, 1)
        self.gamma: Callable[[Value], Value] = self.functions.gamma

    def number(self, value: Fraction) -> Value:
        return self.functions.mpf(value.numerator) / value.denominator


FLOATING = Floating()
precise = lru_cache(maxsize=1)(Precise)

ARC = {"arc" + name: f"a{name}" for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")}
DIRECT = frozenset(["sin", "cos", "tan", "sinh", "cosh", "tanh", "exp"])
INVERSE = {"cot": "tan", "sec": "cos", "csc": "sin", "coth": "tanh"}
TRIGONOMETRIC = frozenset(["sin", "cos", "tan", "cot", "sec", "csc"])


class Evaluation:
    """Evaluate a tree at one point. `base` is that of `\\log` without one; `sign` is what a plus-minus sign means."""

    def __init__(self, point: int, arithmetic: Any = FLOATING, base: int = 0, sign: int = 1):
        self.point, self.arithmetic, self.base, self.sign = point, arithmetic, base, sign

    def __call__(self, node: Node) -> Value:
        return getattr(self, node.kind, self.unclear)(node)

    def unclear(self, node: Node) -> Value:
        raise Unclear

    def parts(self, node: Node) -> list[Value]:
        return [self(part) for part in node.parts]

    def rough(self, value: Value) -> Value:
        return self.arithmetic.number(value) if isinstance(value, Fraction) else value

    def pair(self, node: Node) -> tuple[Value, Value]:
        """Both parts, exact or both rough."""
        a, b = self.parts(node)
        return (a, b) if isinstance(a, Fraction) and isinstance(b, Fraction) else (self.rough(a), self.rough(b))

    def number(self, node: Node) -> Value:
        return node.value

    def symbol(self, node: Node) -> Value:
        if node.name == "e":
            return self.arithmetic.e
        if node.name == "i":
            return self.arithmetic.i
        if node.name == "..." or node.name.startswith("set "):
            raise Unclear
        return seeded(node.name, self.point)

    def pi(self, node: Node) -> Value:
        return self.arithmetic.pi

    def infinity(self, node: Node) -> Value:
        return math.inf

    def group(self, node: Node) -> Value:
        return self(node.parts[0])

    def add(self, node: Node) -> Value:
        return operator.add(*self.pair(node))

    def subtract(self, node: Node) -> Value:
        return operator.sub(*self.pair(node))

    def multiply(self, node: Node) -> Value:
        return operator.mul(*self.pair(node))

    def apply(self, node: Node) -> Value:
        """f(2) is a value of its own. Of another letter, or with another argument, the letter may as well be a factor."""
        argument = node.parts[1]
        argument = argument.parts[0] if argument.kind in ("group", "negative") else argument
        if argument.kind == "number" and node.parts[0].name[0] in APPLIED:
            return seeded(repr(node), self.point)
        return self.multiply(node)

    def divide(self, node: Node) -> Value:
        above, below = self.pair(node)
        if below == 0:
            raise Undefined
        return above / below

    ratio = divide

    def negative(self, node: Node) -> Value:
        return -self(node.parts[0])

    def plusminus(self, node: Node) -> Value:
        a, b = self.pair(node)
        return a + b if (node.name == "pm") == (self.sign > 0) else a - b

    def percent(self, node: Node) -> Value:
        value = self(node.parts[0])
        return value / 100

    def degree(self, node: Node) -> Value:
        return self(node.parts[0])

    def factorial(self, node: Node) -> Value:
        value = self(node.parts[0])
        if isinstance(value, Fraction):
            if value.denominator == 1 and 0 <= value <= MAX_FACTORIAL:
                return Fraction(math.factorial(int(value)))
            if value.denominator == 1 or value > 100:
                raise Undefined
        return self.arithmetic.gamma(self.rough(value) + 1)

    def power(self, node: Node) -> Value:
        base, exponent = self.parts(node)
        return self.raised(base, exponent)

    def raised(self, base: Value, exponent: Value) -> Value:
        if isinstance(base, Fraction) and isinstance(exponent, Fraction):
            if exponent.denominator == 1:
                size = max(base.numerator.bit_length(), base.denominator.bit_length()) * abs(exponent.numerator)
                if base == 0 and exponent <= 0:
                    raise Undefined
                if size <= MAX_BITS:
                    return base**exponent.numerator
            elif base >= 0 and exponent == Fraction(1, 2):
                above, below = math.isqrt(base.numerator), math.isqrt(base.denominator)
                if (above * above, below * below) == (base.numerator, base.denominator):
                    return Fraction(above, below)
            elif base < 0 and exponent.denominator % 2 and abs(exponent.numerator) == 1:
                return -self.raised(-base, exponent)  # the real odd root
        base, exponent = self.rough(base), self.rough(exponent)
        if base == 0:
            return base
        try:
            return base**exponent
        except OverflowError as error:
            raise Undefined from error

    def call(self, node: Node) -> Value:
        name = node.name
        if name in TRIGONOMETRIC and node.parts[0].kind == "degree":
            inside = self.rough(self(node.parts[0])) * self.arithmetic.pi / 180
            return self.applied(name, inside)
        values = self.parts(node)
        if name == "root":
            return self.raised(values[0], 1 / values[1] if len(values) > 1 else Fraction(1, 2))
        if name in ("abs", "floor", "ceil"):
            value = values[0]
            if name != "abs" and isinstance(value, complex):
                value = value.real
            rounding: dict[str, Callable[[Value], Value]] = {"abs": abs, "floor": math.floor, "ceil": math.ceil}
            return rounding[name](value) + Fraction(0)
        if name in ("max", "min", "gcd", "lcm"):
            return self.chosen(name, values)
        if name == "binom":
            return self.binomial(*values)
        if name in ("ln", "log", "lg"):
            return self.logarithm(name, values)
        return self.applied(name, self.rough(values[0]))

    def chosen(self, name: str, values: list[Value]) -> Value:
        if not all(isinstance(value, Fraction) for value in values):
            raise Unclear
        if name in ("max", "min"):
            return {"max": max, "min": min}[name](values)
        if any(value.denominator != 1 for value in values):
            raise Undefined
        return Fraction({"gcd": math.gcd, "lcm": math.lcm}[name](*map(int, values)))

    def binomial(self, n: Value, k: Value) -> Value:
        if (
            isinstance(n, Fraction)
            and isinstance(k, Fraction)
            and n.denominator == k.denominator == 1
            and 0 <= k <= n <= MAX_FACTORIAL
        ):
            return Fraction(math.comb(int(n), int(k)))
        n, k = self.rough(n), self.rough(k)
        gamma = self.arithmetic.gamma
        return gamma(n + 1) / (gamma(k + 1) * gamma(n - k + 1))

    def logarithm(self, name: str, values: list[Value]) -> Value:
        if values[0] == 0:
            raise Undefined
        value = self.arithmetic.functions.log(self.rough(values[0]))
        if len(values) > 1:
            return value / self.arithmetic.functions.log(self.rough(values[1]))
        base = 10 if name == "lg" else self.base if name == "log" else 0
        return value / self.arithmetic.functions.log(self.rough(Fraction(base))) if base else value

    def applied(self, name: str, value: Value) -> Value:
        functions = self.arithmetic.functions
        if name in DIRECT:
            return getattr(functions, name)(value)
        if name in ARC:
            return getattr(functions, ARC[name])(value)
        if name in INVERSE:
            below = getattr(functions, INVERSE[name])(value)
            if below == 0:
                raise Undefined
            return 1 / below
        raise Unclear


@lru_cache(maxsize=4096)
def seeded(name: str, point: int) -> Fraction:
    """The value of a variable at a point: positive at the first points, of either sign at the others."""
    seed = zlib.crc32(f"{point} {name}".encode())
    value = Fraction(seed % 997 + 331, seed // 997 % 89 + 701)
    if point in LARGE:
        return value * 61
    return -value if point in MIXED and seed & 1 << 20 else value


@lru_cache(maxsize=8192)
def has(node: Node, *kinds: str) -> bool:
    """Whether the tree holds a node of one of these kinds."""
    return node.kind in kinds or any(has(part, *kinds) for part in node.parts)


@lru_cache(maxsize=4096)
def variables(node: Node) -> frozenset[str]:
    """The names of its variables."""
    if node.kind == "symbol":
        return frozenset() if node.name in ("e", "i") or node.name.startswith("set ") else frozenset((node.name,))
    return frozenset().union(*(variables(part) for part in node.parts))


@lru_cache(maxsize=4096)
def rooted(node: Node) -> bool:
    """Whether it takes a root, a logarithm or a fractional power of a variable."""
    if node.kind == "call" and node.name in ("root", "ln", "log", "lg") and variables(node):
        return True
    if (
        node.kind == "power"
        and node.parts[1].kind != "number"
        and variables(node)
        and has(node.parts[1], "divide", "symbol")
    ):
        return True
    return any(map(rooted, node.parts))


@lru_cache(maxsize=4096)
def calls(node: Node, name: str) -> bool:
    return (node.kind == "call" and node.name == name) or any(calls(part, name) for part in node.parts)


def points_of(*nodes: Node) -> tuple[int, ...]:
    if not any(map(variables, nodes)):
        return POSITIVE[:1]
    points = POSITIVE + LARGE if any(calls(node, name) for node in nodes for name in ("floor", "ceil")) else POSITIVE
    if any(map(rooted, nodes)) and not any(calls(node, "abs") for node in nodes):
        return points
    return points + MIXED


@lru_cache(maxsize=16384)
def value_at(node: Node, point: int, base: int, sign: int, exact: bool) -> Value | None:
    """The value at a point; None where it has none. Raises Unclear for what has no value anywhere."""
    try:
        return Evaluation(point, precise() if exact else FLOATING, base, sign)(node)
    except (Undefined, ZeroDivisionError, OverflowError, ValueError, TypeError, ArithmeticError) as error:
        if isinstance(error, Unclear):
            raise
        return None


def equal_values(gold: Node, answer: Node, sign: int = 1) -> bool:
    """Whether two formulas have the same value. Raises Unclear when one has no value that is known here."""
    bases = (0, 10) if calls(gold, "log") or calls(answer, "log") else (0,)
    return any(equal_at_all_points(gold, answer, base, sign) for base in bases)


def equal_at_all_points(gold: Node, answer: Node, base: int, sign: int) -> bool:
    compared = 0
    for point in points_of(gold, answer):
        a, b = (value_at(node, point, base, sign, False) for node in (gold, answer))
        if a is None or b is None:
            continue
        verdict = close(a, b)
        if verdict is None:
            a, b = (value_at(node, point, base, sign, True) for node in (gold, answer))
            if a is None or b is None:
                continue
            verdict = precisely_close(a, b)
        if not verdict:
            return False
        compared += 1
    if not compared:
        raise Unclear
    return True


def close(a: Value, b: Value) -> bool | None:
    """Equal, apart, or None when double precision cannot tell."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    try:
        a, b = complex(a), complex(b)
    except OverflowError:
        return None
    if math.isinf(a.real) or math.isinf(b.real):
        return a == b
    size = max(abs(a), abs(b))
    if size < 1e-3:
        return None
    distance = abs(a - b) / size
    return True if distance < EQUAL and size < 1e15 else False if distance > APART else None


def precisely_close(a: Value, b: Value) -> bool:
    context = precise()
    a, b = (context.number(v) if isinstance(v, Fraction) else v for v in (a, b))
    if any(isinstance(v, float) and math.isinf(v) for v in (a, b)):
        return bool(a == b)
    size = max(abs(a), abs(b))
    return bool(abs(a - b) <= size * context.functions.mpf(10) ** -40 or size < context.functions.mpf(10) ** -45)
