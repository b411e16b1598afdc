"""An OpenAI-compatible API that answers: what is asked of it, how it may fail, and what it costs.

Each answer is a request of its own with its own seed, so that an answer follows from the same things as one of our engines. What
passes by itself is tried again: a connection that is lost, a time limit, 429 and 5xx, and an answer that is not one.
"""

from __future__ import annotations

import os
import random
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cached_property, partial
from itertools import chain
from typing import Annotated, Any

import httpx
from pydantic import Field, ValidationError

from data_prep.declaration import Declaration, Number, Positive, Whole, problems_in
from posttrain_verl.evaluate.engine import sample_seed
from posttrain_verl.evaluate.result import Answer
from posttrain_verl.evaluate.sampling import Missing
from posttrain_verl.terminal.command_line import plain
from posttrain_verl.terminal.problem import InputError, Problem, WorkFailed, located

PREFIX = "endpoint."
LONGEST_WAIT = 60.0  # seconds between two tries
REFUSED = {400, 401, 403, 404, 405, 413, 422}  # trying again does not help
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
        return {"Authorization": f"Bearer {os.environ[self.key]}"} if self.key else {}

    def generate(self, missing: Missing) -> Iterator[Answer]:
        """The answers to what is missing, as they come.

        Raises:
            InputError: the endpoint refuses the request, e.g. the key or the model.
            EndpointFailed: it did not answer after all tries.
        """
        stop = threading.Event()
        limits = httpx.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency)
        wanted = chain.from_iterable(
            ((name, messages, sample) for sample in samples) for name, messages, samples in missing
        )
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="endpoint")
        with httpx.Client(timeout=self.timeout, limits=limits, headers=self._headers) as client:
            try:
                asked = [pool.submit(self._answer, client, stop, *each) for each in wanted]
                for count, done in enumerate(as_completed(asked)):
                    try:
                        answer = done.result()
                    except _Failed as error:
                        tries = f"after {self.retries + 1} tries"
                        raise EndpointFailed(f"{self.url} does not answer {tries}: {error}", count > 0) from None
                    yield answer
            finally:
                stop.set()
                pool.shutdown(wait=True, cancel_futures=True)

    def _answer(self, client: httpx.Client, stop: threading.Event, name: str, messages: Sequence[Mapping[str, str]],
                sample: int) -> Answer:  # fmt: skip
        """One answer, after as many tries as it takes. Raises _Failed: the last try failed, too."""
        body = {"model": self.model, "messages": messages, "n": 1, **self.drawn}
        if self.drawn["temperature"] > 0:
            body["seed"] = sample_seed(self.drawn["seed"], name, sample)
        for number in range(self.retries + 1):
            try:
                return self._try_once(client, body, partial(Answer, name, sample))
            except _Failed as error:
                if number == self.retries:
                    raise
                backoff = self.pause * 2**number * (1 + random.random() / 4)  # apart, so that not all come back at once
                if stop.wait(min(LONGEST_WAIT, backoff if error.wait is None else error.wait)):
                    raise
        raise AssertionError("the loop returns or raises")

    def _try_once(self, client: httpx.Client, body: Mapping[str, Any], make: partial[Answer]) -> Answer:
        try:
            response = client.post(f"{self.url}/chat/completions", json=body)
        except httpx.TimeoutException:
            raise _Failed(f"no answer in {self.timeout:g} s (endpoint.timeout=)") from None
        except httpx.HTTPError as error:
            raise _Failed(f"{type(error).__name__}: {error}"[:SHOWN]) from None
        said = " ".join(response.text.split())[:SHOWN]
        if response.status_code == 400 and TOO_LONG.search(response.text):
            return make("", 0, True)  # cut off before its first token, as by an engine
        if response.status_code in REFUSED:
            what = f"{self.url} refuses the request with {response.status_code}: {said}"
            raise InputError(TITLE, [Problem(what, "see to endpoint=, endpoint.model= and endpoint.key=VARIABLE")])
        if response.status_code != 200:
            raise _Failed(f"it says {response.status_code}: {said}", _seconds(response.headers.get("Retry-After")))
        try:
            return _read_answer(response.json(), make)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise _Failed(f"it says what is not a completion: {said}") from None


def _read_answer(said: Mapping[str, Any], make: partial[Answer]) -> Answer:
    """The answer in a chat completion. Raises ValueError, KeyError, IndexError, TypeError or AttributeError: it is not one."""
    choice = said["choices"][0]
    reason, message, usage = choice["finish_reason"], choice["message"], said.get("usage") or {}
    text, thought = message.get("content") or "", message.get("reasoning_content") or message.get("reasoning")
    if reason is None or not isinstance(text, str):
        raise ValueError("not finished, or not a text")
    if thought:  # what a server took out of the answer
        text = f"<think>\n{thought.strip()}\n</think>\n\n{text}"
    tokens = usage.get("completion_tokens")
    tokens = len(re.findall(r"\w+|[^\w\s]", text)) if tokens is None else int(tokens)  # words, where nobody counts
    return make(text, tokens, reason in ("length", "content_filter"), int(usage.get("prompt_tokens") or 0))


def _seconds(header: str | None) -> float | None:
    """A Retry-After in seconds; None without one, or for a date."""
    return float(header) if header and re.fullmatch(r"\d+(\.\d+)?", header) else None


def read_endpoint(url: str, arguments: Sequence[str], drawn: Mapping[str, Any]) -> Endpoint:
    """The endpoint at `url` with its arguments `endpoint.KEY=VALUE`, of which answers are `drawn` so.

    Raises:
        InputError: a key is unknown or has a wrong value, the model is not named, or the variable of the key is not set.
    """
    given = {key.removeprefix(PREFIX): plain(value) for key, _, value in (each.partition("=") for each in arguments)
             if key.startswith(PREFIX)}  # fmt: skip
    try:
        found = Endpoint.model_validate({**given, "url": url.rstrip("/"), "drawn": drawn})
    except ValidationError as error:
        raise InputError(TITLE, located(problems_in(error, PREFIX.removesuffix(".")))) from None
    if found.key and not os.environ.get(found.key):
        what = f"endpoint.key={found.key} names a variable of the environment that is not set"
        raise InputError(TITLE, [Problem(what, f"export {found.key}=..., or leave endpoint.key out")])
    return found
