"""The reward of an RL launch: it can be loaded, knows every source of the data, and grades their golds as right."""

from __future__ import annotations

import ast
import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf

import reward_fns
from posttrain_verl.compose import Composed
from posttrain_verl.preflight import data, sample
from posttrain_verl.preflight.report import CannotTell
from posttrain_verl.problem import Problem, warning
from reward_fns.code.grader import grade_code
from reward_fns.code.problem import BadTests, read
from reward_fns.shaping import PARTS

OURS = "pkg://reward_fns"
GOLDS = 50
SECONDS = 2.0  # golds that need a symbolic verifier are graded as far as this goes
SHOWN = 3


def check(composed: Composed) -> list[Problem]:
    """Problems of the reward. Raises CannotTell for SFT, for a reward of one's own, and without data."""
    if composed.stage == "sft":
        return []
    function = composed.verl.reward.custom_reward_function
    if broken := [*_function(function), *_manager(composed), *_shaping(_options(composed))]:
        return broken
    if function.path != OURS:
        raise CannotTell(f"{function.path or 'the reward of VeRL'} is not ours: its answers are not known here")
    files = [file for key in ("train_files", "val_files") for file in data.readable(composed, key)]
    if not files:
        raise CannotTell("the data is not built yet")
    return [problem for file in files for problem in (*_sources(file, composed), *_golds(file, composed))]


def _function(function: DictConfig) -> Iterator[Problem]:
    """The file or package and the function in it (verl.utils.import_utils.load_extern_type)."""
    path, key = function.path, "reward.custom_reward_function"
    if path is None:
        what = (
            f"{key}.path=null: VeRL's own rewards grade, and of a GSM8K answer they read the last 300 characters alone"
        )
        yield warning(what, f"{key}.path=pkg://reward_fns")
        return
    file = _package(path.removeprefix("pkg://")) if path.startswith("pkg://") else Path(path).expanduser()
    if file is None or not file.is_file():
        yield Problem(f"{key}.path={path} does not exist", "give a Python file, or pkg://package.module")
    elif function.name not in _names(file):
        yield Problem(
            f"{key}.name={function.name}: {file} defines no such function", f"set {key}.name to one of its own"
        )


def _package(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec and spec.origin else None


def _names(file: Path) -> set[str]:
    """What a Python file defines or imports at its top level; nothing when it is no Python."""
    try:
        body = ast.parse(file.read_text(encoding="utf-8")).body
    except (SyntaxError, UnicodeDecodeError):
        return set()
    defined = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    targets = {ast.unparse(target) for node in body if isinstance(node, ast.Assign) for target in node.targets}
    aliases = [alias for node in body if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
    return defined | targets | {alias.asname or alias.name for alias in aliases}


def _options(composed: Composed) -> dict[str, Any]:
    """What VeRL passes to the function besides the row (verl.trainer.ppo.reward.get_custom_reward_fn)."""
    return _plain(composed.verl.reward.custom_reward_function.get("reward_kwargs"))


def _plain(node: Any) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_dict(node) else {}
    return dict(plain)


def _manager(composed: Composed) -> Iterator[Problem]:
    """`reward.reward_kwargs` are the manager's own: DAPO's reads two of them, the others none (VeRL 0.9.1)."""
    given, manager = _plain(composed.verl.reward.get("reward_kwargs")), composed.verl.reward.reward_manager
    read_by_dapo = ("overlong_buffer_cfg", "max_resp_len") if manager.name == "dapo" else ()
    for key in given if manager.source == "register" else ():
        if key not in read_by_dapo:
            yield Problem(f"reward.reward_kwargs.{key} is not read by the reward manager {manager.name}",
                          f"an option of the function goes into reward.custom_reward_function.reward_kwargs.{key}")  # fmt: skip
    buffer, longest = given.get("overlong_buffer_cfg"), given.get("max_resp_len")
    if not read_by_dapo or not isinstance(buffer, dict) or not buffer.get("enable"):
        return
    length = buffer.get("len")
    if not (isinstance(length, int) and isinstance(longest, int) and 0 < length <= longest):
        what = f"reward.reward_kwargs.overlong_buffer_cfg.len={length} does not lie in 1..max_resp_len={longest}"
        yield Problem(what, "set max_resp_len='${data.max_response_length}', and len to a quarter of it")


def _shaping(options: dict[str, Any]) -> list[Problem]:
    plan, known = options.get("shaping") or {}, ("format_gate", *PARTS)
    if not isinstance(plan, dict):
        return [Problem(f"reward_kwargs.shaping={plan} is no mapping", f"e.g. shaping.{known[0]}={{}}")]
    return [Problem(f"reward_kwargs.shaping.{part} is unknown", f"there are: {', '.join(known)}")
            for part in plan if part not in known]  # fmt: skip


def _sources(file: Path, composed: Composed) -> Iterator[Problem]:
    column = pq.read_table(file, columns=[composed.verl.data.reward_fn_key]).column(0)
    for source in pc.unique(column).to_pylist():
        try:
            reward_fns.resolve(str(source))
        except reward_fns.UnknownSource as error:
            yield Problem(f"{file} has rows of data_source {source!r}, and no grader is registered for it", str(error))


def _golds(file: Path, composed: Composed) -> list[Problem]:
    """Grade the gold answers of sampled rows as if the model had given them."""
    options, key = _options(composed), composed.verl.data.reward_fn_key
    options.pop("shaping", None)  # adds to the score of a right answer, or takes from it
    until, wrong, graded = time.monotonic() + SECONDS, [], 0
    for row in sample.rows(file, [key, "reward_model"], GOLDS):
        if time.monotonic() > until:
            break
        graded += 1
        gold = (row["reward_model"] or {}).get("ground_truth")
        try:
            flaw = _flaw(str(row[key]), gold, options)
        except reward_fns.UnknownSource:
            continue
        except ValueError as error:
            flaw = str(error)
        if flaw:
            wrong.append(f"{gold!r:.60} of {row[key]}: {flaw}")
    if not wrong:
        return []
    what = f"{len(wrong)} of {graded} golds of {file} are not right under the recipe's own reward, e.g. "
    return [
        Problem(what + "; ".join(wrong[:SHOWN]), "correct the golds or reward_kwargs: such rows can never be solved")
    ]


def _flaw(source: str, gold: Any, options: dict[str, Any]) -> str:
    """Why the gold of a row is not graded as right; empty when it is. Of code only the tests are known: they are read."""
    grader, defaults = reward_fns.resolve(source)
    taken = reward_fns.known_options(grader, options)
    if grader is grade_code:
        try:
            problem = read(gold)
        except BadTests as error:
            return str(error)
        return "" if problem.cases else "there are no tests"
    grade = grader(f"The answer is \\boxed{{{gold}}}.", gold, None, **{**defaults, **taken})
    return "" if grade.score == 1.0 else grade.why or f"score {grade.score:g}, read as {grade.pred!r}"
