"""The tokenizer and the chat template, read without transformers, and the length of the data in tokens.

The template must render the data, begin an answer, and end a turn where generation stops. Padding is not checked. VeRL masks
by lengths and by turns, so pad and eos may be the same token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from posttrain_verl.preflight import data, model, rows
from posttrain_verl.preflight.report import CannotTell
from posttrain_verl.terminal.problem import Problem, warning
from posttrain_verl.verl.composed import Composed

if TYPE_CHECKING:  # a check of a model that is not on this machine should not pay for them
    import jinja2
    from tokenizers import Tokenizer

Message = Mapping[str, Any]
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")  # a mark of transformers' own, which renders as nothing


class TemplateError(Exception):
    """The template cannot be rendered; the message says why."""


@dataclass(frozen=True)
class Chat:
    """The tokenizer of one folder with its template (None: it has none) and `config`, its tokenizer_config.json."""

    tokenizer: Tokenizer
    config: Mapping[str, Any]
    template: str | None
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def token(self, name: str) -> str | None:
        """A special token by its role, e.g. `eos_token`."""
        value = self.config.get(name)
        return value.get("content") if isinstance(value, Mapping) else value

    def token_id(self, name: str) -> int | None:
        """The id of a special token; None without one, and for one that is not in the vocabulary."""
        token = self.token(name)
        found: int | None = None if token is None else self.tokenizer.token_to_id(token)
        return found

    def render(self, messages: Sequence[Message], begin_answer: bool = False) -> str:
        """The conversation as text, ready for an answer with `begin_answer`. Raises TemplateError."""
        import jinja2

        specials = {name: self.token(name) or "" for name in self.config if name.endswith("_token")}
        variables = {"tools": None, "documents": None, **specials, **self.kwargs}
        try:
            text: str = self._compiled.render(messages=list(messages), add_generation_prompt=begin_answer, **variables)
        except (jinja2.TemplateError, TypeError, KeyError) as error:
            raise TemplateError(" ".join(str(error).split())) from error
        return text

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of rendered texts. The template has already added the special tokens."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    @cached_property
    def _compiled(self) -> jinja2.Template:
        import jinja2
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        if self.template is None:
            raise TemplateError("there is no chat template")

        def raise_exception(message: str) -> None:
            raise jinja2.TemplateError(message)

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
        environment.globals["raise_exception"] = raise_exception
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        return environment.from_string(_GENERATION.sub("", self.template))


@lru_cache(maxsize=4)
def _load_tokenizer(file: Path, changed: int) -> Tokenizer:
    """The tokenizer of a file that was last changed at `changed`. Several checks use it."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more specific
        raise CannotTell(f"{file} cannot be read: {error}") from error


QUESTION = [{"role": "user", "content": "What is 2 + 3?"}]
ANSWER = {"role": "assistant", "content": "2 + 3 = 5"}


def check_tokenizer(composed: Composed) -> list[Problem]:
    """Problems of the trained model's tokenizer and template. Raises CannotTell when it is not on this machine."""
    folder, chat = _load_chat(composed)
    found = [*_check_special_tokens(chat, folder), *_check_template(chat, composed)]
    return found or [*_check_turn_end(chat, folder, composed), *_check_turns_add_up(chat, composed)]


def _load_chat(composed: Composed) -> tuple[Path, Chat]:
    """The tokenizer's folder, and the chat with the recipe's own template and template arguments.

    Raises CannotTell when the tokenizer is not on this machine or cannot be read.
    """
    trained = composed.settings.model
    name = str(trained.tokenizer_path or composed.model)
    folder = model.find_model_folder(name)
    if folder is None:
        raise CannotTell(f"{name} is not on this machine yet")
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise CannotTell(f"{folder} has no tokenizer.json")
    tokenizer = _load_tokenizer(file, file.stat().st_mtime_ns)
    config = model.read_json(folder / "tokenizer_config.json")
    template = config.get("chat_template")
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    if (own := folder / "chat_template.jinja").is_file():
        template = own.read_text(encoding="utf-8")
    kwargs: Any = OmegaConf.to_container(composed.settings.template_arguments or OmegaConf.create({}))
    return folder, Chat(tokenizer, config, trained.chat_template or template, kwargs)


