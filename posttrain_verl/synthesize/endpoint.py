"""An OpenAI-compatible API that answers: what is asked of it, how it may fail, and what it costs.

Each answer is a request of its own with its own seed, so that an answer follows from the same things as one of our engines. What
passes by itself is tried again: a connection that is lost, a time limit, 429 and 5xx, and an answer that is not one. A single
question that is refused is an answer without text, and answers that were on their way when something fails are kept.
"""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from functools import cached_property, partial
from typing import Annotated, Any

import httpx
from pydantic import Field, ValidationError

from data_prep.declaration import Declaration, Number, Positive, Whole, problems_in
from posttrain_verl.evaluate.engine import sample_seed
from posttrain_verl.evaluate.result import Answer
from posttrain_verl.evaluate.sampling import Missing
from posttrain_verl.terminal.command_line import plain
from posttrain_verl.terminal.console import log
from posttrain_verl.terminal.problem import InputError, Problem, WorkFailed, located

PREFIX = "endpoint."
LONGEST_WAIT = 60.0  # seconds between two tries
PATIENCE = 600.0  # seconds that an endpoint may ask to wait
BETWEEN_NOTES = 30.0  # seconds between two lines about tries that failed
REFUSED = {400, 401, 402, 403, 404, 405, 413, 422}  # trying again does not help
OF_THE_QUESTION = {400, 413, 422}  # perhaps of this one alone
TOO_LONG = re.compile(r"context.?length|maximum context|too long|max_model_len", re.IGNORECASE)
SHOWN = 200  # characters of what an endpoint says
TITLE = "the endpoint cannot be asked"


class EndpointFailed(WorkFailed):
    """The endpoint did not answer after all tries. Without an answer nothing resumes."""

    def __init__(self, message: str, resumes: bool):
        super().__init__(message)
        self.resumes = resumes


class _Failed(Exception):
    """One request failed in a way that may pass. `wait` is how long the endpoint asks to wait, in seconds."""

    def __init__(self, what: str, wait: float | None = None):
        super().__init__(what)
        self.wait = wait


class _Refused(Exception):
    """One request was refused, and trying again does not help. `of_question` says that others may be answered."""

    def __init__(self, what: str, of_question: bool, make: partial[Answer]):
        super().__init__(what)
        self.of_question, self.answer = of_question, make("", 0, False, no_text="refused")


