"""How the house is laid out: one room knows VeRL, nobody asks for the stage, and imports go one way."""

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from posttrain_verl.compose import verl_tree
from posttrain_verl.verl.stage import stage_named

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("reward_fns", "data_prep", "posttrain_verl", "hydra_plugins")
VERL_ROOM = "posttrain_verl/verl/"
METRIC = re.compile(r"[\w-]+(?:/[\w-]+)+")
DOTTED = re.compile(r"[a-z_]\w*(?:\.\w+)+")
STAGES = ("sft", "dpo", "rl")
SPLITS_OF_STAGES = ("sft_train", "sft_val", "pairs_train", "pairs_val", "rl_train", "rl_val")
QUESTIONS = ("is_sft", "is_rl")
NODES = ("actor_rollout_ref.", "trainer.", "algorithm.")  # of VeRL's tree, also where the key is no longer in it

# Bottom to top. A room may import rooms that stand above it in this list. What is not named here is a verb: it may import
# everything, and nothing imports it.
ROOMS = (
    "hydra_plugins",
    "reward_fns",
    "data_prep",
    "posttrain_verl",
    "posttrain_verl.terminal",
    "posttrain_verl.paths",
    "posttrain_verl.verbs",
    "posttrain_verl.significance",
    "posttrain_verl.machine",
    "posttrain_verl.base_models",
    "posttrain_verl.verl",
    "posttrain_verl.own_reward",
    "posttrain_verl.overrides",
    "posttrain_verl.cpu",
    "posttrain_verl.plan",
    "posttrain_verl.compose",
    "posttrain_verl.mixes",
    "posttrain_verl.watch",
    "posttrain_verl.preflight",
    "posttrain_verl.run",
    "posttrain_verl.clusters",
    "posttrain_verl.run_verbs",
    "posttrain_verl.sweep",
    "posttrain_verl.export",
    "posttrain_verl.evaluate",
    "posttrain_verl.synthesize",
    "posttrain_verl.rehearse",
    "posttrain_verl.report",
    "posttrain_verl.pipeline",
    "posttrain_verl.first_gpu_hour",
    "posttrain_verl.recipe_verbs",
    "posttrain_verl.api",
)


@cache
def modules() -> Mapping[str, Path]:
    """Every module of the product by its dotted name."""
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    assert len(files) > 100
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def relative(file: Path) -> str:
    return str(file.relative_to(ROOT))


def strings(tree: ast.Module) -> Iterator[ast.Constant]:
    """Every string that is no docstring."""
    with_docstring = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, with_docstring) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node


@cache
def verl_keys() -> frozenset[str]:
    """The dotted keys of VeRL's trees."""
    found: set[str] = set()
    for name in STAGES:
        found |= set(paths_below(verl_tree(stage_named(name), {})))
    assert "actor_rollout_ref.actor.optim.lr" in found and "engine.fsdp_size" in found
    return frozenset(key for key in found if "." in key)


def paths_below(node: dict[str, Any], above: str = "") -> Iterator[str]:
    for key, value in node.items():
        here = f"{above}.{key}" if above else str(key)
        yield here
        if isinstance(value, dict):
            yield from paths_below(value, here)


@pytest.fixture(scope="module")
def outside() -> list[Path]:
    """The files of all rooms but VeRL's."""
    return [file for file in modules().values() if not relative(file).startswith(VERL_ROOM)]


def test_one_room_knows_verls_keys(outside):
    found = []
    for file in outside:
        for node in strings(tree_of(file)):
            dotted = [word for word in DOTTED.findall(node.value) if word in verl_keys()]
            begins = [word for word in DOTTED.findall(node.value) if word.startswith(NODES)]
            found += [f"{relative(file)}:{node.lineno} {word}" for word in (dotted + begins)[:1]]
    assert not found


def test_nobody_reads_verls_config_but_its_room(outside):
    nodes = {key.partition(".")[0] for key in verl_keys()}
    found = [
        f"{relative(file)}:{node.lineno} {ast.unparse(node)}"
        for file in outside
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.Attribute)
        and (node.attr == "actor_rollout_ref" or (ends_in_verl(node.value) and node.attr in nodes))
    ]
    assert not found


