r"""Read an answer in LaTeX or plain text as a tree. What is not understood raises `Unclear`; nothing is skipped.

    statement   lists by ";" and by "," "and" "or"
    relation    chains of = < \le \in \equiv ...; `x \equiv 3 \pmod 5`
    union       \cup \cap \setminus, and ratios a:b
    sum         + - \pm
    product     * / and factors side by side
    power       x^2, 5!, 30^\circ, 40\%
    atom        numbers, letters, functions, brackets, sets, matrices

Words that follow a value (a unit, a thing that is counted) are kept beside it, see `units`.
"""

from dataclasses import replace
from functools import lru_cache

from reward_fns.math import notation, units, vocabulary
from reward_fns.math.terms import EMPTY, END, Node, Terms
from reward_fns.math.tokens import JOINS, RELATIONS, Unclear, tokenize

MAX_CHARACTERS = 600
UNIONS = {"cup": "cup", "bigcup": "cup", "cap": "cap", "bigcap": "cap", "setminus": "minus", "backslash": "minus"}
WORDLIKE = ("word", "roman", "unit?")
NAMED_SETS = "NZQRC"
LEADING = vocabulary.words("formula", "hedges")
ENDS = frozenset(("", ",", ";", ")", "]", "}", "=", "<", ">", "&", "\\\\", "and", "or", "end"))


