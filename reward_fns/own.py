"""A reward function of the user's own, called as VeRL calls it. Every verb that grades with one calls it here.

VeRL 0.9.1 calls it with the names of CALLED_WITH and with the `reward_kwargs` of its config, which win. It awaits what is
declared with `async def`, and nothing else. The function returns a number, or a dict with `score`.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import inspect
import math
import re
import traceback
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

CALLED_WITH = ("data_source", "solution_str", "ground_truth", "extra_info")
DEFAULT_NAME = "compute_score"  # VeRL's
SIGNATURE = "(data_source, solution_str, ground_truth, extra_info=None, **kwargs)"
PACKAGE, FILE = "pkg://", "file://"
_RENDERED = {"hashes": "#### {0}", "boxed": "The answer is \\boxed{{{0}}}.", "tag": "<answer>{0}</answer>"}
_EVERY_MARK = "The answer is {0}.\n<answer>{0}</answer>\n\\boxed{{{0}}}\n#### {0}"
WORD_ANSWER = "unknown"  # where a number is asked for, a model may write a word
_WORD = re.compile(r"(?P<path>pkg://[\w./]+|.*\.py)(?::(?P<name>[^\W\d]\w*))?")
# What VeRL's agent loop and reward manager add to the `extra_info` of a row (single turn; reward_manager.naive).
ADDED_FACTS: Mapping[str, Any] = {"turn_scores": [], "tool_rewards": [], "num_turns": 2, "rollout_reward_scores": {}}


class RewardError(Exception):
    """The reward cannot be loaded, cannot be called, raised, or returned what VeRL does not take; the message says which.

    `fault` is one of syntax, load, name, signature, raised and result. `causes` are the exceptions behind it, the first one
    first, so that a service that does not answer can be told from an error of the function.
    """

    def __init__(self, fault: str, message: str, cause: BaseException | None = None):
        super().__init__(message)
        self.fault = fault
        self.causes: list[BaseException] = []
        while cause is not None and cause not in self.causes:
            self.causes.append(cause)
            cause = cause.__cause__ or cause.__context__


@dataclass(frozen=True)
class OwnReward:
    """`name` in `path`, a Python file or `pkg://package.module`, called with `arguments` beside the row.

    `of_run` says that a run was launched with it, whose copy grades once the file has changed.
    """

    path: str
    name: str = DEFAULT_NAME
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)
    of_run: bool = field(default=False, compare=False, repr=False)

    @property
    def word(self) -> str:
        """What `reward=` takes, e.g. `/home/me/my_reward.py:score`."""
        return f"{self.path}:{self.name}"

    @property
    def file(self) -> Path | None:
        """The file; None for a package."""
        return None if self.path.startswith(PACKAGE) else Path(self.path.removeprefix(FILE)).expanduser()

    @property
    def shown(self) -> str:
        """The same for a message, the file by its name alone."""
        return f"{self.file.name if self.file else self.path}:{self.name}"

    @property
    def fingerprint(self) -> str:
        """The same with a digest of the file and the arguments, e.g. `my_reward.py:score 1a2b3c4d5e6f`."""
        content = self.file.read_bytes() if self.file and self.file.is_file() else b""
        digest = hashlib.sha256(content + repr(sorted(self.arguments.items())).encode()).hexdigest()
        return f"{self.shown} {digest[:12]}"

    @cached_property
    def function(self) -> Callable[..., Any]:
        """The function. Raises RewardError: syntax, load or name."""
        try:
            module = _load_module(self.path)
        except SyntaxError as error:
            place = f"{Path(error.filename or self.path).name}, line {error.lineno}"
            raise RewardError("syntax", f"{type(error).__name__}: {error.msg} ({place})", error) from error
        except (Exception, SystemExit) as error:
            raise RewardError("load", _describe_error(error, self), error) from error
        found = getattr(module, self.name, None)
        if not callable(found):
            names = [
                name
                for name, each in vars(module).items()
                if inspect.isfunction(each) and each.__module__ == module.__name__
            ]
            there = f"it defines {', '.join(names)}" if names else "it defines no function"
            raise RewardError("name", f"{self.path} has no function {self.name}; {there}")
        return found

    @property
    def is_awaited(self) -> bool:
        """Whether VeRL awaits it."""
        return inspect.iscoroutinefunction(self.function)

    def check_signature(self, more: Mapping[str, Any] | None = None) -> None:
        """Raises RewardError (signature) where VeRL's call does not fit; `more` is what it passes beside rows and arguments."""
        try:
            taken = inspect.signature(self.function)
        except (TypeError, ValueError):  # of C
            return
        try:
            taken.bind(**{**dict.fromkeys(CALLED_WITH), **(more or {}), **self.arguments})
        except TypeError as error:
            raise RewardError("signature", f"{self.name}{taken}: {error}") from error

    def grade(
        self, data_source: str, response: str, ground_truth: Any, extra_info: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """What the reward returns for one response, as a dict whose `score` is a finite float. It blocks.

        Raises RewardError, also for what the function raised.
        """
        function, facts = self.function, {**(extra_info or {}), **copy.deepcopy(dict(ADDED_FACTS))}
        row = dict(zip(CALLED_WITH, (data_source, response, ground_truth, facts), strict=True))
        try:
            returned = function(**{**row, **self.arguments})
            if self.is_awaited:
                returned = _await_result(returned)
        except (Exception, SystemExit) as error:
            self.check_signature()
            raise RewardError("raised", _describe_error(error, self), error) from error
        return read_result(returned)


def read_result(returned: Any) -> dict[str, Any]:
    """A number, or a dict with `score`, as a dict with a float. Raises RewardError (result)."""
    if inspect.iscoroutine(returned):
        returned.close()
        awaits = "VeRL awaits only a function of `async def`: wrap it in one"
        raise RewardError("result", f"it returns a coroutine, and {awaits}")
    parts = dict(returned) if isinstance(returned, dict) else {"score": returned}
    if "score" not in parts:
        raise RewardError("result", f"it returns a dict without score: {', '.join(map(str, parts)) or 'an empty one'}")
    score, shown = parts["score"], f"{parts['score']!r}"[:80]
    is_number = hasattr(score, "__float__") and getattr(score, "shape", ()) == ()
    if not is_number:
        raise RewardError("result", f"it returns the score {shown} ({type(score).__name__}), which is not a number")
    if not math.isfinite(float(score)):
        raise RewardError("result", f"it returns the score {shown}")
    if bad := [f"{key}={value!r}"[:80] for key, value in parts.items() if isinstance(value, dict | set)]:
        raise RewardError("result", f"it returns {bad[0]}, and VeRL takes the mean of all values that are not texts")
    return {**parts, "score": float(score)}


def render_gold(gold: Any, mark: str | None) -> str:
    """A gold as a model would answer where the prompt asks for hashes, a box or a tag; with the mark None in each of these
    ways, and bare for any other."""
    return (_EVERY_MARK if mark is None else _RENDERED.get(mark, "{0}")).format(gold)


def is_answer(gold: Any) -> bool:
    """Whether a gold is one that a model would write, and not tests or nothing."""
    return isinstance(gold, str | int | float) and bool(text := str(gold).strip()) and not text.startswith(("{", "["))


def wrong_answers(gold: Any, mark: str | None, others: Iterable[Any] = ()) -> list[str]:
    """Answers that a model may give in place of a gold: the golds of `others`, the numbers beside it and a word, each rendered
    as `render_gold` does; and the right answer, cut off. None for a gold that no model would write."""
    if not is_answer(gold):
        return []
    text = str(gold).strip()
    near = [str(number) for step in (1, -1) if (number := _shift_number(text, step)) is not None]
    named = [str(other) for other in others if is_answer(other)]
    given = [each for each in dict.fromkeys([*near, *named, WORD_ANSWER]) if each != text]
    whole = render_gold(gold, mark)
    return [*(render_gold(each, mark) for each in given), whole[: len(whole) // 2]]


def _shift_number(text: str, step: int) -> int | float | None:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text) + step
    return None


def describe_call(response: str, gold: Any) -> str:
    """What a reward was called with, for a message about its fault; long texts are shortened in their middle."""
    return f"called with solution_str={_shorten(response)!r}, ground_truth={gold if gold is None else _shorten(str(gold))!r}"


def _shorten(text: str, most: int = 80) -> str:
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


def parse_word(text: str, arguments: Mapping[str, Any] | None = None) -> OwnReward:
    """The reward that `reward=` names, a file by its absolute path. Raises ValueError for what is not such a word."""
    found = _WORD.fullmatch(text)
    if found is None:
        raise ValueError(f"{text} is neither FILE.py:NAME nor pkg://MODULE:NAME")
    path = found["path"]
    if not path.startswith(PACKAGE):
        path = str(Path(path).expanduser().absolute())
    return OwnReward(path, found["name"] or DEFAULT_NAME, arguments or {})


def _load_module(path: str) -> ModuleType:
    """The module of a path, loaded as VeRL does (verl.utils.import_utils.load_module): a file is not in `sys.modules`."""
    if path.startswith(PACKAGE):
        return importlib.import_module(path.removeprefix(PACKAGE).replace("/", "."))
    file = Path(path.removeprefix(FILE)).expanduser()
    spec = importlib.util.spec_from_file_location(f"custom_module_{abs(hash(str(file)))}", file)
    if spec is None or spec.loader is None or not file.is_file():
        raise FileNotFoundError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _describe_error(error: BaseException, reward: OwnReward) -> str:
    """An exception in one line, with the last line of the user's file that it passed."""
    text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(reward.file)]
    return f"{text} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else text


@lru_cache(maxsize=1)
def _event_loop() -> Any:
    """One event loop for all calls, as in VeRL's reward worker: a client that a reward keeps belongs to its loop."""
    import asyncio  # a check that awaits no reward need not pay for it
    import threading

    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="own-reward", daemon=True).start()
    return loop


def _await_result(coroutine: Coroutine[Any, Any, Any]) -> Any:
    import asyncio

    return asyncio.run_coroutine_threadsafe(coroutine, _event_loop()).result()
