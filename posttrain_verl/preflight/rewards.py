"""The reward of an RL launch: it can be loaded, knows every source of the data, and grades their golds as right."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

import reward_fns
from posttrain_verl import own_reward
from posttrain_verl.preflight import data, machine, rows
from posttrain_verl.preflight import own_reward as own_rewards
from posttrain_verl.preflight.report import CannotTell
from posttrain_verl.terminal.problem import Problem, blocking, warning
from posttrain_verl.verl.composed import Composed
from posttrain_verl.verl.settings import OUR_REWARDS, RewardSettings
from reward_fns.code import sandbox
from reward_fns.code.grader import grade_code
from reward_fns.code.problem import read_problem
from reward_fns.code.sandbox import SandboxUnavailable, isolation_here
from reward_fns.grades import PARTS
from reward_fns.math import spellings
from reward_fns.math.grader import grade_math
from reward_fns.own import OwnReward

if TYPE_CHECKING:
    from posttrain_verl.preflight.row_scans import Golds

SAMPLED_GOLDS, SAMPLED_ODD_GOLDS, SHOWN_GOLDS = 50, 200, 3
MANY_WRONG = (
    0.1  # a larger share of golds that are not right is a fault of the data or of the reward, not of single rows
)
GRADING_SECONDS = 2.0  # grading stops after this, because some golds need a slow symbolic verifier


def check_rewards(composed: Composed) -> list[Problem]:
    """Problems of the reward, where the stage has one. Raises CannotTell without data, and for VeRL's own rewards."""
    if (reward := composed.settings.reward) is None:
        return []
    own = reward.own_reward
    found = [*_check_function(reward, own), *_check_manager(reward), *([] if own else _check_options(reward))]
    if own and not blocking(found):
        found += own_rewards.check_own_reward(composed, own)
    if found or (own and _has_rows(composed)):
        return found
    if own:
        raise CannotTell(f"{own.shown} was loaded, and not called: the data is not built yet")
    if reward.reward_path != OUR_REWARDS:
        raise CannotTell("the reward of VeRL is not ours: its answers are not known here")
    files = [file for name in ("train_files", "val_files") for file in data.list_readable_files(composed, name)]
    if not files:
        raise CannotTell("the data is not built yet")
    from posttrain_verl.preflight import row_scans  # as in check_data

    for file in dict.fromkeys(files):
        golds = row_scans.scan_golds(file, reward.source_column)
        found += [*_check_sources(file, list(golds), composed, reward), *_check_missing_golds(file, golds)]
        found += _check_golds(file, golds, reward)
    return found


def _has_rows(composed: Composed) -> bool:
    return any(data.list_readable_files(composed, name) for name in data.DATA_NAMES)


def _check_function(reward: RewardSettings, own: OwnReward | None) -> Iterator[Problem]:
    """The file or package, and of ours the function in it. A trial looks for one of the user's own."""
    path = own.path if own else reward.reward_path
    if path is None:
        what = "VeRL's own rewards grade, and of a GSM8K answer they read the last 300 characters alone"
        yield warning(f"{reward.override('reward_path')}: {what}", reward.override("reward_path", OUR_REWARDS))
        return
    file = Path(path).expanduser()
    if path.startswith("pkg://"):
        spec = None
        with suppress(ModuleNotFoundError):
            spec = importlib.util.find_spec(path.removeprefix("pkg://"))
        file = Path(spec.origin if spec and spec.origin else "/nowhere")
    if not file.is_file():
        yield Problem(f"{reward.override('reward_path')} does not exist", own_reward.REMEDY)
    elif not own and reward.reward_name not in vars(reward_fns):
        what = f"{reward.override('reward_name')}: {file} defines no such function"
        yield Problem(what, f"set {reward.key('reward_name')} to one of its own")


def _to_plain_dict(node: Any) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_dict(node) else {}
    return dict(plain)


def _check_manager(reward: RewardSettings) -> Iterator[Problem]:
    """Arguments of the manager that it does not read, and its buffer for overlong responses."""
    given, read = _to_plain_dict(reward.manager_arguments), reward.arguments_of_manager
    for name in given if reward.manager_source == "register" else ():
        if name not in read:
            what = f"{reward.key('manager_arguments')}.{name} is not read by the reward manager {reward.manager_name}"
            yield Problem(what, f"an option of the function goes into {reward.key('reward_arguments')}.{name}")
    buffer, longest = given.get("overlong_buffer_cfg"), given.get("max_resp_len")
    if not read or not isinstance(buffer, dict) or not buffer.get("enable"):
        return
    length = buffer.get("len")
    if not (isinstance(length, int) and isinstance(longest, int) and 0 < length <= longest):
        what = f"{reward.override('overlong_buffer', length)} does not lie in 1..max_resp_len={longest}"
        remedy = f"set max_resp_len='${{{reward.key('max_response_length')}}}', and len to a quarter of it"
        yield Problem(what, remedy)