class Endpoint(Declaration):
    """`model` at `url`, the base of its API. `key` names the environment variable that holds the key; without it none is sent.

    At most `concurrency` requests run at a time. Each takes at most `timeout` seconds and is tried `retries` times more, first
    after `pause` seconds. Prices are for a million tokens.
    """

    url: str
    model: str = Field(description="add endpoint.model=NAME, as the endpoint lists it under /models")
    key: str | None = None
    concurrency: Positive = 16
    timeout: Annotated[Number, Field(gt=0)] = 300.0
    retries: Whole = 6
    pause: Annotated[Number, Field(ge=0)] = 1.0
    input_price: Annotated[Number, Field(ge=0)] = 0.0
    output_price: Annotated[Number, Field(ge=0)] = 0.0
    drawn: Mapping[str, Any] = {}

    @property
    def identity(self) -> dict[str, Any]:
        """What answers depend on."""
        return {"endpoint": self.url, "model": self.model, **self.drawn}

    def cost(self, prompt_tokens: int, tokens: int) -> float:
        """The price of so many tokens asked and answered."""
        return round((prompt_tokens * self.input_price + tokens * self.output_price) / 1e6, 6)

    @cached_property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {os.environ[self.key].strip()}"} if self.key else {}

    def generate(self, missing: Missing) -> Iterator[Answer]:
        """The answers to what is missing, as they come.

        Raises:
            InputError: the endpoint refuses the requests, e.g. the key or the model.
            EndpointFailed: it did not answer after all tries.
        """
        stop, tries = threading.Event(), _Notes(self.url)
        limits = httpx.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency)
        wanted = [(name, messages, sample) for name, messages, samples in missing for sample in samples]
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="endpoint")
        with httpx.Client(timeout=self.timeout, limits=limits, headers=self._headers) as client:
            asked = [pool.submit(self._answer, client, stop, tries, *each) for each in wanted]
            given: set[Future[Answer]] = set()
            try:
                yield from self._answers(asked, given)
            except (EndpointFailed, InputError, KeyboardInterrupt):
                stop.set()  # nothing new is asked; what was asked is paid for
                if running := sum(each.running() for each in asked):
                    log.info(f"waiting for {running} answers that are on their way")
                pool.shutdown(wait=True, cancel_futures=True)
                late = [each for each in asked if each not in given and not each.cancelled() and not each.exception()]
                yield from (each.result() for each in late)
                raise
            finally:
                stop.set()
                pool.shutdown(wait=True, cancel_futures=True)

    def _answers(self, asked: Sequence[Future[Answer]], given: set[Future[Answer]]) -> Iterator[Answer]:
        """The answers as they come; `given` collects their futures. Refused questions wait until another one was answered."""
        refused: list[Answer] = []
        for done in as_completed(asked):
            try:
                answer = done.result()
            except _Failed as error:
                what = f"{self.url} does not answer after {self.retries + 1} tries: {error}"
                remedy = "" if given else f"\n  {_LOOK}"
                raise EndpointFailed(what + remedy, bool(given)) from None
            except _Refused as error:
                refused.append(error.answer)
                if not error.of_question or (not given and len(refused) >= min(self.concurrency, len(asked))):
                    raise InputError(TITLE, [Problem(str(error), _LOOK)]) from None
            else:
                given.add(done)
                yield answer
            if given:
                yield from refused
                refused.clear()

    def _answer(self, client: httpx.Client, stop: threading.Event, tries: _Notes, name: str,
                messages: Sequence[Mapping[str, str]], sample: int) -> Answer:  # fmt: skip
        """One answer, after as many tries as it takes. Raises _Failed: the last try failed, too; and _Refused."""
        body = {"model": self.model, "messages": messages, "n": 1, **self.drawn}
        if self.drawn["temperature"] > 0:
            body["seed"] = sample_seed(self.drawn["seed"], name, sample)
        for number in range(self.retries + 1):
            try:
                return self._try_once(client, body, partial(Answer, name, sample))
            except _Failed as error:
                if number == self.retries or (error.wait or 0) > PATIENCE:
                    raise
                backoff = self.pause * 2**number * (1 + random.random() / 4)  # apart, so that not all come back at once
                seconds = min(LONGEST_WAIT, backoff if error.wait is None else error.wait)
                tries.say(f"{error}; another try in {seconds:.0f} s, {self.retries - number} are left")
                if stop.wait(seconds):
                    raise
        raise AssertionError("the loop returns or raises")

    def _try_once(self, client: httpx.Client, body: Mapping[str, Any], make: partial[Answer]) -> Answer:
        until, whole = time.monotonic() + self.timeout, bytearray()
        try:
            with client.stream("POST", f"{self.url}/chat/completions", json=body) as response:
                for (
                    part
                ) in response.iter_bytes():  # httpx limits the time of a part, and a server may send blanks for ever
                    whole += part
                    if time.monotonic() > until:
                        raise httpx.ReadTimeout("")
        except httpx.TimeoutException:
            raise _Failed(f"no answer in {self.timeout:g} s (endpoint.timeout=)") from None
        except httpx.HTTPError as error:
            raise _Failed(f"{type(error).__name__}: {error}"[:SHOWN]) from None
        code, text = response.status_code, whole.decode("utf-8", "replace")
        said = " ".join(text.split())[:SHOWN]
        if code == 400 and TOO_LONG.search(text):
            return make("", 0, True)  # cut off before its first token, as by an engine
        if response.has_redirect_location:
            raise _Refused(f"{self.url} says {code}: it is at {response.headers['Location']}", False, make)
        if code in REFUSED:
            question = f" (question {make.args[0]})" if code in OF_THE_QUESTION else ""
            raise _Refused(f"{self.url} refuses the request with {code}: {said}{question}", bool(question), make)
        if code != 200:
            raise _Failed(f"it says {code}: {said}", _seconds(response.headers.get("Retry-After")))
        try:
            return _read_answer(json.loads(text), make)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise _Failed(f"it says what is not a completion: {said}") from None


