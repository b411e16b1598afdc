"""Nothing listens beyond the loopback without a token."""

import pytest

from posttrain_verl import preflight
from posttrain_verl.preflight import services


@pytest.fixture(autouse=True)
def no_token(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("host", "inside"),
    [("127.0.0.1", True), ("127.8.0.1", True), ("[::1]", True), ("localhost", True), ("0.0.0.0", False),
     ("10.0.0.1", False), ("head", False), ("localhost.evil.org", False)],
)  # fmt: skip
def test_what_is_loopback(host, inside):
    assert services.is_loopback(host) is inside


def test_where_ray_finds_a_token(monkeypatch, tmp_path):
    assert not services.has_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert not services.has_token()
    (tmp_path / "token").write_text("t")
    assert services.has_token()
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("t")
    assert services.has_token()


def test_a_ray_beyond_the_loopback_is_refused_without_a_token(composed, monkeypatch):
    launch = composed("hardware=cpu", "ray_kwargs.ray_init._node_ip_address=10.0.0.1")
    found = [problem for problem in preflight.find_problems(launch) if "10.0.0.1" in problem.what]
    assert len(found) == 1 and "ray get-auth-token --generate" in found[0].remedy
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert "RAY_AUTH_MODE=disabled" in services.check_cluster(launch)[0].what
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t")
    assert not services.check_cluster(launch)


@pytest.mark.parametrize("words", [[], ["ray_kwargs.ray_init._node_ip_address=127.0.0.1"]])
def test_a_ray_on_the_loopback_needs_none(composed, words):
    assert not services.check_cluster(composed("hardware=cpu", *words))
