"""Triton needs a C compiler and Python.h, and preflight tries both."""

import subprocess
import sysconfig

import pytest

from posttrain_verl.compose import compose
from posttrain_verl.preflight import machine


@pytest.fixture(autouse=True)
def on_a_gpu_machine(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_has_driver", lambda: True)
    monkeypatch.setattr(machine, "find_spec", lambda name: name)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("CC", "CPATH", "C_INCLUDE_PATH"):
        monkeypatch.delenv(name, raising=False)


def found(recipe: str, hardware: str = "8xh100") -> list[tuple[str, str]]:
    problems = machine.check_compiler(compose([f"recipe={recipe}", f"hardware={hardware}"]))
    return [(problem.level, f"{problem.what} | {problem.remedy}") for problem in problems]


def has_header() -> bool:
    command = ["cc", "-E", f"-I{sysconfig.get_path('include')}", "-x", "c", "-"]
    return subprocess.run(command, input=b"#include <Python.h>\n", capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not has_header(), reason="this machine has no Python.h")
def test_a_machine_with_both_passes():
    assert found("math_grpo") == []


def test_a_missing_header_is_named_with_its_package(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "header_folder", lambda: str(tmp_path))
    ((level, said),) = found("math_grpo")
    assert level == "problem" and f"does not find it in {tmp_path}" in said and "apt-get install python3." in said
    assert [level for level, _ in found("math_sft")] == ["warning"], "SFT may run without a compiled part"


def test_a_header_elsewhere_is_found_as_the_compiler_finds_it(monkeypatch, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/Python.h").touch()
    monkeypatch.setattr(machine, "header_folder", lambda: str(tmp_path))
    monkeypatch.setenv("CPATH", str(tmp_path / "elsewhere"))
    assert found("math_grpo") == []


def test_what_triton_built_before_serves_again(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "header_folder", lambda: str(tmp_path))
    (tmp_path / "cache/abc").mkdir(parents=True)
    (tmp_path / f"cache/abc/cuda_utils{sysconfig.get_config_var('EXT_SUFFIX')}").touch()
    assert [level for level, _ in found("math_grpo")] == ["warning"]


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    assert "Triton needs a C compiler" in found("math_grpo")[0][1]
    monkeypatch.setenv("CC", "/no/such/cc")
    assert "CC=/no/such/cc does not start" in found("math_grpo")[0][1]


def test_a_cpu_needs_neither(monkeypatch):
    monkeypatch.setattr(machine, "find_missing_compiler", lambda: pytest.fail("nobody needs to try"))
    assert found("math_grpo", "cpu") == []