def ends_in_verl(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "verl"


def asks_for_the_stage(node: ast.AST) -> bool:
    """Whether code compares with the name of a stage or of its splits, or calls a question such as `is_sft`."""
    if isinstance(node, ast.Compare):
        return any(names_a_stage(side) for side in (node.left, *node.comparators))
    if isinstance(node, ast.MatchValue):
        return names_a_stage(node.value)
    if not isinstance(node, ast.Call):
        return False
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    searches = called in ("startswith", "endswith", "partition", "split", "find", "match", "fullmatch", "search")
    return called in QUESTIONS or (searches and any(names_a_stage(argument) for argument in node.args))


def names_a_stage(node: ast.expr) -> bool:
    texts = (each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str))
    return any(text.strip("^$_") in STAGES or text in SPLITS_OF_STAGES for text in texts)


@pytest.mark.parametrize(
    ("code", "asks"),
    [("stage == 'sft'", True), ("name in ('sft', 'rl')", True), ("split.startswith('rl_')", True), ("is_sft(split)", True),
     ("schema.is_rl(split)", True), ("path.stem != 'rl_val'", True), ("match name:\n case 'rl': pass", True),
     ("config['sft']", False), ("stage_named('sft')", False), ("uses = ('sft', 'rl')", False), ("kind.is_graded", False)],
)  # fmt: skip
def test_questions_for_the_stage_are_found(code, asks):
    assert any(map(asks_for_the_stage, ast.walk(ast.parse(code)))) == asks


def test_nobody_asks_for_the_stage(outside):
    """A stage is an object that answers, and so is a kind of row, which data_prep/schema.py defines."""
    found = [
        f"{relative(file)}:{node.lineno} {ast.unparse(node)}"
        for file in outside
        if relative(file) != "data_prep/schema.py"
        for node in ast.walk(tree_of(file))
        if asks_for_the_stage(node)
    ]
    assert not found


STAGE_MODULES = tuple(f"posttrain_verl.verl.{name}" for name in ("sft", "dpo", "pair_rules", "rl", "rl_rules"))
STAGE_CLASSES = {"SftModel", "PairModel", "PpoModel", "Actor", "Critic", "Reference", "Rollout"}  # of verl/settings.py
# It measures named recipes of ours, and so sets keys of their stages.
NAMES_RECIPES = "posttrain_verl/first_gpu_hour/modes.py"


def test_nobody_knows_a_stage_by_its_module_or_its_classes(outside):
    """What a stage trains and samples with is asked of its settings: `settings.models`, `settings.rollout`.

    A class may stand in an annotation, since a name that is only written there asks nothing.
    """
    found = []
    for file in outside:
        found += [f"{relative(file)} {module}" for module in imported(file) if module in STAGE_MODULES]
        annotated = {id(part) for each in functions(file) for note in annotations(each) for part in ast.walk(note)}
        found += [
            f"{relative(file)}:{node.lineno} {node.id}"
            for node in ast.walk(tree_of(file))
            if isinstance(node, ast.Name) and node.id in STAGE_CLASSES and id(node) not in annotated
        ]
    assert not [each for each in found if not each.startswith(NAMES_RECIPES)]


def annotations(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.expr]:
    arguments = function.args
    notes = [each.annotation for each in (*arguments.args, *arguments.kwonlyargs)] + [function.returns]
    return (note for note in notes if note is not None)


def test_nobody_asks_which_kind_of_settings_it_has(outside):
    kinds = {
        "Settings",
        "ModelSettings",
        "RewardSettings",
        "Stage",
        "SftSettings",
        "DpoSettings",
        "RlSettings",
    } | STAGE_CLASSES
    found = [
        f"{relative(file)}:{node.lineno} {ast.unparse(node)}"
        for file in outside
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("isinstance", "issubclass")
        if any(isinstance(each, ast.Name) and each.id in kinds for each in ast.walk(node.args[1]))
    ]
    assert not found


