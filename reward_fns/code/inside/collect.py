"""What is in the code of tests: the names that it takes from the program, what of it the judge can run, and its assertions.

Standard library alone: the judge needs it, and so does whoever reads a data set.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator

BUILTINS = frozenset(dir(builtins))
# What the judge puts into the namespace of tests. `rewrite_tests` writes calls of them.
STEP, CHECK, CHECKED, GUARD, ASSERTED = "__step__", "__check__", "__checked__", "__guard__", "__asserted__"
ASSERTING = re.compile(r"assert|fail$|raises$|check$|expect$")
CLASS_NAME = re.compile(r"[A-Z](?:(?=[A-Za-z0-9]*[a-z])[A-Za-z0-9]*)?")
OWN_FIXTURES = {"self", "cls", "capsys", "capfd"}
# What tests arrange in their own process and a program in another one cannot see.
OUT_OF_REACH = {
    "unittest.mock": "mock objects", "mock": "mock objects", "tempfile": "files", "shutil": "files",
    "subprocess": "other processes", "pytest_mock": "mock objects", "freezegun": "a clock of their own",
}  # fmt: skip
OUT_OF_REACH_NAMES = {
    "os.environ": "the environment", "os.mkdir": "files", "os.makedirs": "files", "os.remove": "files",
    "os.chdir": "files", "os.path.exists": "files", "sys.stdin": "standard input", "sys.argv": "the command line",
    "inspect.signature": "the source of the program", "inspect.getsource": "the source of the program",
    "warnings.catch_warnings": "warnings", "pytest.warns": "warnings", "pytest.deprecated_call": "warnings",
    "self.assertWarns": "warnings", "self.assertWarnsRegex": "warnings", "self.assertLogs": "the log",
    "builtins.input": "standard input", "builtins.print": "standard output", "builtins.open": "files",
}  # fmt: skip
LEAVES = (ast.Constant, ast.Load, ast.Store, ast.Del)
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
DEFINITION = FUNCTION | ast.ClassDef
SKIPPED = re.compile(r"\b(?:skip|xfail)\b")
GUARD_TEXT = re.compile(r"__name__ == ['\"]__main__['\"]|['\"]__main__['\"] == __name__")


def walk(tree: ast.AST) -> Iterator[ast.AST]:
    """As ast.walk, without literals and other leaves: the inputs that tests list may be a hundred thousand of them."""
    todo = [tree]
    while todo:
        node = todo.pop()
        yield node
        for name in node._fields:
            value = getattr(node, name, None)
            if type(value) is list:
                todo.extend(one for one in value if type(one) not in LEAVES and isinstance(one, ast.AST))
            elif isinstance(value, ast.AST) and type(value) not in LEAVES:
                todo.append(value)


def wanted_names(trees: list[ast.Module], entry: str) -> list[str]:
    """The names that the tests take from the program, `candidate` not among them.

    A built-in name is the program's only when it is the entry point, or when the tests call nothing else of it: a
    program must not get its own `set` or `sorted` into the comparison."""
    names = [node for tree in trees for node in walk(tree) if isinstance(node, ast.Name)]
    stored = {node.id for node in names if not isinstance(node.ctx, ast.Load)} | defined_names(trees)
    loaded = {node.id for node in names if isinstance(node.ctx, ast.Load)} - stored
    free = loaded - BUILTINS
    if entry:
        free.add(entry)
    if not free - {"candidate"}:
        free |= {name for tree in trees for name in outermost_calls(tree)} & BUILTINS
    return sorted(free - {"candidate"} if entry else free)


def defined_names(trees: list[ast.Module]) -> set[str]:
    found: set[str] = set()
    for node in (node for tree in trees for node in walk(tree)):
        if isinstance(node, DEFINITION):
            found.add(node.name)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.arg):
            found.add(node.arg)
    return found


def names_from_solution(trees: list[ast.Module]) -> set[str]:
    """The names that tests import from a module `solution`, which is the program."""
    nodes = [node for tree in trees for node in walk(tree) if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name for node in nodes if node.module == "solution" for alias in node.names}


def outermost_calls(tree: ast.Module) -> Iterator[str]:
    """The functions that assertions call first, as f in `assert f(g(x)) == y`."""
    for node in walk(tree):
        if isinstance(node, ast.Assert):
            expression = node.test.left if isinstance(node.test, ast.Compare) else node.test
            if isinstance(expression, ast.Call) and isinstance(expression.func, ast.Name):
                yield expression.func.id


def names_treated_as_classes(trees: list[ast.Module]) -> set[str]:
    """Names that are written as classes are and that the tests use as one: they take attributes of what the name gives, store
    items in it, ask isinstance of it, or put two of its objects on the sides of an operator.

    Only the tests say so. A function with such a name, whose result is compared with plain data, is not among them."""
    nodes = [node for tree in trees for node in walk(tree)]
    holds: dict[str, set[str]] = {}  # which variable holds objects of which classes

    def given_by(node: ast.expr) -> set[str]:
        """The class names whose calls, or variables, stand here; of an expression of operators those of its operands."""
        given: set[str] = set()
        operands = [node]
        while operands:
            one = operands.pop()
            if isinstance(one, ast.BinOp):
                operands += [one.left, one.right]
            elif isinstance(one, ast.Call) and isinstance(one.func, ast.Name):
                given.add(one.func.id)
            elif isinstance(one, ast.Name):
                given |= holds.get(one.id, set())
        return given

    for node in nodes:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    holds[target.id] = holds.get(target.id, set()) | given_by(node.value)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Attribute):
            found |= given_by(node.value) | ({node.value.id} if isinstance(node.value, ast.Name) else set())
        elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            found |= given_by(node.value)
        elif isinstance(node, ast.BinOp):
            found |= given_by(node.left) & given_by(node.right)
        elif isinstance(node, ast.Compare) and len(node.comparators) == 1:
            found |= given_by(node.left) & given_by(node.comparators[0])
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance" and len(node.args) == 2:
            found |= {one.id for one in walk(node.args[1]) if isinstance(one, ast.Name)}
        elif isinstance(node, ast.With):
            found |= {name for item in node.items for name in given_by(item.context_expr)}
    return {name for name in found if CLASS_NAME.fullmatch(name)}


def why_unsupported(trees: list[ast.Module]) -> str:
    """What the tests need that the judge cannot give them, or ""."""
    for node in (node for tree in trees for node in walk(tree)):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Attribute):
            modules = [ast.unparse(node)] if isinstance(node.value, ast.Name | ast.Attribute) else []
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
            return "the tests use files, which the program cannot see"
        for name in modules:
            if what := OUT_OF_REACH.get(name) or OUT_OF_REACH_NAMES.get(name):
                return f"the tests use {what} ({name}), which the program cannot see"
    return next((why for tree in trees for why in unknown_fixtures(tree)), "")


def unknown_fixtures(tree: ast.Module) -> Iterator[str]:
    """Why pytest functions cannot be called: they take fixtures that are not there."""
    functions = [node for node in walk(tree) if isinstance(node, FUNCTION)]
    decorated = {node: " ".join(map(ast.unparse, node.decorator_list)) for node in functions}
    fixtures = {node.name for node in functions if "fixture" in decorated[node]}
    fixtures |= {name for text in decorated.values() for name in re.findall(r"name=['\"](\w+)['\"]", text)}
    classes = [node for node in walk(tree) if isinstance(node, ast.ClassDef)]
    given = set(re.findall(r"\w+", " ".join(text for one in classes for text in map(ast.unparse, one.decorator_list))))
    for node in functions:
        if not (node.name.startswith("test") or node.name in fixtures):
            continue
        required = node.args.args[: len(node.args.args) - len(node.args.defaults)]
        words = set(re.findall(r"\w+", decorated[node])) | fixtures | OWN_FIXTURES | given | {"candidate"}
        for missing in (one.arg for one in required if one.arg not in words):
            yield f"{node.name} takes {missing}, a fixture that the judge does not have"


def reaches_assertion(tree: ast.Module, entry: str) -> bool:
    """Whether some assertion of the tests can run: at the top level, or in what the judge or the tests call.

    A class that pytest would not collect, and a function that nobody calls and that takes arguments, are not run."""
    called = {
        name
        for node in walk(tree)
        for name in (getattr(node, "id", None), getattr(node, "attr", None))
        if isinstance(name, str)
    }
    marks = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and "pytestmark" in map(ast.unparse, node.targets)
    ]
    skipped = any(SKIPPED.search(ast.unparse(mark)) for mark in marks)
    return any(_reaches(node, called, entry) for node in tree.body if not (skipped and isinstance(node, DEFINITION)))


def _reaches(node: ast.AST, called: set[str], entry: str) -> bool:
    if isinstance(node, FUNCTION):
        required = len(node.args.args) - len(node.args.defaults)
        decorators = " ".join(map(ast.unparse, node.decorator_list))
        collected = node.name.startswith("test") or required == 0 or (bool(entry) and required == 1)
        if not (collected or node.name in called) or SKIPPED.search(decorators):
            return False
    if isinstance(node, ast.ClassDef):
        bases = " ".join(map(ast.unparse, node.bases))
        if not (node.name.startswith("Test") or "Test" in bases or node.name in called):
            return False
        names = {one.name for one in node.body if isinstance(one, FUNCTION)}
        if "TestCase" not in bases and "__init__" in names and node.name not in called:
            return False
        tests = [one for one in node.body if isinstance(one, DEFINITION) and one.name.lower().startswith("test")]
        return any(map(asserts, node.body)) and (bool(tests) or bool(node.bases) or node.name in called)
    return asserts(node)


def asserts(node: ast.AST) -> bool:
    """Whether an assertion stands in it: `assert`, `raise`, or a call of something named so."""
    return any(
        isinstance(one, ast.Assert | ast.Raise)
        or (isinstance(one, ast.Call) and bool(ASSERTING.match(called_name(one))))
        for one in walk(node)
    )


def called_name(call: ast.Call) -> str:
    return str(getattr(call.func, "attr", None) or getattr(call.func, "id", ""))


def top_level_functions(tree: ast.Module) -> list[str]:
    """The functions and classes that the tests define, in their order."""
    return [node.name for node in tree.body if isinstance(node, DEFINITION)]


def split_main_guard(tree: ast.Module) -> list[ast.stmt]:
    """Take `if __name__ == "__main__":` out of the tests; gives what stands in it, without the start of a test runner."""
    guarded: list[ast.stmt] = []
    for node in [node for node in tree.body if isinstance(node, ast.If) and GUARD_TEXT.search(ast.unparse(node.test))]:
        tree.body.remove(node)
        guarded += [one for one in node.body if not re.search(r"\b(?:unittest|pytest)\.main\(", ast.unparse(one))]
    return guarded


def asserted_lines(tree: ast.Module) -> frozenset[int]:
    spans = [(node.lineno, node.end_lineno or node.lineno) for node in walk(tree) if isinstance(node, ast.Assert)]
    return frozenset(line for first, last in spans for line in range(first, last + 1))


def rewrite_tests(tree: ast.Module) -> ast.Module:
    """Have the tests tell of each statement, of each function that is entered, and of each assertion before it is made.

    Only statements are changed, never an expression in them. A handler that would swallow the tests' own failed assertion,
    and does nothing about it, raises it again."""
    tree.body = _rewrite_body(tree.body, named=True)
    return tree


def _rewrite_body(body: list[ast.stmt], *, named: bool = False, first: str = "") -> list[ast.stmt]:
    found: list[ast.stmt] = []
    pending = first
    for index, statement in enumerate(body):
        docstring = index == 0 and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        imported = isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
        if not docstring and not imported:
            found.append(_call(CHECK if _is_check(statement) else STEP, statement, pending))
            pending = ""
        found.append(_rewrite_statement(statement, named))
    return found + ([_call(STEP, body[-1], pending)] if pending and body else [])


def _rewrite_statement(statement: ast.stmt, named: bool) -> ast.stmt:
    if isinstance(statement, FUNCTION):
        statement.body = _rewrite_body(statement.body, first=statement.name if named else "")
        return statement
    if isinstance(statement, ast.Try | ast.TryStar):
        expects = any(map(asserts, [*statement.body, *statement.orelse]))
        for handler in statement.handlers:
            swallows = [] if _acts(handler) else [_call(GUARD, handler.body[0])]
            handler.body = _rewrite_body(handler.body)
            if expects:
                handler.body = [*swallows, _call(CHECK, handler.body[0]), *handler.body]
        blocks = ["body", "orelse", "finalbody"]
    else:
        blocks = ["body", "orelse"]
    for block in blocks:
        if getattr(statement, block, None):
            setattr(statement, block, _rewrite_body(getattr(statement, block)))
    for case in getattr(statement, "cases", ()):
        case.body = _rewrite_body(case.body)
    items = [item.context_expr for item in getattr(statement, "items", ()) if isinstance(item, ast.withitem)]
    value = getattr(statement, "value", None)
    for expression in (*items, value.value if isinstance(value, ast.Await) else value):
        if isinstance(expression, ast.Call) and re.match(r"assert|fail$", called_name(expression)):
            wrapped = ast.Call(ast.copy_location(ast.Name(CHECKED, ast.Load()), expression), [expression.func], [])
            expression.func = ast.copy_location(wrapped, expression)
    return statement


def _is_check(statement: ast.stmt) -> bool:
    """An assertion, or a condition under which the tests raise or fail."""
    if isinstance(statement, ast.If):
        return any(isinstance(one, ast.Raise) or _fails(one) for one in [*statement.body, *statement.orelse])
    return isinstance(statement, ast.Assert)


def _fails(statement: ast.stmt) -> bool:
    """`self.fail()`, `pytest.fail()`."""
    call = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(call, ast.Call) and called_name(call) == "fail"


def _acts(handler: ast.ExceptHandler) -> bool:
    """Whether a handler does something about what it caught, besides telling of it."""
    acting = ast.Assign | ast.AugAssign | ast.Return
    return any(isinstance(one, acting) for one in walk(handler)) or asserts(handler)


def _call(name: str, place: ast.stmt, argument: str = "") -> ast.stmt:
    def here(node: ast.expr) -> ast.expr:
        return ast.copy_location(node, place)

    arguments = [here(ast.Constant(argument))] if argument else []
    call = here(ast.Call(here(ast.Name(name, ast.Load())), arguments, []))
    return ast.copy_location(ast.Expr(call), place)
