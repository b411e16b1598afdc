"""`serve`: runs are listed and followed while they go on, on the loopback only."""

import gzip
import http.client
import json
import threading
import time
from contextlib import contextmanager

import made_runs
import made_texts
import pytest
import uvicorn

from posttrain_verl import serve
from posttrain_verl.report.app import make_application
from posttrain_verl.terminal.command_line import read
from posttrain_verl.terminal.problem import InputError
from posttrain_verl.verbs import Serve


@contextmanager
def serving(home):
    listener = serve.bind_port(0)
    server = uvicorn.Server(uvicorn.Config(make_application(home), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def get(port, path, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


@pytest.fixture
def home(tmp_path):
    made_runs.grpo(tmp_path / "math_grpo" / "a", steps=5, prompts=1, state="running")
    return tmp_path


def test_pages_blocks_and_versions(home):
    made_runs.pipeline(home)
    with serving(home) as port:
        _, _, front = get(port, "/")
        assert b'href="run/math_grpo/a/"' in front and b'href="run/pipeline/math/20260801-120000/"' in front
        status, _, text = get(port, "/run/math_grpo/a/")
        assert status == 200 and b"is running after step 5 of 5" in text and b"connect-src &#39;self&#39;" in text
        status, headers, _ = get(port, "/run/math_grpo/a/sections")
        version = {"If-None-Match": headers["ETag"]}
        assert status == 200 and get(port, "/run/math_grpo/a/sections", **version)[0] == 304
        made_texts.rollouts(home / "math_grpo/a/rollouts", 6, 1, 8, 0.5, made_runs.np.random.default_rng(0))
        assert get(port, "/run/math_grpo/a/sections", **version)[0] == 200
        index = json.loads(gzip.decompress(get(port, "/run/math_grpo/a/block/index")[2]))
        chunk = json.loads(gzip.decompress(get(port, f"/run/math_grpo/a/block/{index['chunks'][0]}")[2]))
        assert len(chunk["output"]) == index["sizes"][0] and max(index["step"]) == 6


def test_a_sweep_links_the_pages_of_its_members(home):
    made_runs.sweep(home)
    with serving(home) as port:
        _, _, text = get(port, "/run/multirun/20260801-120000/")
        assert b'href="../../math_grpo/20260801-120000-0/"' in text
        assert get(port, "/run/math_grpo/20260801-120000-0/")[0] == 200


@pytest.mark.parametrize(
    "path",
    ["/run/math_grpo/b/", "/run/../secret/", "/run/%2e%2e/secret/", "/run/math_grpo/a/block/nothing", "/run//etc/"],
)
def test_what_is_not_there_is_not_found(home, path):
    (home.parent / "secret").mkdir(exist_ok=True)
    (home.parent / "secret" / "status.json").write_text("{}")
    with serving(home) as port:
        assert get(port, path)[0] == 404


def test_a_foreign_name_for_this_machine_is_refused(home):
    with serving(home) as port:
        assert get(port, "/", Host="evil.example")[0] == 400
        assert get(port, "/", Host=f"localhost:{port}")[0] == 200


def test_it_listens_on_the_loopback_only():
    with serve.bind_port(0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
        with pytest.raises(InputError, match=f"port {listener.getsockname()[1]} cannot be had"):
            serve.bind_port(listener.getsockname()[1])


def test_mistakes_are_shown_together(tmp_path):
    with pytest.raises(InputError) as caught:
        read(Serve, [f"posttrain.runs_dir={tmp_path}/no", "port=x", "nonsense"])
    assert len(caught.value.problems) == 3


def test_a_browser_follows_a_run(browser, home):
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.expected_conditions import staleness_of
    from selenium.webdriver.support.ui import WebDriverWait

    run = home / "math_grpo" / "a"
    with serving(home) as port:
        browser.get(f"http://127.0.0.1:{port}/")
        browser.find_element(By.LINK_TEXT, "math_grpo/a").click()
        wait = WebDriverWait(browser, 20, ignored_exceptions=[StaleElementReferenceException])  # the page changes
        wait.until(lambda page: page.find_elements(By.CSS_SELECTOR, ".response"))
        browser.find_element(By.CSS_SELECTOR, "summary").click()
        before = browser.find_element(By.CSS_SELECTOR, "#reward .uplot canvas")
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": 6, "data": {"critic/score/mean": 0.9}}) + "\n")
        made_texts.rollouts(run / "rollouts", 6, 1, 8, 0.5, made_runs.np.random.default_rng(0))
        status = json.loads((run / "status.json").read_text())
        made_texts.write(run / "status.json", status | {"state": "done", "last_step": 6, "ended": time.time()})
        wait.until(
            lambda page: "ended as planned after step 6" in page.find_element(By.CSS_SELECTOR, "header.top").text
        )
        wait.until(staleness_of(before), "the curve is drawn anew")
        assert browser.find_elements(By.CSS_SELECTOR, "details[open]"), "what was open stays open"
        fresh = browser.find_element(By.ID, "fresh")
        assert fresh.text == "show 8 new rollouts"
        fresh.click()
        wait.until(lambda page: page.find_element(By.ID, "count").text.startswith("48 of 48"))
        assert not browser.get_log("browser")
