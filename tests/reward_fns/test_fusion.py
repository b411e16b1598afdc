"""The SandboxFusion client against a small server on loopback that speaks its protocol."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import reward_fns
from reward_fns.code import fusion

SQUARE = "```python\ndef f(x):\n    return x * x\n```"

UNIT_TEST = (
    "import unittest\nclass T(unittest.TestCase):\n    def test_f(self):\n        self.assertEqual(f(2), 5)\n"
    "if __name__ == '__main__':\n    unittest.main()"
)
LEAST = (
    "```python\nclass Solution:\n    def least(self, a: List[int]):\n        heapify(a)\n        return heappop(a)\n```"
)


class Server(BaseHTTPRequestHandler):
    """Runs the fixed programs of this file; never model output."""

    replies = None  # a list of canned replies, taken first
    seen = None

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.path, body))
        reply = self.replies.pop(0) if self.replies else self.execute(body)
        data = json.dumps(reply).encode()
        self.send_response(200 if reply is not None else 500)
        self.end_headers()
        self.wfile.write(data)

    def execute(self, body):
        done = subprocess.run(
            [sys.executable, "-c", body["code"]], input=body["stdin"], capture_output=True, text=True, timeout=20
        )
        status = "Success" if done.returncode == 0 else "Failed"
        ran = {"status": "Finished", "return_code": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
        return {"status": status, "message": "", "compile_result": None, "run_result": ran}

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(Server, "seen", [])
    monkeypatch.setattr(Server, "replies", [])
    monkeypatch.setattr(fusion, "PAUSE_SECONDS", 0.01)
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def grade(response, tests, url, **options):
    return reward_fns.grade("apps", response, json.dumps(tests), sandbox_url=url, **options)


@pytest.mark.parametrize(
    ("response", "tests", "score"),
    [
        ("```python\nprint(int(input())**2)\n```", {"inputs": ["2", "3"], "outputs": ["4", "9"]}, 1.0),
        ("```python\nprint(4)\n```", {"inputs": ["2", "3"], "outputs": ["4", "9"]}, 0.0),
        (SQUARE, {"inputs": [[2], [3]], "outputs": [4, 9], "fn_name": "f"}, 1.0),
        (SQUARE, {"inputs": [[2], [3]], "outputs": [4, 8], "fn_name": "f"}, 0.0),
        (SQUARE, {"test_list": ["assert f(2) == 4"]}, 1.0),
        (SQUARE, {"test_list": ["assert f(2) == 5"]}, 0.0),
        ("```python\nimport os; os._exit(0)\n```", {"test_list": ["assert f(2) == 4"]}, 0.0),
        (SQUARE, {"functional": "from solution import f\ndef test_f():\n    assert f(2) == 4"}, 1.0),
        (SQUARE, {"functional": "def test_f():\n    assert f(2) == 5"}, 0.0),
        (SQUARE, {"functional": UNIT_TEST}, 0.0),
        (
            SQUARE,
            {"test": "def check(candidate):\n    assert candidate(2) == 5", "entry_point": "f", "prompt": ""},
            0.0,
        ),
        (LEAST, {"inputs": ["[3, 1]"], "outputs": ["1"], "fn_name": "least"}, 1.0),
    ],
)
def test_same_grades_as_the_local_sandbox(server, response, tests, score):
    result = grade(response, tests, server)
    assert (result["score"], result["verifier_error"], tuple(result)) == (score, 0.0, reward_fns.KEYS)


@pytest.mark.parametrize(
    "tests",
    [
        "for x in []:\n    assert f(x) == 4",
        "class TestF:\n    def test_f(self):\n        assert f(2) == 4",
        "def test_f(capsys):\n    assert f(2) == 4",
        "import pytest\ndef test_f():\n    with pytest.raises(TypeError):\n        f('a')",
    ],
)
def test_tests_that_the_server_cannot_run_are_the_verifiers_fault(server, tests):
    result = grade(SQUARE, {"functional": tests}, server)
    assert (result["score"], result["verifier_error"]) == (0.0, 1.0)


def test_partial_and_request_fields(server):
    tests = {"inputs": ["2", "3"], "outputs": ["4", "9"], "language": "cpp"}
    ran = {"status": "Finished", "return_code": 0}
    Server.replies += [{"status": "Success", "run_result": {**ran, "stdout": out}} for out in ("4\n", "8\n")]
    result = grade("```cpp\nint main() {}\n```", tests, server, partial=True, timeout=3.0)
    assert result["score"] == 0.5
    path, body = Server.seen[0]
    assert path == "/run_code"
    assert (body["language"], body["run_timeout"], body["stdin"]) == ("cpp", 3.0, "2")


def test_failed_compilation_is_a_wrong_answer(server):
    Server.replies += [
        {"status": "Failed", "compile_result": {"status": "Finished", "return_code": 1}, "run_result": None}
    ]
    result = grade("```cpp\nx\n```", {"inputs": ["2"], "outputs": ["4"], "language": "cpp"}, server)
    assert (result["score"], result["verifier_error"]) == (0.0, 0.0)


def test_a_failing_server_is_the_verifiers_fault(server):
    Server.replies += [{"status": "SandboxError", "message": "no room"}]
    result = grade(SQUARE, {"test_list": ["assert f(2) == 4"]}, server)
    assert (result["score"], result["verifier_error"]) == (0.0, 1.0)


def test_an_absent_server_is_the_verifiers_fault(monkeypatch):
    monkeypatch.setattr(fusion, "PAUSE_SECONDS", 0.0)
    result = grade(SQUARE, {"test_list": ["assert f(2) == 4"]}, "http://127.0.0.1:9")
    assert (result["score"], result["verifier_error"]) == (0.0, 1.0)


def test_a_lost_reply_is_asked_for_again(server):
    Server.replies += [None]
    assert grade(SQUARE, {"test_list": ["assert f(2) == 4"]}, server)["score"] == 1.0
    assert len(Server.seen) == 2
