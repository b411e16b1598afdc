"""Sums, products, powers, functions and brackets of an answer, as a tree."""

from dataclasses import dataclass, replace
from fractions import Fraction

from reward_fns.math import vocabulary
from reward_fns.math.tokens import FUNCTIONS, GREEK, NUMBERS, Token, Unclear


@dataclass(frozen=True)
class Node:
    """A part of an answer: what it is, its parts, its name (a letter, an operator, brackets) and, for a number, its value."""

    kind: str
    parts: tuple["Node", ...] = ()
    name: str = ""
    value: Fraction = Fraction(0)


END = Token("end", "")


class Terms:
    """Recursive descent over the tokens of one answer, from sums down to single letters.

    `formula.Parser` adds what sums are part of: lists, relations, sets, matrices."""

    def __init__(self, tokens: list[Token], second: bool = False):
        self.tokens, self.at = tokens, 0
        # The second reading of 1/2x is 1/(2x), that of \ln x/2 is \ln(x/2), that of `3 m` is a product.
        self.second, self.ambiguous = second, False
        self.bars = 0  # open |, in which a further | closes
        self.bar_ends = False  # in a set builder, before its |
        self.currencies: set[str] = set()  # the signs in the value that is being read

    def statement(self) -> Node:
        raise NotImplementedError  # of formula.Parser, as the next three

    def set(self) -> Node:
        raise NotImplementedError

    def environment(self) -> Node:
        raise NotImplementedError

    def unit_ahead(self) -> bool:
        raise NotImplementedError

    def peek(self, ahead: int = 0) -> Token:
        at = self.at + ahead
        return self.tokens[at] if at < len(self.tokens) else END

    def take(self, *texts: str) -> Token:
        token = self.peek()
        if token is END or (texts and token.text not in texts):
            raise Unclear
        self.at += 1
        return token

    def sees(self, *texts: str, kind: str = "") -> bool:
        token = self.peek()
        return token.text in texts and token is not END and (not kind or token.kind == kind)

    def sum(self) -> Node:
        node = self.signed()
        while self.sees("+", "-", "pm", "mp") and self.peek().kind in ("sign", "command"):
            name = self.take().text
            node = Node({"+": "add", "-": "subtract"}.get(name, "plusminus"), (node, self.product()), name)
        return node

    def signed(self) -> Node:
        if self.sees("+", "-", "pm", "mp") and self.peek().kind in ("sign", "command"):
            name = self.take().text
            value = self.signed()
            if name == "+":
                return value
            return Node("negative", (value,)) if name == "-" else Node("plusminus", (ZERO, value), name)
        return self.product()

    def product(self) -> Node:
        node = self.power()
        divided = False
        while True:
            token = self.peek()
            if token.kind in ("sign", "command") and token.text in ("*", "/", "cdot", "times", "ast", "div", "bullet"):
                self.take()
                divided = divided or token.text in ("/", "div")
                right = self.signed_power()
                node = Node("divide" if token.text in ("/", "div") else "multiply", (node, right))
            elif self.starts_factor(token):
                before = self.tokens[self.at - 1]
                if token.kind in NUMBERS and (divided or not self.may_precede_number(node, before, token)):
                    node = self.mixed_number(node, before, token, divided)
                    continue
                if divided:
                    self.ambiguous = True
                    right = self.power()
                    bound = (
                        Node("divide", (node.parts[0], Node("multiply", (node.parts[1], right))))
                        if node.kind == "divide"
                        else node
                    )
                    node = bound if self.second and node.kind == "divide" else Node("multiply", (node, right))
                    continue
                if token.text == "frac" and before.kind == "number" and node.kind == "number":
                    fraction = self.power()
                    node = Node("add" if literal_fraction(fraction) else "multiply", (node, fraction))
                    continue
                applied = node.kind == "symbol" and token.text == "(" and token.kind == "sign"
                right = self.power()
                node = Node("apply" if applied else "multiply", (node, right))
            else:
                return node

    def signed_power(self) -> Node:
        if self.sees("-", "+", kind="sign"):
            sign = self.take().text
            value = self.power()
            return Node("negative", (value,)) if sign == "-" else value
        return self.power()

    def may_precede_number(self, node: Node, before: Token, token: Token) -> bool:
        """Whether a number may follow as a factor: after a bracket, a factorial, pi, or a power and a space (2^3 3^2)."""
        return before.text in (")", "!", "pi") or (node.kind == "power" and token.spaced)

    def mixed_number(self, node: Node, before: Token, token: Token, divided: bool) -> Node:
        """`1 1/2` in plain text, the only place where a number may follow a factor."""
        if (
            not divided
            and node.kind == token.kind == before.kind == "number"
            and token.spaced
            and self.peek(1).text == "/"
            and self.peek(2).kind == "number"
        ):
            above = Fraction(self.take().text)
            self.take()
            below = Fraction(self.take().text)
            if below:
                return Node("number", value=node.value + above / below)
        raise Unclear

    def starts_factor(self, token: Token) -> bool:
        if token.kind in ("number", "decimal", "scientific", "symbol"):
            return True
        if token.kind in ("roman", "unit?"):
            return not self.unit_ahead()
        if token.kind == "sign":
            if token.text == "|":
                return not self.bars and not self.bar_ends
            if token.text == "(" and self.peek(1).kind in ("word", "roman", "unit?"):
                return False
            return token.text in "({["
        if token.kind == "command":
            return token.text in GREEK | FUNCTIONS | ATOMS
        return False

    def power(self) -> Node:
        node = self.postfix(self.atom())
        if not self.sees("^", kind="sign"):
            return node
        self.take()
        if self.sees("circ", "degree") or (
            self.sees("{", kind="sign") and self.peek(1).text in ("circ", "degree") and self.peek(2).text == "}"
        ):
            self.at += 3 if self.sees("{") else 1
            return Node("degree", (node,))
        if node.kind == "symbol" and (self.sees("prime") or (self.sees("{") and self.peek(1).text == "prime")):
            self.at += 3 if self.sees("{") else 1
            return self.postfix(replace(node, name=node.name + "'"))
        exponent = self.signed_power_atom()
        if self.sees("^", kind="sign"):
            raise Unclear
        return self.postfix(Node("power", (node, exponent)))

    def signed_power_atom(self) -> Node:
        if self.sees("-", "+", kind="sign"):
            negative = self.take().text == "-"
            value = self.atom()
            return Node("negative", (value,)) if negative else value
        return self.atom()

    def postfix(self, node: Node) -> Node:
        while True:
            if self.sees("!", kind="sign"):
                self.take()
                if self.sees("!", kind="sign"):
                    raise Unclear  # a double factorial
                node = Node("factorial", (node,))
            elif self.sees("%", kind="command"):
                self.take()
                node = Node("percent", (node,))
            elif self.sees("degree", kind="command"):
                self.take()
                node = Node("degree", (node,))
            elif self.sees("'", kind="sign") and node.kind == "symbol":
                self.take()
                node = replace(node, name=node.name + "'")
            elif self.sees("_", kind="sign"):
                node = self.subscript(node)
            else:
                return node

    def subscript(self, node: Node) -> Node:
        """A letter with a subscript is another letter; a numeral with one is in that base."""
        self.take("_")
        inside = self.raw_argument()
        if node.kind == "symbol":
            return replace(node, name=f"{node.name}_{inside}")
        if node.kind in ("number", "group") and (base := BASES.get(inside.casefold(), inside)).isdigit():
            inner = node.parts[0] if node.kind == "group" else node
            if inner.kind == "number" and inner.value.denominator == 1:
                return Node("based", name=base, value=inner.value)
        raise Unclear

    def raw_group(self) -> str:
        """The text of a braced group."""
        self.take("{")
        depth, said = 1, []
        while depth:
            token = self.take()
            depth += {"{": 1, "}": -1}.get(token.text, 0) if token.kind == "sign" else 0
            said.append(token.text)
        return "".join(said[:-1])

    def atom(self) -> Node:
        token = self.take()
        if token.kind == "currency":
            self.currencies.add(token.text)
            return self.atom()
        if token.kind == "number":
            return Node("number", value=Fraction(token.text))
        if token.kind in ("decimal", "scientific"):
            return Node("number", name=token.kind, value=Fraction(token.text))
        if token.kind in ("symbol", "roman", "unit?"):
            first, *rest = (
                Node("symbol", name=letter) for letter in (token.text if token.kind == "unit?" else [token.text])
            )
            for letter in rest:
                first = Node("multiply", (first, letter))
            return first
        if token.kind == "sign":
            return self.bracket(token)
        if token.kind == "command":
            return self.command(token.text)
        raise Unclear

    def bracket(self, token: Token) -> Node:
        if token.text == "{":
            return self.statement_inside("}")
        if token.text in "([":
            bars, self.bars = self.bars, 0
            ends, self.bar_ends = self.bar_ends, False
            node = self.statement()
            closing = self.take(")", "]").text
            self.bars, self.bar_ends = bars, ends
            if node.kind == "list" and node.name in ",;":
                return Node("tuple", node.parts, token.text + closing)
            if token.text + closing in ("()", "[]") and node.kind not in ("relation", "list"):
                return Node("group", (node,)) if node.kind == "number" else node
            raise Unclear
        if token.text == "|":
            self.bars += 1
            node = self.sum()
            self.take("|")
            self.bars -= 1
            return Node("call", (node,), "abs")
        raise Unclear

    def statement_inside(self, closing: str) -> Node:
        bars, self.bars = self.bars, 0
        ends, self.bar_ends = self.bar_ends, False
        node = self.statement()
        self.take(closing)
        self.bars, self.bar_ends = bars, ends
        return node

    def command(self, name: str) -> Node:
        if name in CONSTANTS:
            return CONSTANTS[name]
        if name in GREEK:
            return Node("symbol", name="\\" + name)
        if name in FUNCTIONS:
            return self.function(name)
        if name in ("frac", "binom"):
            parts = (self.argument(), self.argument())
            return Node("divide", parts) if name == "frac" else Node("call", parts, "binom")
        if name == "sqrt":
            return self.root()
        if name in ("mathbb", "Bbb"):
            return Node("symbol", name=f"set {self.raw_argument()}")
        if name == "hat" and self.peek(1).text in UNIT_VECTORS:
            return Node("symbol", name=UNIT_VECTORS[self.raw_argument()])
        if name in ACCENTS:
            return Node("symbol", name=f"{name} {self.raw_argument()}")
        if name == "{":
            return self.set()
        if name == "begin":
            return self.environment()
        return self.delimited(name)

    def root(self) -> Node:
        degree = None
        if self.sees("[", kind="sign"):
            self.take()
            degree = self.sum()
            self.take("]")
        inside = self.argument()
        return Node("call", (inside, degree) if degree else (inside,), "root")

    def delimited(self, name: str) -> Node:
        r"""What stands between commands: \lvert x \rvert, \lfloor x \rfloor, \langle 1, 2 \rangle."""
        if name in ("lvert", "vert"):
            self.bars += 1
            node = self.sum()
            self.take("rvert", "vert")
            self.bars -= 1
            return Node("call", (node,), "abs")
        if name in ("lfloor", "lceil"):
            node = self.sum()
            self.take("r" + name[1:])
            return Node("call", (node,), name[1:])
        if name == "langle":
            node = self.statement()
            self.take("rangle")
            return Node("tuple", node.parts if node.kind == "list" else (node,), "()")
        raise Unclear

    def raw_argument(self) -> str:
        return self.raw_group() if self.sees("{", kind="sign") else self.take().text

    def argument(self) -> Node:
        """A braced group, or the single digit that LaTeX takes without braces (the rest goes back)."""
        token = self.peek()
        if token.kind == "number" and len(token.text) > 1:
            self.tokens[self.at : self.at + 1] = [
                replace(token, text=token.text[0]),
                replace(token, text=token.text[1:]),
            ]
        return self.atom()

    def function(self, name: str) -> Node:
        base = exponent = None
        while self.sees("_", "^", kind="sign"):
            if self.take().text == "_":
                base = self.argument()
            else:
                exponent = self.signed_power_atom()
        if self.sees("(", "{", "[", "|", kind="sign"):
            inside = self.atom()
            if inside.kind == "tuple":
                return Node("call", inside.parts, name)
            if self.sees("^", "!", "_", kind="sign"):
                raise Unclear
        else:
            inside = self.function_argument()
        if exponent is not None and exponent.kind == "negative" and exponent.parts[0] == ONE:
            name, exponent = "arc" + name, None
        node = Node("call", (inside, base) if base else (inside,), name)
        return Node("power", (node, exponent)) if exponent else node

    def function_argument(self) -> Node:
        r"""What \sin 2x takes without brackets: the factors up to a sign, an operator, or another function."""
        node = self.power() if not self.sees("-", kind="sign") else self.signed_power()
        while (
            self.starts_factor(self.peek())
            and self.peek().text not in FUNCTIONS
            and not self.sees("(", "[", kind="sign")
        ):
            if self.peek().kind in NUMBERS:
                raise Unclear
            node = Node("multiply", (node, self.power()))
        if self.sees("/", kind="sign"):
            self.ambiguous = True
            if self.second:
                self.take()
                node = Node("divide", (node, self.power()))
        return node


ATOMS = vocabulary.words("formula", "atoms")
NUMERALS = vocabulary.listed("formula", "numerals")
BASES = {word: str(number) for number, word in enumerate(NUMERALS, 2)}
ZERO, ONE = Node("number"), Node("number", value=Fraction(1))
PI, INFINITY, EMPTY = Node("pi"), Node("infinity"), Node("set")
CONSTANTS = {"pi": PI, "infty": INFINITY, "emptyset": EMPTY, "dots": Node("symbol", name="...")}
ACCENTS = vocabulary.words("formula", "accents")
UNIT_VECTORS = {"i": "i", "j": "j", "k": "k", "imath": "i", "jmath": "j"}


def literal_fraction(node: Node) -> bool:
    return node.kind == "divide" and all(part.kind == "number" for part in node.parts)
