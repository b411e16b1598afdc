"""What `ensure` promises: complete folders, built once, and one clear message for what it cannot use."""

import sys
import threading
from pathlib import Path

import pytest

from posttrain_verl import base_models
from posttrain_verl.base_models import cache
from posttrain_verl.terminal.console import log
from posttrain_verl.terminal.problem import InputError


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))


def write_slowly(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    log.info("half way")
    threading.Event().wait(0.05)
    (folder / "model.safetensors").write_text("weights")


def write_and_fail(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    raise OSError("No space left on device")


@pytest.fixture
def embedded(monkeypatch):
    """Makes `fake` an embedded model that the given function writes."""

    def make(function):
        monkeypatch.setattr(cache, "EMBEDDED", {"fake": f"writer:{function.__name__}"})
        monkeypatch.setitem(sys.modules, "writer", _Module(function))

    return make


class _Module:
    def __init__(self, function):
        setattr(self, function.__name__, function)


def test_a_missing_package_is_named(monkeypatch):
    """The environment for GPUs has no gguf."""
    monkeypatch.setattr(cache, "EMBEDDED", {"fake": "package_that_is_not_there.module:write"})
    with pytest.raises(InputError, match="package_that_is_not_there is not installed"):
        base_models.ensure_model("fake")


def test_is_built_once_with_progress(embedded, told):
    embedded(write_slowly)
    folder = base_models.ensure_model("fake")
    first = list(told)
    assert base_models.ensure_model("fake") == folder
    assert "half way" in first and told == first


def test_threads_that_ask_at_once_get_one_complete_folder(embedded, told):
    embedded(write_slowly)
    found: list[bool] = []

    def ask() -> None:
        found.append((base_models.ensure_model("fake") / "model.safetensors").is_file())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4
    assert told.count("half way") == 1


def test_a_build_that_fails_leaves_nothing_behind(embedded):
    embedded(write_and_fail)
    with pytest.raises(OSError, match="No space left"):
        base_models.ensure_model("fake")
    assert not [path for path in (cache.cache_dir() / "base_models").iterdir() if path.is_dir()]
    embedded(write_slowly)
    assert (base_models.ensure_model("fake") / "model.safetensors").is_file()


def test_a_folder_of_the_user_is_taken_as_it_is(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("weights")
    assert base_models.ensure_model(tmp_path) == tmp_path


@pytest.mark.parametrize(
    ("files", "message"), [([], "holds no config.json"), (["config.json"], "holds no weights")], ids=["empty", "bare"]
)
def test_a_folder_that_is_no_model_is_named(tmp_path, files, message):
    for file in files:
        (tmp_path / file).write_text("{}")
    with pytest.raises(InputError, match=message):
        base_models.ensure_model(tmp_path)


def test_an_unknown_name_is_answered_with_the_names_that_exist():
    with pytest.raises(InputError) as caught:
        base_models.ensure_model("smolm2_135m")
    assert all(name in str(caught.value) for name in base_models.EMBEDDED)


def test_a_build_shows_no_bar_of_transformers(capfd):
    from transformers.utils import logging as of_transformers

    cache.ensure_model("tiny")
    assert "it/s" not in "".join(capfd.readouterr())
    assert of_transformers.is_progress_bar_enabled(), "a program that uses this package keeps its own"
