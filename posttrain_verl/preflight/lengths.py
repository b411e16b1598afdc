"""How long the data is in the model's own tokens, against the lengths that the launch allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from posttrain_verl.compose import Composed
from posttrain_verl.preflight import chat, data, sample, tokenizer
from posttrain_verl.preflight.report import CannotTell
from posttrain_verl.problem import Problem, warning

SAMPLE = 1000  # rows of a set; 95 % of the time the share of overlong rows is right within 3 points
MANY = 0.05  # more than this share cut or dropped is worth a warning
Lengths = list[int]


def check(composed: Composed) -> list[Problem]:
    """Problems of the lengths of training and validation rows. Raises CannotTell without tokenizer or data."""
    try:
        spoken = tokenizer.load(composed, tokenizer.folder_of(composed))
    except chat.NoTokenizer as reason:
        raise CannotTell(str(reason)) from reason
    sets = {key: _lengths(composed, key, spoken) for key in ("train_files", "val_files")}
    if not any(sets.values()):
        raise CannotTell("the data is not built yet")
    judge = _sft if composed.stage == "sft" else _rl
    return [problem for key, lengths in sets.items() if lengths for problem in judge(composed, key, lengths)]


def _lengths(composed: Composed, key: str, spoken: chat.Chat) -> Lengths:
    """Tokens of sampled rows: prompts that begin an answer (RL), or whole conversations (SFT)."""
    column = composed.verl.data.messages_key if composed.stage == "sft" else composed.verl.data.prompt_key
    files = data.readable(composed, key)
    found = [row[column] for file in files for row in sample.rows(file, [column], SAMPLE // len(files))]
    try:
        texts = [spoken.render(messages, begin_answer=composed.stage == "rl") for messages in found if messages]
    except chat.TemplateError as reason:
        raise CannotTell(f"the template does not render: {reason}") from reason
    return [len(ids) for ids in spoken.ids(texts)]


def _rl(composed: Composed, key: str, lengths: Lengths) -> list[Problem]:
    """Overlong prompts are dropped when the set is read, or end the run at the first one."""
    config = composed.verl.data
    return _judge(
        f"data.{key}", "data.max_prompt_length", config.max_prompt_length, lengths,
        fatal=not config.filter_overlong_prompts and config.truncation == "error",
        fate="dropped" if config.filter_overlong_prompts else "cut",
        remedy=lambda longest: f"data.max_prompt_length={longest}, or data.filter_overlong_prompts=true",
    )  # fmt: skip


def _sft(composed: Composed, key: str, lengths: Lengths) -> list[Problem]:
    """Overlong rows end the run (truncation=error), or are cut at their end, so that they teach no end of turn."""
    config = composed.verl.data
    return _judge(
        f"data.{key}", "data.max_length", config.max_length, lengths, fatal=config.truncation == "error",
        fate="cut, and do not teach to stop",
        remedy=lambda longest: f"data.max_length={longest}, or data.truncation=right to cut them",
    )  # fmt: skip


def _judge(
    name: str, key: str, limit: int, lengths: Lengths, *, fatal: bool, fate: str, remedy: Callable[[int], str]
) -> list[Problem]:
    over = sum(length > limit for length in lengths)
    share: Any = over / len(lengths)
    what = f"{share:.1%} of {len(lengths)} rows of {name} are longer than {key}={limit} tokens (the longest: {max(lengths)})"
    if over and fatal:
        return [Problem(f"{what}: VeRL ends at the first of them", remedy(max(lengths)))]
    if over == len(lengths):
        return [Problem(f"{what}: nothing would be left of it", remedy(max(lengths)))]
    return [warning(f"{what}: they are {fate}", remedy(max(lengths)))] if share > MANY else []