class Parser(Terms):
    """The whole of an answer: lists, relations, unions, values with their units, sets and matrices."""

    def whole(self) -> Node:
        node = self.statement()
        if self.peek() is not END:
            raise Unclear
        return node

    def statement(self) -> Node:
        blanks = [self.listed()]
        while self.sees(";", kind="sign"):
            self.take()
            blanks.append(self.listed())
        return blanks[0] if len(blanks) == 1 else Node("list", tuple(blanks), ";")

    def listed(self) -> Node:
        parts, joins = [self.relation()], set()
        while self.sees(",", kind="sign") or self.sees("and", "or", kind="word"):
            joint = self.take().text
            if joint == "," and self.sees("and", "or", kind="word"):
                joint = self.take().text
            joins.add(joint)
            parts.append(self.relation())
            if self.sees(",", kind="sign") and self.peek(1).text == ",":
                self.take()
        if len(parts) == 1:
            return parts[0]
        return Node("list", tuple(parts), "or" if "or" in joins else "and" if "and" in joins else ",")

    def relation(self) -> Node:
        parts, names = [self.union()], []
        while (token := self.peek()) and token.kind in ("sign", "command") and token.text in RELATIONS:
            self.take()
            name = RELATIONS[token.text]
            if name in "<>" and self.sees("=", kind="sign"):
                self.take()
                name += "="
            names.append(name)
            part = self.union()
            if name in ("in", "notin") and part.kind == "symbol" and part.name in NAMED_SETS:
                part = replace(part, name=f"set {part.name}")
            parts.append(part)
        node = parts[0] if not names else Node("relation", tuple(parts), " ".join(names))
        return self.modulus(node)

    def modulus(self, node: Node) -> Node:
        r"""`node` with a modulus after it: \pmod 5, (mod 5), \bmod 5, mod 5."""
        if self.sees("pmod", "mod", "bmod"):
            self.take()
            return Node("modulo", (node, self.power()))
        if self.sees("(", kind="sign") and self.peek(1).text in ("mod", "bmod"):
            self.take(), self.take()
            node = Node("modulo", (node, self.sum()))
            self.take(")")
        return node

    def union(self) -> Node:
        node = self.measured()
        while self.sees(*UNIONS, kind="command"):
            name = UNIONS[self.take().text]
            right = self.measured()
            left = node.parts if node.kind == "union" and node.name == name != "minus" else (node,)
            node = Node("union", (*left, right), name)
        return node

    def measured(self) -> Node:
        """A value with the words that follow it, or a ratio of values."""
        leading = []
        while self.peek().kind == "word" and self.peek().text.casefold() in LEADING:
            leading.append(self.take())
        if self.sees("approx", "sim") and not leading:
            self.take()
        if self.peek().kind == "word" and (words := self.words()):
            return Node("words", name=words.casefold())
        outside, self.currencies = self.currencies, set()
        node = self.sum()
        if self.sees(":", kind="sign") and not self.bar_ends:
            parts, minutes = [node], False
            while self.sees(":", kind="sign"):
                self.take()
                minutes = self.peek().kind == "number" and len(self.peek().text) == 2
                parts.append(self.sum())
            node = Node("ratio", tuple(parts), "time" if minutes and len(parts) == 2 else "")
        words = " ".join([*sorted(self.currencies), self.words()]).strip()
        self.currencies = outside
        return Node("measured", (node,), words) if words else node

    def words(self) -> str:
        """The unit or the words at this place, as one text: "m/s^2", "pears", "(square units)"."""
        said: list[str] = []
        bracket = False
        while token := self.peek():
            if token.kind == "currency" or (token.kind in WORDLIKE and token.text not in JOINS):
                said.append(self.take().text)
            elif self.sees("(", kind="sign") and not bracket and self.opens_words():
                self.take()
                bracket = True
            elif self.sees(")", kind="sign") and bracket:
                self.take()
                bracket = False
            elif token.text in ("degree", "circ") and not said:
                self.take()
                said.append("deg")
            elif said and token.text in ("cdot", "times", "*", "/"):
                said.append("/" if self.take().text == "/" else "*")
            elif said and self.sees("^", kind="sign"):
                said.append(self.power_of_unit())
            elif said and token.kind == "symbol" and said[-1] in ("/", "*"):
                said.append(self.take().text)
            elif said and token.kind == "number" and said[-1] not in ("/", "*"):
                raise Unclear
            else:
                break
        if bracket:
            raise Unclear
        return " ".join(said).replace(" ^", "^").replace(" / ", "/")

    def opens_words(self) -> bool:
        """Whether the bracket at this place holds words, and no modulus."""
        return self.peek(1).kind in ("word", "roman") and self.peek(1).text != "mod"

    def power_of_unit(self) -> str:
        """`^2`, `^{-1}`: the power of a unit, as text."""
        self.take("^")
        power = self.raw_argument()
        if power == "-":
            power += self.take().text
        if not power.removeprefix("-").isdigit():
            raise Unclear
        return f"^{power}"

    def unit_ahead(self) -> bool:
        """Whether what follows, up to the end of the element, is a unit and nothing else."""
        start = self.at
        if self.second and self.peek().kind == "unit?":
            return False
        try:
            words = self.words()
            found = units.unit(words) is not None and self.peek().text in ENDS
            self.ambiguous = self.ambiguous or (found and self.tokens[start].kind == "unit?")
            return found
        except Unclear:
            return False
        finally:
            self.at = start

    def set(self) -> Node:
        r"""What follows \{: elements, or an element and its conditions."""
        if self.sees("}", kind="command"):
            self.take()
            return EMPTY
        bars, ends = self.bars, self.bar_ends
        self.bars, self.bar_ends = 0, True
        node = self.listed()
        self.bar_ends = False
        if self.sees("|", ":", "vert"):
            self.take()
            node = Node("builder", (node, self.statement()))
        elif node.kind == "list" and node.name == ",":
            node = Node("set", node.parts)
        else:
            node = Node("set", (node,))
        self.take("}")
        self.bars, self.bar_ends = bars, ends
        return node

    def environment(self) -> Node:
        """A matrix, row by row, or the cases of a definition."""
        name = self.raw_group()
        if name == "array" and self.sees("{"):
            self.raw_group()
        if name not in ("pmatrix", "bmatrix", "matrix", "vmatrix", "cases", "array", "Bmatrix", "aligned"):
            raise Unclear
        rows: list[list[Node]] = [[]]
        while not self.sees("end", kind="command"):
            if self.sees("&", kind="sign"):
                self.take()
            elif self.sees("\\", kind="command"):
                self.take()
                rows.append([])
            else:
                rows[-1].append(self.statement())
                if self.sees(",", kind="sign"):
                    self.take()
                if not self.sees("&", "\\", "end"):
                    raise Unclear
        self.take()
        self.raw_group()
        rows = [row for row in rows if row]
        kind = "det" if name == "vmatrix" else "matrix" if "matrix" in name or name == "array" else "cases"
        return Node(kind, tuple(Node("row", tuple(row)) for row in rows))


@lru_cache(maxsize=8192)
def read(text: str) -> tuple[Node, ...]:
    """The readings of an answer: one, two where 1/2x may mean x/2, none when it is not wholly understood."""
    text = text.strip()
    if not text or len(text) > MAX_CHARACTERS:
        return ()
    try:
        found = tokenize(notation.bare(text))
        parser = Parser(found[:])
        loose = parser.whole()
        return (loose, Parser(found[:], second=True).whole()) if parser.ambiguous else (loose,)
    except (Unclear, RecursionError):
        return ()
