"""The model's tokenizer and chat template: it renders, begins an answer, and a turn ends where generation stops.

Padding is not looked at for training: VeRL masks by lengths and by turns, never by the id of the padding, so that
pad and eos may be the same token.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from posttrain_verl.compose import Composed
from posttrain_verl.preflight import chat, data, model, sample
from posttrain_verl.preflight.report import CannotTell
from posttrain_verl.problem import Problem, warning

QUESTION = [{"role": "user", "content": "What is 2 + 3?"}]
ANSWER = {"role": "assistant", "content": "2 + 3 = 5"}


def check(composed: Composed) -> list[Problem]:
    """Problems of the trained model's tokenizer and template. Raises CannotTell when it is not on this machine."""
    folder = folder_of(composed)
    try:
        spoken = load(composed, folder)
    except chat.NoTokenizer as reason:
        raise CannotTell(str(reason)) from reason
    found = [*_special_tokens(spoken, folder), *_template(spoken, composed)]
    return found or [*_stops(spoken, folder, composed), *(_whole(spoken, composed) if composed.stage == "sft" else [])]


def folder_of(composed: Composed) -> Path:
    """The folder of the tokenizer. Raises CannotTell when it is not on this machine."""
    own = _model_config(composed).get("tokenizer_path")
    name = str(own) if own else composed.model
    folder = model.folder_of(name)
    if folder is None:
        raise CannotTell(f"{name} is not on this machine yet")
    return folder


def load(composed: Composed, folder: Path) -> chat.Chat:
    """The chat as VeRL will use it: with the recipe's own template and template arguments. Raises NoTokenizer."""
    kwargs: Any = OmegaConf.to_container(composed.verl.data.get("apply_chat_template_kwargs") or OmegaConf.create({}))
    return chat.load(folder, _model_config(composed).get("custom_chat_template"), kwargs)


def _model_config(composed: Composed) -> DictConfig:
    config: DictConfig = composed.verl.model if composed.stage == "sft" else composed.verl.actor_rollout_ref.model
    return config


def _special_tokens(spoken: chat.Chat, folder: Path) -> Iterator[Problem]:
    eos, ids = spoken.token("eos_token"), spoken.id_of("eos_token")
    remedy = f"set eos_token in {folder / 'tokenizer_config.json'} to the token that ends a turn"
    if eos is None:
        yield Problem(f"the tokenizer in {folder} has no eos_token: answers would never end", remedy)
    elif ids is None:
        yield Problem(f"eos_token {eos!r} of {folder} is not in its vocabulary", remedy)
    pad = spoken.token("pad_token")
    if pad is not None and spoken.id_of("pad_token") is None:
        yield Problem(f"pad_token {pad!r} of {folder} is not in its vocabulary", "set pad_token to one that is")
    size = chat.read_json(folder / "config.json").get("vocab_size")
    largest = max(spoken.tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if isinstance(size, int) and largest >= size:
        yield Problem(f"the tokenizer of {folder} has ids up to {largest}, and the model embeds {size}",
                      "resize the embedding, or take the tokenizer that belongs to the model")  # fmt: skip


def _template(spoken: chat.Chat, composed: Composed) -> Iterator[Problem]:
    if spoken.template is None:
        yield Problem(f"model {composed.model} has no chat template, and VeRL renders every prompt with it",
                      "put a chat_template.jinja into its folder, or set custom_chat_template of the model")  # fmt: skip
        return
    conversation = _conversation(composed)
    try:
        begun, closed = spoken.render(conversation, begin_answer=True), spoken.render(conversation)
        spoken.render([*conversation, ANSWER])
    except chat.TemplateError as error:
        yield Problem(f"the chat template of {composed.model} cannot render the data: {error}",
                      "drop the roles that it does not know, or take another template")  # fmt: skip
        return
    if begun == closed:
        yield Problem(f"the chat template of {composed.model} does not begin an answer: add_generation_prompt changes nothing",
                      "end it with {% if add_generation_prompt %}...{% endif %}")  # fmt: skip
    if "<|im_start|>" in spoken.template and len(spoken.ids(["\n"])[0]) != 1:
        yield Problem(f"the tokenizer of {composed.model} splits a newline, and VeRL takes it as one token after <|im_end|>",
                      "use a tokenizer whose newline is one token, or a template without <|im_start|>")  # fmt: skip


def _conversation(composed: Composed) -> list[dict[str, str]]:
    """The first prompt of the data, where it is there, else a question of our own."""
    key = composed.verl.data.messages_key if composed.stage == "sft" else composed.verl.data.prompt_key
    for file in data.readable(composed, "train_files"):
        messages = sample.rows(file, [key], 1)[0][key] or QUESTION
        return messages[:-1] if messages[-1]["role"] == "assistant" else messages
    return QUESTION


def _stops(spoken: chat.Chat, folder: Path, composed: Composed) -> Iterator[Problem]:
    """The token that ends an assistant's turn must be one at which generation stops."""
    turn = spoken.render([*QUESTION, ANSWER])
    ending = spoken.ids([turn[turn.rindex(ANSWER["content"]) + len(ANSWER["content"]) :].rstrip()])[0]
    listed = chat.read_json(folder / "generation_config.json").get("eos_token_id")
    generation = set(listed if isinstance(listed, list) else [] if listed is None else [listed])
    eos = spoken.id_of("eos_token")
    if ending and ending[-1] in {eos, *generation}:
        if generation and eos not in generation:
            what = f"eos_token of {folder} has id {eos}, and its generation_config.json stops at {listed}"
            yield warning(what, "vLLM stops at both, transformers at the second alone: write the same into both")
        return
    last = spoken.tokenizer.id_to_token(ending[-1]) if ending else "nothing"
    what = f"a turn of the chat template ends with {last!r}, and generation stops at {spoken.token('eos_token')!r}"
    level: Any = "problem" if composed.stage == "sft" else "warning"
    yield Problem(
        f"{what}: answers would run on", f"make it the eos_token in {folder / 'tokenizer_config.json'}", level
    )


def _whole(spoken: chat.Chat, composed: Composed) -> Iterator[Problem]:
    """VeRL renders each turn alone and refuses a row whose turns do not add up to the conversation."""
    if composed.verl.data.ignore_input_ids_mismatch:
        return
    conversation = [*_conversation(composed), ANSWER]
    empty = [{"role": "user", "content": ""}]
    system = _common(spoken.render(empty), spoken.render(empty * 2))
    turns = [spoken.render([message]) for message in conversation]
    later = [turn.removeprefix(system) for turn in turns[1:]]
    if spoken.ids(["".join([turns[0], *later])]) != spoken.ids([spoken.render(conversation)]):
        what = f"the chat template of {composed.model} renders turns alone differently than together: VeRL's SFT refuses it"
        yield Problem(what, "data.ignore_input_ids_mismatch=true trains on the turns as they are rendered alone")


def _common(once: str, twice: str) -> str:
    """What a template puts before the first turn: VeRL takes 2 x once - twice (extract_system_prompt_and_generation)."""
    return once[: max(2 * len(once) - len(twice), 0)]