_LOOK = (
    "see to endpoint= (an address mostly ends in /v1), endpoint.model= and endpoint.key=VARIABLE, and whether it runs"
)


class _Notes:
    """Lines about tries that failed, at most one in a while."""

    def __init__(self, url: str):
        self._url, self._lock, self._next = url, threading.Lock(), 0.0

    def say(self, text: str) -> None:
        with self._lock:
            if time.monotonic() < self._next:
                return
            self._next = time.monotonic() + BETWEEN_NOTES
        log.info(f"{self._url}: {text}")


def _read_answer(said: Mapping[str, Any], make: partial[Answer]) -> Answer:
    """The answer in a chat completion. Raises ValueError, KeyError, IndexError, TypeError or AttributeError: it is not one."""
    choice = said["choices"][0]
    reason, message, usage = choice["finish_reason"], choice["message"], said.get("usage") or {}
    text, thought = message.get("content") or "", message.get("reasoning_content") or message.get("reasoning")
    if reason is None or not isinstance(text, str):
        raise ValueError("not finished, or not a text")
    no_text = _why_no_text(text, message, reason)
    if thought:  # what a server took out of the answer
        text = f"<think>\n{thought.strip()}\n</think>\n\n{text}"
    text = text.encode("utf-8", "replace").decode()  # JSON may hold halves of a character, which no file can
    tokens = usage.get("completion_tokens")
    tokens = len(re.findall(r"\w+|[^\w\s]", text)) if tokens is None else int(tokens)  # words, where nobody counts
    cut_off = reason in ("length", "content_filter")
    return make(text, tokens, cut_off, int(usage.get("prompt_tokens") or 0), no_text=no_text)


def _why_no_text(text: str, message: Mapping[str, Any], reason: str) -> str:
    """What an endpoint gave in place of a text, which says nothing about what the model knows; "" where it gave one."""
    if reason == "content_filter":
        return reason
    if text.strip() or reason == "length":
        return ""
    if message.get("tool_calls") or message.get("function_call") or reason == "tool_calls":
        return "tool_calls"
    return "refused" if message.get("refusal") else "empty"


def _seconds(header: str | None) -> float | None:
    """A Retry-After in seconds; None without one, or for a date."""
    return float(header) if header and re.fullmatch(r"\d+(\.\d+)?", header) else None


def read_endpoint(url: str, arguments: Sequence[str], drawn: Mapping[str, Any]) -> Endpoint:
    """The endpoint at `url` with its arguments `endpoint.KEY=VALUE`, of which answers are `drawn` so.

    Raises:
        InputError: a key is unknown or has a wrong value, the model is not named, or the variable of the key is not set.
    """
    words = [each.removeprefix(PREFIX).partition("=") for each in arguments if each.startswith(PREFIX)]
    given = {
        key: value if key in ("model", "key") else plain(value) for key, _, value in words
    }  # a model may be named 401
    try:
        found = Endpoint.model_validate({**given, "url": url.rstrip("/"), "drawn": drawn})
    except ValidationError as error:
        raise InputError(TITLE, located(problems_in(error, PREFIX.removesuffix(".")))) from None
    if found.key and (problem := _find_key_problem(found.key)):
        raise InputError(TITLE, [problem])
    return found


def _find_key_problem(variable: str) -> Problem | None:
    """What is wrong with the variable of a key, which no message may show."""
    if not re.fullmatch(r"[A-Za-z_]\w*", variable, re.ASCII):
        return Problem(
            "endpoint.key= is not a variable's name", "put the key into a variable, and give the name of that"
        )
    value = os.environ.get(variable, "").strip()
    if not value:
        what = f"endpoint.key={variable} names a variable of the environment that is not set"
        return Problem(what, f"export {variable}=..., or leave endpoint.key out")
    if not value.isascii() or not value.isprintable():
        return Problem(f"what {variable} holds is no key: it has characters that cannot be sent", "copy the key again")
    return None
