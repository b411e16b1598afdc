"""The tokenizer and the chat template, read without transformers, and the length of the data in tokens.

The template must render the data, begin an answer, and end a turn where generation stops. Padding is not checked. VeRL masks
by lengths and by turns, so pad and eos may be the same token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from posttrain_verl.preflight import data, model
from posttrain_verl.preflight.report import CannotTell
from posttrain_verl.terminal.problem import Problem, warning
from posttrain_verl.verl.composed import Composed

if TYPE_CHECKING:  # a check of a model that is not on this machine should not pay for them
    import jinja2
    from tokenizers import Tokenizer

Message = Mapping[str, str]
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


def _first_conversation(composed: Composed) -> list[dict[str, str]]:
    """The first prompt of the data where it is here, else a question of our own."""
    column = next(iter(composed.settings.columns))
    for file in data.list_readable_files(composed, "train_files"):
        messages = data.sample_rows(file, [column], 1)[0][column] or QUESTION
        return messages[:-1] if messages[-1]["role"] == "assistant" else messages
    return QUESTION


def _check_turn_end(chat: Chat, folder: Path, composed: Composed) -> Iterator[Problem]:
    """The token that ends an assistant's turn must be one at which generation stops."""
    turn = chat.render([*QUESTION, ANSWER])
    ending = chat.ids([turn[turn.rindex(ANSWER["content"]) + len(ANSWER["content"]) :].rstrip()])[0]
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
    if (override := composed.settings.mismatch_override) is None:
        return
    conversation, empty = [*_first_conversation(composed), ANSWER], [{"role": "user", "content": ""}]
    # What a template puts before the first turn is 2 x once - twice (VeRL's extract_system_prompt_and_generation).
    once, twice = chat.render(empty), chat.render(empty * 2)
    system = once[: max(2 * len(once) - len(twice), 0)]
    first, *later = [chat.render([message]) for message in conversation]
    together = "".join([first, *(turn.removeprefix(system) for turn in later)])
    if chat.ids([together]) != chat.ids([chat.render(conversation)]):
        what = f"the chat template of {composed.model} renders turns alone differently than together"
        remedy = f"{override} trains on the turns as they are rendered alone"
        yield Problem(f"{what}: VeRL's {composed.stage.name.upper()} refuses it", remedy)


SAMPLED_ROWS = 1000  # rows of a set; 95 % of the time the share of overlong rows is right within 3 points
MANY_OVERLONG = 0.05  # a larger share of cut or dropped rows is worth a warning


def check_lengths(composed: Composed) -> list[Problem]:
    """Problems of the lengths of training and validation rows. Raises CannotTell without tokenizer or data."""
    rule, (_, chat), found = composed.settings.row_limit, _load_chat(composed), []
    counts = {name: _count_tokens(composed, name, chat) for name in ("train_files", "val_files")}
    if not any(counts.values()):
        raise CannotTell("the data is not built yet")
    for name, lengths in counts.items():
        over, longest = sum(length > rule.limit for length in lengths), max(lengths, default=0)
        if not over:
            continue
        share, rows = over / len(lengths), f"{len(lengths)} rows of {composed.settings.key(name)}"
        what = f"{share:.1%} of {rows} are longer than {rule.key}={rule.limit} tokens (the longest: {longest})"
        remedy = f"{rule.key}={longest}, or {rule.escape}"
        if rule.ends_run:
            found.append(Problem(f"{what}: VeRL ends at the first of them", remedy))
        elif over == len(lengths):
            found.append(Problem(f"{what}: nothing would be left of it", remedy))
        elif share > MANY_OVERLONG:
            found.append(warning(f"{what}: they are {rule.fate}", remedy))
    return found


def _count_tokens(composed: Composed, name: str, chat: Chat) -> list[int]:
    """Tokens of sampled rows: prompts that begin an answer where a rollout engine gives it, else the longest conversation."""
    columns = [column for column, kind in composed.settings.columns.items() if kind == "chat"]
    begin, files = composed.settings.rollout is not None, data.list_readable_files(composed, name)
    rows = [row for file in files for row in data.sample_rows(file, columns, SAMPLED_ROWS // len(files))]
    try:
        texts = [
            [chat.render(row[column], begin_answer=begin) for row in rows if all(row.values())] for column in columns
        ]
    except TemplateError as reason:
        raise CannotTell(f"the template does not render: {reason}") from reason
    return [max(map(len, ids)) for ids in zip(*map(chat.ids, texts), strict=True)]
