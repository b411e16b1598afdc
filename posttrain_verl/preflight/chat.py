"""A model's tokenizer and chat template, from its files, without importing transformers.

The template is rendered as transformers does it (`apply_chat_template`): a sandboxed jinja2 with trimmed blocks, the
special tokens as variables, and `raise_exception`. What stands in no tokenizer.json cannot be read here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

Message = Mapping[str, str]
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")  # a mark of transformers' own, which renders as nothing


class TemplateError(Exception):
    """The template cannot be rendered; the message says why."""


class NoTokenizer(Exception):
    """The folder has no tokenizer that can be read here."""


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

    def id_of(self, name: str) -> int | None:
        """The id of a special token; None when there is none, or it is not in the vocabulary."""
        token = self.token(name)
        found: int | None = None if token is None else self.tokenizer.token_to_id(token)
        return found

    def render(self, messages: Sequence[Message], begin_answer: bool = False) -> str:
        """The conversation as text, ready for an answer with `begin_answer`. Raises TemplateError."""
        specials = {name: self.token(name) or "" for name in self.config if name.endswith("_token")}
        variables = {"tools": None, "documents": None, **specials, **self.kwargs}
        try:
            text: str = self._compiled.render(messages=list(messages), add_generation_prompt=begin_answer, **variables)
        except (jinja2.TemplateError, TypeError, KeyError) as error:
            raise TemplateError(" ".join(str(error).split())) from error
        return text

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of rendered texts; the template has put the special tokens there already."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    @cached_property
    def _compiled(self) -> jinja2.Template:
        if self.template is None:
            raise TemplateError("there is no chat template")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        return environment.from_string(_GENERATION.sub("", self.template))


def load(folder: Path, custom_template: str | None = None, kwargs: Mapping[str, Any] | None = None) -> Chat:
    """The chat of a model folder; `custom_template` takes the place of its own, `kwargs` go to every rendering.

    Raises:
        NoTokenizer: there is no tokenizer.json, or it cannot be read.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise NoTokenizer(f"{folder} has no tokenizer.json")
    tokenizer = _tokenizer(file, file.stat().st_mtime_ns)
    config = read_json(folder / "tokenizer_config.json")
    return Chat(tokenizer, config, custom_template or _template(folder, config), kwargs or {})


@lru_cache(maxsize=4)
def _tokenizer(file: Path, changed: int) -> Tokenizer:
    """The tokenizer of a file that was last changed at `changed`: several checks ask for it."""
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more specific
        raise NoTokenizer(f"{file} cannot be read: {error}") from error


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; empty when there is no such file, or no object in it."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _template(folder: Path, config: Mapping[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    listed = config.get("chat_template")
    if isinstance(listed, list):
        return {entry["name"]: entry["template"] for entry in listed}.get("default")
    return listed


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)