def _check_special_tokens(chat: Chat, folder: Path) -> Iterator[Problem]:
    eos, ids = chat.token("eos_token"), chat.token_id("eos_token")
    remedy = f"set eos_token in {folder / 'tokenizer_config.json'} to the token that ends a turn"
    if eos is None:
        yield Problem(f"the tokenizer in {folder} has no eos_token: answers would never end", remedy)
    elif ids is None:
        yield Problem(f"eos_token {eos!r} of {folder} is not in its vocabulary", remedy)
    pad = chat.token("pad_token")
    if pad is not None and chat.token_id("pad_token") is None:
        yield Problem(f"pad_token {pad!r} of {folder} is not in its vocabulary", "set pad_token to one that is")
    size = model.read_json(folder / "config.json").get("vocab_size")
    largest = max(chat.tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if isinstance(size, int) and largest >= size:
        what = f"the tokenizer of {folder} has ids up to {largest}, and the model embeds {size}"
        yield Problem(what, "resize the embedding, or take the tokenizer that belongs to the model")


def _check_template(chat: Chat, composed: Composed) -> Iterator[Problem]:
    if chat.template is None:
        what = f"model {composed.model} has no chat template, and VeRL renders every prompt with it"
        yield Problem(what, "put a chat_template.jinja into its folder, or set custom_chat_template of the model")
        return
    conversation = _first_conversation(composed)
    if unrendered := list(_check_rendering(chat, composed)):
        yield from unrendered
        return
    try:
        begun, closed = chat.render(conversation, begin_answer=True), chat.render(conversation)
        chat.render([*conversation, ANSWER])
    except TemplateError as error:
        what = f"the chat template of {composed.model} cannot render the data: {error}"
        yield Problem(what, "drop the roles that it does not know, or take another template")
        return
    if begun == closed:
        what = f"the chat template of {composed.model} does not begin an answer: add_generation_prompt changes nothing"
        yield Problem(what, "end it with {% if add_generation_prompt %}...{% endif %}")
    if "<|im_start|>" in chat.template and len(chat.ids(["\n"])[0]) != 1:
        what = f"the tokenizer of {composed.model} splits a newline, and VeRL takes it as one token after <|im_end|>"
        yield Problem(what, "use a tokenizer whose newline is one token, or a template without <|im_start|>")


def _check_rendering(chat: Chat, composed: Composed) -> Iterator[Problem]:
    """Render one row of every order of turns in the data: what a template refuses, it refuses for its roles and their order."""
    from posttrain_verl.preflight import row_scans  # as in check_data

    for file, column in _list_conversations(composed):
        found, failed = row_scans.scan_conversations(file, column), dict[str, row_scans.Hits]()
        for shape in found.shapes.values():
            try:
                chat.render(shape.example, begin_answer=composed.settings.rollout is not None)
            except TemplateError as error:
                hits = failed.setdefault(str(error), row_scans.Hits(0, shape.hits.first))
                hits.count, hits.first = hits.count + shape.hits.count, min(hits.first, shape.hits.first)
        for reason, hits in failed.items():
            where = hits.describe(found.rows, "rows of", file)
            what = f"the chat template of {composed.model} cannot render the data: {reason}; {column} in {where}"
            yield Problem(what, "drop such rows or the roles that it does not know, or take another template")
        if found.more_shapes.count:
            some = f"{found.more_shapes.count} of {found.rows} rows of {file}"
            what = f"{some} have one of more than {row_scans.SHAPES} orders of turns"
            yield warning(f"{what}: the chat template was not tried on them", "render them once with the tokenizer")


def _list_conversations(composed: Composed) -> Iterator[tuple[Path, str]]:
    """Each readable file of the launch with its column of conversations."""
    column = next(iter(composed.settings.columns))
    for name in data.DATA_NAMES:
        yield from ((file, column) for file in data.list_readable_files(composed, name))


def _first_conversation(composed: Composed) -> list[rows.Row]:
    """The first prompt of the data where it is here, else a question of our own."""
    from posttrain_verl.preflight import row_scans  # as in check_data

    for file, column in _list_conversations(composed):
        for shape in row_scans.scan_conversations(file, column).shapes.values():
            messages = shape.example
            return messages[:-1] if messages[-1]["role"] == "assistant" else messages
    return QUESTION


def _check_turn_end(chat: Chat, folder: Path, composed: Composed) -> Iterator[Problem]:
    """The token that ends an assistant's turn must be one at which generation stops."""
    ending = chat.ids([_turn_ending(chat)])[0]
    listed = model.read_json(folder / "generation_config.json").get("eos_token_id")
    generation = set(listed if isinstance(listed, list) else [] if listed is None else [listed])
    eos = chat.token_id("eos_token")
    if ending and ending[-1] in {eos, *generation}:
        if generation and eos not in generation:
            what = f"eos_token of {folder} has id {eos}, and its generation_config.json stops at {listed}"
            yield warning(what, "vLLM stops at both, transformers at the second alone: write the same into both")
        return
    last = chat.tokenizer.id_to_token(ending[-1]) if ending else "nothing"
    what = f"a turn of the chat template ends with {last!r}, and generation stops at {chat.token('eos_token')!r}"
    remedy = f"make it the eos_token in {folder / 'tokenizer_config.json'}"
    level: Any = "problem" if composed.settings.rollout is None else "warning"  # rows teach it, or answers are cut
    yield Problem(f"{what}: answers would run on", remedy, level)


def _check_turns_add_up(chat: Chat, composed: Composed) -> Iterator[Problem]:
    """The turns of a row must add up to the conversation, where VeRL renders each alone and compares."""
    if composed.settings.rollout is not None:
        return
    conversation, empty = [*_first_conversation(composed), ANSWER], [{"role": "user", "content": ""}]
    try:
        # What a template puts before the first turn is 2 x once - twice (VeRL's extract_system_prompt_and_generation).
        once, twice = chat.render(empty), chat.render(empty * 2)
        first, *later = [_render_alone(chat, message) for message in conversation]
    except TemplateError as error:
        what = f"the chat template of {composed.model} refuses a turn alone, or two of the same role: {error}"
        yield Problem(
            f"{what}; VeRL renders both", "set custom_chat_template of the model to one that renders any turns"
        )
        return
    if (override := composed.settings.mismatch_override) is None:
        return
    system = once[: max(2 * len(once) - len(twice), 0)]
    together = "".join([first, *(turn.removeprefix(system) for turn in later)])
    if chat.ids([together]) != chat.ids([chat.render(conversation)]):
        what = f"the chat template of {composed.model} renders turns alone differently than together"
        remedy = f"{override} trains on the turns as they are rendered alone"
        yield Problem(f"{what}: VeRL's {composed.stage.name.upper()} refuses it", remedy)


def _render_alone(chat: Chat, message: Message) -> str:
    """One turn; after an empty question where the template wants one (verl.utils.tokenizer.chat_template)."""
    try:
        return chat.render([message])
    except TemplateError:
        question = {"role": "user", "content": [{"type": "text", "text": ""}]}
        return chat.render([question, message]).removeprefix(chat.render([question]))


SAMPLED_ROWS = 1000  # rows of a set; 95 % of the time the share of overlong rows is right within 3 points
SLACK = 16  # tokens that a tokenizer may add, e.g. for a space before the text
MANY_OVERLONG = 0.05  # a larger share of cut or dropped rows is worth a warning


def check_lengths(composed: Composed) -> list[Problem]:
    """Problems of the lengths of training and validation rows. Raises CannotTell without tokenizer or data."""
    rule, (_, chat), found, seen = composed.settings.row_limit, _load_chat(composed), list[Problem](), False
    for name in data.DATA_NAMES:
        sample, longest_rows = _sample_tokens(composed, name, chat)
        seen = seen or bool(sample.lengths)
        if sample.failed:
            what = f"{sample.failed} of {sample.failed + len(sample.lengths)} rows of {composed.settings.key(name)}"
            found.append(Problem(f"the chat template cannot render {what}: {sample.reason}", "drop such rows"))
        found += _check_answer_ends(composed, chat, sample, name)
        over, longest = (
            sum(length > rule.limit for length in sample.lengths),
            max(sample.lengths + longest_rows, default=0),
        )
        share, count = (
            over / max(len(sample.lengths), 1),
            f"{len(sample.lengths)} rows of {composed.settings.key(name)}",
        )
        what = f"{share:.1%} of {count} are longer than {rule.key}={rule.limit} tokens (the longest: {longest})"
        remedy = f"{rule.key}={longest}" + (f", or {rule.escape}" if rule.ends_run or "cut" not in rule.fate else "")
        if rule.ends_run and longest > rule.limit:
            few = f"a row of {composed.settings.key(name)} is longer than {rule.key}={rule.limit} tokens: {longest}"
            found.append(Problem(f"{what if over else few}: VeRL ends at the first of them", remedy))
        elif over and over == len(sample.lengths):
            found.append(Problem(f"{what}: nothing would be left of it", remedy))
        elif share > MANY_OVERLONG:
            found.append(warning(f"{what}: they are {rule.fate}", remedy))
        if not rule.ends_run and (lost := sum(before >= rule.limit for before in sample.before_answers)):
            what = f"{lost} of {count} have no token of an answer within {rule.key}={rule.limit}: they teach nothing"
            found.append(Problem(what, remedy, "problem" if lost == len(sample.lengths) else "warning"))
    if not seen and not found:
        raise CannotTell("the data is not built yet")
    return found


def _check_answer_ends(composed: Composed, chat: Chat, sample: Sample, name: str) -> Iterator[Problem]:
    """Answers that the template does not end, and answers that end before their last word."""
    rows_read, stop = f"{len(sample.lengths)} rows of {composed.settings.key(name)}", chat.token("eos_token")
    if sample.unended:
        what = f"the chat template of {composed.model} does not end the answer in {sample.unended} of {rows_read}"
        yield Problem(f"{what}: they teach to run on", "drop such rows, or take another template")
    if sample.ended_early:
        what = f"answers in {sample.ended_early} of {rows_read} hold {stop!r}, at which generation stops"
        yield warning(what, "take it out of the text: the template ends each answer with it")


def _turn_ending(chat: Chat) -> str:
    """The text with which the template ends an answer, without white space around it."""
    turn = chat.render([*QUESTION, ANSWER])
    return turn[turn.rindex(ANSWER["content"]) + len(ANSWER["content"]) :].strip()


@dataclass
class Sample:
    """Lengths of sampled rows (see `_count_up_to`), and for rows with answers of their own, what stands before the first of them.

    `failed` rows could not be rendered, for the `reason`. Of rows that end with an answer, the template does not end it in
    `unended`, and `ended_early` hold the token that ends a turn within it.
    """

    lengths: list[int] = field(default_factory=list)
    before_answers: list[int] = field(default_factory=list)
    failed: int = 0
    reason: str = ""
    unended: int = 0
    ended_early: int = 0


def _sample_tokens(composed: Composed, name: str, chat: Chat) -> tuple[Sample, list[int]]:
    """Sampled rows, and the lengths of those with the most bytes, where one overlong row ends the run.

    Prompts begin an answer where a rollout engine gives it. Of several conversations in a row the longest counts. Rows with a
    null are left to check_data.
    """
    from posttrain_verl.preflight import row_scans  # as in check_data

    columns = list(dict.fromkeys(chain(*composed.settings.conversations)))
    files, sample, extremes = data.list_readable_files(composed, name), Sample(), Sample()
    for file in files:
        _count_tokens(composed, chat, rows.sample_rows(file, columns, SAMPLED_ROWS // len(files)), sample)
        if composed.settings.row_limit.ends_run:
            in_turns = [column for column in columns if rows.is_list(rows.read_schema(file).field(column).type)]
            longest = {row for column in in_turns for _, row in row_scans.scan_conversations(file, column).longest}
            _count_tokens(composed, chat, rows.take_rows(file, columns, sorted(longest)), extremes)
    return sample, extremes.lengths


def _count_tokens(composed: Composed, chat: Chat, found: list[rows.Row], sample: Sample) -> None:
    begin, limit = composed.settings.rollout is not None, composed.settings.row_limit.limit
    ending, stop = "" if begin else _turn_ending(chat), chat.token("eos_token")
    texts, starts = list[list[str]](), list[str]()
    for row in found:
        talks = [join_turns(row, columns) for columns in composed.settings.conversations]
        if not all(talk and all(turn and turn["role"] for turn in talk) for talk in talks):
            continue
        try:
            texts.append([chat.render(talk, begin_answer=begin) for talk in talks])
            ends = [
                (talk[-1], text)
                for talk, text in zip(talks, texts[-1], strict=True)
                if talk[-1]["role"] == ANSWER["role"]
            ]
            sample.unended += any(ending and not text.rstrip().endswith(ending) for _, text in ends)
            sample.ended_early += any(stop is not None and stop in str(turn["content"]) for turn, _ in ends)
        except TemplateError as error:
            if not any(turn["content"] is None for talk in talks for turn in talk):
                sample.failed, sample.reason = sample.failed + 1, str(error)
            continue
        answer = next((place for place, turn in enumerate(talks[0]) if turn["role"] == ANSWER["role"]), 0)
        if not begin and answer:
            with suppress(TemplateError):
                starts.append(chat.render(talks[0][:answer], begin_answer=True))
    columns = [_count_up_to(chat, column, limit) for column in zip(*texts, strict=True)]
    sample.lengths += map(max, zip(*columns, strict=True))
    sample.before_answers += _count_up_to(chat, starts, limit)


def join_turns(row: rows.Row, columns: Sequence[str]) -> list[Any]:
    """The turns of several columns one after the other. A text is a turn of the assistant, and a null is no turn."""
    found = list[Any]()
    for value in (row[column] for column in columns):
        found += [{**ANSWER, "content": value}] if isinstance(value, str) else value or []
    return found


def _count_up_to(chat: Chat, texts: Sequence[str], limit: int) -> list[int]:
    """Tokens of texts that may be longer than `limit`; of one that cannot, its bytes, of which a token takes one or more."""
    sizes = [len(text.encode()) for text in texts]
    long = [place for place, size in enumerate(sizes) if size + SLACK >= limit]
    for place, ids in zip(long, chat.ids([texts[place] for place in long]), strict=True):
        sizes[place] = len(ids)
    return sizes