def test_one_room_names_metrics(outside):
    named = {each.value for each in strings(tree_of(ROOT / VERL_ROOM / "metrics.py")) if METRIC.fullmatch(each.value)}
    assert {"val/loss", "actor/grad_norm", "critic/score/mean"} < named
    found = [
        f"{relative(file)}:{node.lineno} {word}"
        for file in outside
        for node in strings(tree_of(file))
        for word in METRIC.findall(node.value)
        if word in named
    ]
    assert not found


def test_nobody_knows_a_kind_of_cluster():
    """Verbs ask `clusters` for the cluster of a launch or a run, whose name only conf/cluster and a status hold."""
    kinds = {file.stem for file in (ROOT / "conf/cluster").glob("*.yaml")}
    modules_of_kinds = {f"posttrain_verl.clusters.{kind}" for kind in kinds}
    assert modules_of_kinds < modules().keys()
    others = [file for module, file in modules().items() if not module.startswith("posttrain_verl.clusters")]
    found = [f"{relative(file)} {module}" for file in others for module in imported(file) & modules_of_kinds]
    found += [
        f"{relative(file)}:{node.lineno} {node.value}"
        for file in others
        for node in strings(tree_of(file))
        if node.value in kinds - {"local", "ray"} or any(f"cluster={kind}" in node.value for kind in kinds)
    ]
    assert not found


def imported(file: Path) -> set[str]:
    """The modules of the product that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in modules()}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (whole & modules().keys()) or ({node.module} & modules().keys())
    return found


def room_of(module: str) -> str:
    """The name in ROOMS that is the longest beginning of a module's; "" for a verb."""
    found = [room for room in ROOMS if module == room or module.startswith(f"{room}.")]
    room = max(found, key=len, default="")
    return "" if room == "posttrain_verl" and module != "posttrain_verl" else room


def test_imports_go_down_the_table_of_rooms():
    place = {room: number for number, room in enumerate(ROOMS)}
    climbing = []
    for module, file in modules().items():
        for other in imported(file):
            here, there = room_of(module), room_of(other)
            if here != there and here and (not there or place[there] > place[here]):
                climbing.append(f"{module} -> {other}")
    assert not sorted(climbing)


def test_every_room_of_the_table_is_there():
    assert not [room for room in ROOMS if not any(f"{module}.".startswith(f"{room}.") for module in modules())]


def test_no_circle_between_files():
    graph = {module: imported(file) - {module} for module, file in modules().items()}
    done: set[str] = set()
    circles = []

    def visit(module: str, above: tuple[str, ...]) -> None:
        if module in above:
            circles.append(" -> ".join([*above[above.index(module) :], module]))
        elif module not in done:
            for other in sorted(graph[module]):
                visit(other, (*above, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())
    assert not circles


def functions(file: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree_of(file)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_most_functions_have_names_of_two_words():
    names = [
        each.name.strip("_")
        for file in modules().values()
        for each in functions(file)
        if not each.name.startswith("__")
    ]
    assert sum("_" not in name for name in names) / len(names) < 0.35


def test_functions_are_short_enough_to_read():
    lengths = sorted(each.end_lineno - each.lineno + 1 for file in modules().values() for each in functions(file))
    assert lengths[len(lengths) * 9 // 10] <= 45
    assert lengths[-1] <= 60


def test_no_module_is_named_like_one_of_the_standard_library():
    """But for a verb, whose name is the user's, and the two rooms of rewards."""
    allowed = {"posttrain_verl.inspect", "reward_fns.code", "reward_fns.math"}
    assert not {name for name in modules() if name.rpartition(".")[2] in sys.stdlib_module_names} - allowed


def test_no_file_outside_its_room_calls_verl(outside):
    """Only the CPU backend does, which is VeRL's platform and patches it."""
    callers = {
        relative(file)
        for file in outside
        for node in ast.walk(tree_of(file))
        if (isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").partition(".")[0] == "verl")
        or (isinstance(node, ast.Import) and any(alias.name.partition(".")[0] == "verl" for alias in node.names))
    }
    assert not {name for name in callers if not name.startswith("posttrain_verl/cpu/")}