def _check_options(reward: RewardSettings) -> Iterator[Problem]:
    """Options of our graders that are given under two names, and parts of the shaping that there are not."""
    try:
        reward_fns.under_current_names(_to_plain_dict(reward.reward_arguments))
    except ValueError as error:
        yield Problem(f"reward_kwargs: {error}", f"{reward.key('reward_arguments')} may be set by the recipe, too")
    plan = _to_plain_dict(reward.reward_arguments).get("shaping") or {}
    known = ("format_gate", *PARTS)
    if not isinstance(plan, dict):
        yield Problem(f"reward_kwargs.shaping={plan} is not a mapping", f"e.g. shaping.{known[0]}={{}}")
        return
    for part in plan:
        if part not in known:
            yield Problem(f"reward_kwargs.shaping.{part} is unknown", f"there are: {', '.join(known)}")


def _check_sources(file: Path, sources: list[str], composed: Composed, reward: RewardSettings) -> Iterator[Problem]:
    for source in sources:
        what = f"{file} has rows of data_source {source!r}"
        try:
            grader, defaults = reward_fns.resolve(str(source))
            options = {**defaults, **_to_plain_dict(reward.reward_arguments)}
            if grader is grade_code and not options.get("sandbox_url") and machine.is_here(composed):
                isolation_here(sandbox.check_packages(options.get("packages", ())))
        except reward_fns.UnknownSource as error:
            yield Problem(f"{what}, and no grader is registered for it", f"add {own_reward.REMEDY}\n{error}")
        except (SandboxUnavailable, ValueError) as error:
            yield Problem(f"{what}, and their programs cannot be run", str(error))


def _check_missing_golds(file: Path, golds: dict[str, Golds]) -> Iterator[Problem]:
    """Golds that are null or blank in any row: a null is never right, and a blank gold ends the run when its row is drawn."""
    for source, each in golds.items():
        for hits, what in ((each.nulls, "null"), (each.blank, "empty")):
            if hits.count:
                where = hits.describe(each.rows, f"golds of data_source {source!r} in", file)
                yield Problem(f"{what} golds: {where}", "drop these rows, or give their golds")
        if each.void.count:
            where = each.void.describe(each.rows, f"golds of data_source {source!r} in", file)
            yield warning(f"golds that say None, nan or null: {where}", "drop these rows, unless that is the answer")


def _choose_rows(golds: dict[str, Golds], file: Path) -> list[int]:
    """Rows whose golds are graded: some of all, and more of those that are not plain numbers, of which a grader may read less.

    Rows without a gold are left out.
    """
    chosen = set(rows.spread_evenly(rows.count_rows(file), SAMPLED_GOLDS))
    for each in golds.values():
        chosen |= {each.odd[place] for place in rows.spread_evenly(len(each.odd), SAMPLED_ODD_GOLDS)}
    return sorted(chosen)


def _check_golds(file: Path, golds: dict[str, Golds], reward: RewardSettings) -> list[Problem]:
    """Grade the gold answers of sampled rows as if the model had given them."""
    options, key = _to_plain_dict(reward.reward_arguments), reward.source_column
    options.pop("shaping", None)  # adds to the score of a right answer, or takes from it
    until, wrong, raised, graded = time.monotonic() + GRADING_SECONDS, list[str](), 0, 0
    for row in rows.take_rows(file, [key, "reward_model"], _choose_rows(golds, file)):
        gold = (row["reward_model"] or {}).get("ground_truth")
        if gold is None or (isinstance(gold, str) and not gold.strip()):
            continue  # _check_missing_golds has reported it
        if time.monotonic() > until:
            break
        graded += 1
        try:
            flaw = _find_flaw(str(row[key]), gold, options)
        except reward_fns.UnknownSource:
            continue
        except (
            ValueError,
            TypeError,
        ) as error:  # also of tests that cannot be read: the run ends when it draws the row
            flaw, raised = str(error), raised + 1
        if flaw:
            wrong.append(f"{gold!r:.60} of {row[key]}: {flaw}")
    if not wrong:
        return []
    what = f"{len(wrong)} of {graded} golds of {file} are not right under the recipe's own reward, e.g. "
    remedy = "correct the golds or reward_kwargs: such rows may never be solved"
    blocks = raised or len(wrong) > MANY_WRONG * graded
    return [Problem(what + "; ".join(wrong[:SHOWN_GOLDS]), remedy, "problem" if blocks else "warning")]


def _find_flaw(source: str, gold: Any, options: dict[str, Any]) -> str:
    """Why a gold is not right under its own reward; "" if it is. Raises UnknownSource, and ValueError for tests that are none."""
    grader, defaults = reward_fns.resolve(source)
    if grader is grade_code:  # a row of code has no gold, so its tests are read
        return read_problem(gold).unusable
    if isinstance(gold, list | dict | bytes | datetime):  # JSON's dates become times of day
        return f"{type(gold).__name__}, and answers are compared with one text or number"
    if grader is grade_math and "####" in str(gold):
        return "a worked solution and not its answer: take what follows its ####"
    taken = {**defaults, **reward_fns.known_options(grader, options)}
    grade = grader(f"The answer is \\boxed{{{gold}}}.", gold, None, **taken)
    if grade.score != 1.0:
        return grade.why or f"score {grade.score:g}, read as {grade.pred!r}"
    return (spellings.unanswerable(str(gold)) or "") if grader is grade_math else ""
