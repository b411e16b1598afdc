"""An OpenAI-compatible API that answers well, refuses, fails, is slow, is down, or says what is not an answer."""

import json
import re
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from posttrain_verl.synthesize import __main__ as verb
from posttrain_verl.synthesize.endpoint import EndpointFailed
from posttrain_verl.synthesize.job import read_job
from posttrain_verl.terminal.command_line import read
from posttrain_verl.terminal.problem import InputError
from posttrain_verl.verbs import Synthesize


def completion(text: str | None, reason: str | None = "stop", **message) -> dict:
    return {"choices": [{"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": text, **message}}],
            "usage": {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}}  # fmt: skip


class Server(ThreadingHTTPServer):
    """Answers sums rightly where the seed is even. `behave(number of the request, body)` may give (status, headers, text)."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[dict, dict]] = []
        self.at_once, self.most_at_once = 0, 0
        self.lock = threading.Lock()
        self.behave = lambda number, body: None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append((body, dict(self.headers)))
            number = len(self.server.asked)
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        one, two = map(int, re.findall(r"\d+", body["messages"][-1]["content"]))
        text = json.dumps(completion(f"{one}+{two}={one + two}\n#### {one + two + body['seed'] % 2}"))
        status, headers, text = self.server.behave(number, body) or (200, {}, text)
        time.sleep(headers.pop("sleep", 0.005))
        with self.server.lock:
            self.server.at_once -= 1
        drops = headers.pop("drops", 0)
        length = len(text.encode()) + drops + headers.pop("missing", 0)
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": length, **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        for _ in range(drops):
            self.wfile.write(b" ")
            time.sleep(0.5)
        self.wfile.write(text.encode())
        self.close_connection = length != len(text.encode()) + drops

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as found:
        threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield found
        found.shutdown()


@pytest.fixture
def ask(server, sums, tmp_path):
    def run(*words, n=4, rows=6, url=None):
        given = [f"mix={sums(rows)}", f"endpoint={url or server.url}", "endpoint.model=teacher", f"n={n}", "name=out",
                 "near_duplicate=0", "endpoint.pause=0.01", f"posttrain.data_dir={tmp_path}/data", *words]  # fmt: skip
        return verb.synthesize_data(read_job(read(Synthesize, given)))

    return run


def test_each_answer_is_a_request_with_its_own_seed(server, ask):
    manifest = ask("endpoint.concurrency=3", "endpoint.input_price=2", "endpoint.output_price=10")
    bodies = [body for body, _ in server.asked]
    assert len(bodies) == 24 and len({body["seed"] for body in bodies}) == 24
    assert Counter(body["messages"][0]["content"] for body in bodies) == {f"{10 + n}+{20 + n}=": 4 for n in range(6)}
    assert {(body["model"], body["temperature"], body["top_p"], body["max_tokens"], body["n"]) for body in bodies} == {
        ("teacher", 1.0, 1.0, 1024, 1)
    }
    assert 1 < server.most_at_once <= 3
    answers = manifest["answers"]
    assert (answers["n"], answers["tokens"], answers["prompt_tokens"]) == (24, 120, 264)
    assert answers["cost"] == pytest.approx((264 * 2 + 120 * 10) / 1e6)
    assert answers["right"] == sum(body["seed"] % 2 == 0 for body in bodies)
    assert manifest["teacher"] == {"endpoint": server.url, "model": "teacher"}
    assert "Authorization" not in server.asked[0][1], "no key is sent that was not named"
    ask("keep=1")
    assert len(server.asked) == 24, "answers that are there are not asked for again"


def test_a_key_comes_from_the_variable_that_is_named(server, ask, monkeypatch, tmp_path):
    monkeypatch.setenv("MY_KEY", "secret")
    ask("endpoint.key=MY_KEY")
    assert server.asked[0][1]["Authorization"] == "Bearer secret"
    assert not [file for file in (tmp_path / "data/out").iterdir() if b"secret" in file.read_bytes()]
    with pytest.raises(InputError, match=r"endpoint\.key=NO_KEY names a variable of the environment that is not set"):
        ask("endpoint.key=NO_KEY")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_passes_by_itself_is_tried_again(server, ask, status):
    server.behave = lambda number, body: (status, {"Retry-After": "0"}, "busy") if number % 3 == 1 else None
    assert ask()["answers"]["n"] == 24
    assert len(server.asked) > 30


def test_it_waits_as_long_as_it_is_told(server, ask):
    server.behave = lambda number, body: (429, {"Retry-After": "1"}, "busy") if number == 1 else None
    began = time.monotonic()
    ask("endpoint.concurrency=1", rows=1, n=2)
    assert time.monotonic() - began >= 1


def test_a_connection_that_breaks_off_in_an_answer_is_tried_again(server, ask):
    server.behave = lambda number, body: (200, {"missing": 99}, '{"choices": [') if number % 4 == 1 else None
    assert ask()["answers"]["n"] == 24


def test_an_endpoint_that_is_down_is_said_and_nothing_is_written(ask, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(EndpointFailed, match="does not answer after 3 tries: ConnectError") as failed:
            ask("endpoint.retries=2", url=f"http://127.0.0.1:{free.getsockname()[1]}/v1")
    assert failed.value.code == 1 and not failed.value.resumes
    assert not (tmp_path / "data/out/manifest.json").exists()


def test_an_endpoint_that_goes_down_keeps_its_answers_and_the_same_call_resumes(server, ask, tmp_path):
    server.behave = lambda number, body: (503, {}, "gone") if number > 10 else None
    with pytest.raises(EndpointFailed, match="it says 503: gone") as failed:
        ask("endpoint.retries=1", "endpoint.concurrency=2")
    assert failed.value.resumes
    there = len((tmp_path / "data/out/answers.jsonl").read_text().splitlines()) - 1
    assert there == 10
    server.behave, before = lambda number, body: None, len(server.asked)
    assert ask()["answers"]["n"] == 24
    assert len(server.asked) - before == 14


def test_a_slow_endpoint_is_given_up_after_its_time(server, ask):
    server.behave = lambda number, body: (200, {"sleep": 1.0}, json.dumps(completion("late")))
    with pytest.raises(EndpointFailed, match=r"no answer in 0\.2 s \(endpoint\.timeout=\)"):
        ask("endpoint.timeout=0.2", "endpoint.retries=1", rows=1, n=2)


@pytest.mark.parametrize(
    "said", ["<html>It works!</html>", "{}", '{"choices": []}', '{"choices": [{"message": null, "finish_reason": "stop"}]}',
             '{"choices": [{"message": {"content": 7}, "finish_reason": "stop"}]}', "[]", json.dumps(completion("x", None))]
)  # fmt: skip
def test_nonsense_is_said_as_it_is(server, ask, said):
    server.behave = lambda number, body: (200, {}, said)
    with pytest.raises(EndpointFailed, match="it says what is not a completion: " + re.escape(said[:40])):
        ask("endpoint.retries=1", rows=1, n=2)


@pytest.mark.parametrize(("status", "said"), [(401, "Incorrect API key"), (404, "The model `teacher` does not exist")])
def test_a_refusal_is_the_users_to_correct(server, ask, status, said):
    server.behave = lambda number, body: (status, {}, json.dumps({"error": {"message": said}}))
    with pytest.raises(InputError, match=f"refuses the request with {status}.*{said}") as error:
        ask()
    assert "endpoint.key=VARIABLE" in str(error.value)
    assert len(server.asked) == len({body["seed"] for body, _ in server.asked}), "it is not tried again"


def test_a_question_that_is_refused_alone_costs_no_other_answer(server, ask, rows):
    server.behave = lambda number, body: (
        (400, {}, "content policy") if body["messages"][0]["content"] == "10+20=" else None
    )
    manifest = ask()
    assert (manifest["answers"]["undecided"], manifest["answers"]["no_text"]) == (4, {"refused": 4})
    (refused,) = [row for row in rows("rates") if row["question"] == "10+20="]
    assert (refused["n"], refused["undecided"], refused["rate"]) == (0, 4, None)


def test_an_endpoint_that_moved_is_not_tried_again(server, ask):
    server.behave = lambda number, body: (301, {"Location": "https://other/v1"}, "")
    with pytest.raises(InputError, match="says 301: it is at https://other/v1"):
        ask("endpoint.concurrency=2")
    assert len(server.asked) <= 4


def test_answers_on_their_way_are_kept_when_one_fails(server, ask, tmp_path):
    """Each costs money. The one that fails comes first, and seven others are being made."""
    server.behave = lambda number, body: (503, {}, "gone") if number == 1 else (
        200, {"sleep": 0.5}, json.dumps(completion("#### 30")))  # fmt: skip
    with pytest.raises(EndpointFailed):
        ask("endpoint.retries=0", "endpoint.concurrency=8")
    assert len((tmp_path / "data/out/answers.jsonl").read_text().splitlines()) - 1 == len(server.asked) - 1 >= 7


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (completion(None, "tool_calls", tool_calls=[{"id": "1"}]), "tool_calls"),
        (completion(None, refusal="I cannot"), "refused"),
        (completion(""), "empty"),
        (completion("It is", "content_filter"), "content_filter"),
        (completion("", reasoning_content="it is 30, #### 30"), "empty"),
    ],
)
def test_what_is_no_text_is_neither_right_nor_wrong(server, ask, rows, said, reason):
    """A pass rate of one half would be that of the endpoint, and not of the model."""
    server.behave = lambda number, body: (200, {}, json.dumps(said)) if body["seed"] % 2 else None
    answers = ask("also_reject=undecided")["answers"]
    assert 0 < answers["no_text"][reason] == answers["undecided"] < 24 and answers["wrong"] == 0
    assert {row["rate"] for row in rows("rates")} == {1.0}


def test_half_a_character_can_be_written(server, ask, rows):
    server.behave = lambda number, body: (200, {}, json.dumps(completion("\ud800 #### 30")))
    ask(rows=1)
    assert rows("sft_train")[0]["messages"][-1]["content"] == "? #### 30"


def test_an_answer_that_comes_in_drops_has_the_same_time(server, ask):
    server.behave = lambda number, body: (200, {"drops": 40}, json.dumps(completion("#### 30")))
    began = time.monotonic()
    with pytest.raises(EndpointFailed, match=r"no answer in 0\.3 s"):
        ask("endpoint.timeout=0.3", "endpoint.retries=0", rows=1, n=1)
    assert time.monotonic() - began < 20


def test_a_wrong_address_is_corrected_by_the_next_call(server, ask):
    server.behave = lambda number, body: (404, {}, "no such page")
    with pytest.raises(InputError, match="mostly ends in /v1"):
        ask(url=server.url.removesuffix("/v1"))
    server.behave = lambda number, body: None
    assert ask()["answers"]["n"] == 24, "no answer was lost by it"


@pytest.mark.parametrize("value", ["sk-secret123\r\nX: y", "sk-s\u00e9cret123", "  "])
def test_a_key_that_cannot_be_sent_is_not_shown(ask, monkeypatch, value):
    monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(InputError) as error:
        ask("endpoint.key=MY_KEY")
    assert "cret123" not in str(error.value)


def test_a_key_in_the_place_of_its_variable_is_not_shown(ask):
    with pytest.raises(InputError, match="is not a variable's name") as error:
        ask("endpoint.key=sk-abcdef")
    assert "abcdef" not in str(error.value)


def test_a_prompt_that_is_too_long_is_an_answer_cut_off_before_it_began(server, ask):
    error = json.dumps({"error": {"message": "This model's maximum context length is 10 tokens"}})
    server.behave = lambda number, body: (400, {}, error) if body["messages"][0]["content"] == "10+20=" else None
    manifest = ask()
    assert manifest["answers"]["cut_off"] == 4 and manifest["answers"]["n"] == 24


def test_half_answers_are_cut_off_and_become_neither_solution_nor_pair(server, ask, rows):
    server.behave = lambda number, body: (
        (200, {}, json.dumps(completion("10+20=30 #### 3", "length"))) if body["seed"] % 2 else None
    )
    manifest = ask()
    half = manifest["answers"]["cut_off"]
    assert 0 < half < 24 and manifest["pairs"]["n"] == 0
    assert len(rows("sft_train")) == 24 - half


def test_a_thought_that_the_server_took_out_is_put_back(server, ask, rows):
    server.behave = lambda number, body: (200, {}, json.dumps(completion("#### 30", reasoning_content="10 and 20\n")))
    ask(rows=1)
    assert rows("sft_train")[0]["messages"][-1]["content"] == "<think>\n10 and 20\n</think>\n\n#### 30"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["endpoint.modle=x"], r"endpoint\.modle: is not a known key"),
        (["endpoint.concurrency=0"], r"endpoint\.concurrency: is 0"),
        (["endpoint.timeout=never"], r"endpoint\.timeout: is 'never', not a number"),
    ],
)
def test_wrong_keys(ask, words, said):
    with pytest.raises(InputError, match=said):
        ask(*words)


def test_the_model_must_be_named(server, sums, tmp_path):
    given = [f"mix={sums(2)}", f"endpoint={server.url}", f"posttrain.data_dir={tmp_path}/data"]
    with pytest.raises(InputError, match=r"(?s)endpoint\.model: is missing.*as the endpoint lists it under /models"):
        read_job(read(Synthesize, given))
