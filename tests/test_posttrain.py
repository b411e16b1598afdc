"""The command `posttrain`: the same as `python -m posttrain_verl.VERB`, and what a shell completes."""

import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from posttrain_verl import __version__, paths
from posttrain_verl.__main__ import candidates, main
from posttrain_verl.verbs import VERBS

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with two runs and a file, and `posttrain` on the PATH as an installation puts it there."""
    for name in ("math_grpo/a1", "math_grpo/b2"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.yaml").write_text("{}\n")
    (tmp_path / "completions.jsonl").touch()
    command = tmp_path / "bin" / "posttrain"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m posttrain_verl "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_it_lists_the_verbs_with_a_line_each(words, capsys):
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    for verb in (*VERBS, "completion"):
        (line,) = [line for line in lines if line.startswith(f"  {verb} ")]
        assert line.endswith(".")


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"posttrain {__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_can_be_run_by_the_command(verb):
    place = ROOT / "posttrain_verl" / verb
    module = import_module(f"posttrain_verl.{verb}" + (".__main__" if place.is_dir() else ""))
    assert callable(module.run)


def test_a_wrong_verb_names_the_nearest(capsys):
    assert main(["lunch", "recipe=math_grpo"]) == 2
    assert "'lunch' is not a verb" in (said := capsys.readouterr().err) and "did you mean launch?" in said


@pytest.mark.parametrize(
    "words",
    [["list", "--json"], ["list", "posttrain.runs_dir=no"], ["status", "run=a1"], ["logs", "run=b2"], ["check", "--nosuch"],
     ["first_gpu_hour", "mode=shrt"], ["check", "--help"]],
)  # fmt: skip
def test_it_does_what_the_module_of_the_verb_does(place, words):
    verb, *others = words
    module = subprocess.run([sys.executable, "-m", f"posttrain_verl.{verb}", *others], capture_output=True, text=True)
    script = subprocess.run(["posttrain", *words], capture_output=True, text=True)
    assert (script.returncode, script.stdout, script.stderr) == (module.returncode, module.stdout, module.stderr)


def test_ctrl_c_has_its_exit_code(monkeypatch):
    from posttrain_verl import list as verb

    def interrupted(asked):
        raise KeyboardInterrupt

    monkeypatch.setattr(verb, "run", interrupted)
    assert main(["list"]) == 130


def test_help_wrong_words_and_completion_import_no_verb():
    """Whoever presses TAB, or mistypes, should not wait for Hydra."""
    script = (
        "import sys; from posttrain_verl.__main__ import main\n"
        "codes = main(['_complete', 'posttrain launch recipe=']), main(['evaluate', 'foo=1'])\n"
        "found = {name.partition('.')[0] for name in sys.modules} & {'hydra', 'omegaconf', 'torch', 'ray', 'rich', 'numpy'}\n"
        "sys.exit(f'{codes} {found}' if found or codes != (0, 2) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("line", "found"),
    [("posttrain insp", ["inspect "]), ("posttrain --ver", ["--version "]), ("posttrain completion z", ["zsh "]),
     ("posttrain nosuch recipe=", []), ("posttrain launch reci", ["recipe="]), ("posttrain launch --dry", ["--dry-run "]),
     ("posttrain launch recipe=math_gs", ["recipe=math_gspo "]),
     ("posttrain check base_model=smol", ["base_model=smollm2_135m "]),
     ("posttrain check mix=gsm", ["mix=gsm8k "]), ("posttrain check hardware=c", ["hardware=cpu "]),
     ("posttrain launch cluster=sl", ["cluster=slurm "]), ("posttrain launch watch=d", ["watch=default "]),
     ("posttrain evaluate eval=aime25", ["eval=aime25 "]), ("posttrain pipeline recipe=demo_s", ["recipe=demo_smollm2 "]),
     ("posttrain export form=", ["form=merged ", "form=adapter "]), ("posttrain export vllm=f", ["vllm=false "]),
     ("posttrain status run=", ["run=math_grpo/a1 ", "run=math_grpo/b2 "]),
     ("posttrain launch run=math_grpo/a", ["run=math_grpo/a1 "]),
     ("posttrain status posttrain.runs_dir=elsewhere run=", []), ("posttrain evaluate posttrain.o", ["posttrain.out="]),
     ("posttrain evaluate  k=8 lab", ["label="]), ("posttrain compare run=math_grpo/b", ["run=math_grpo/b2 "]),
     ("posttrain launch posttrain.run", ["posttrain.runs_dir=", "posttrain.run_id="]), ("posttrain grade comp", [])],
)  # fmt: skip
def test_what_may_stand_at_the_end_of_a_line(place, line, found):
    assert candidates(line) == found


def test_every_group_and_field_is_completed(place):
    for group in (*paths.OUR_GROUPS, "eval", "pipeline"):
        verb = {"eval": "evaluate", "pipeline": "pipeline"}.get(group, "launch")
        key = "recipe" if group == "pipeline" else group
        assert candidates(f"posttrain {verb} {key}=") == [f"{key}={name} " for name in paths.names(group)]
    assert {"k=", "temperature=", "posttrain.out=", "--json "} <= set(candidates("posttrain evaluate "))


@pytest.mark.parametrize(
    ("line", "found"),
    [("posttrain insp", ["inspect "]), ("posttrain launch recipe=math_gs", ["math_gspo "]),
     ("posttrain launch reci", ["recipe="]), ("posttrain status run=", ["math_grpo/a1 ", "math_grpo/b2 "]),
     ("posttrain check mix=gsm8k hardware=cp", ["cpu "])],
)  # fmt: skip
def test_bash_completes(place, line, found):
    """Bash splits words at = and replaces only what follows the last one."""
    script = f"""
eval "$(posttrain completion bash)"
COMP_LINE={json.dumps(line)}; COMP_POINT=${{#COMP_LINE}}
_posttrain
printf '%s\\n' "${{COMPREPLY[@]}}"
complete -p posttrain >&2
"""
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, cwd=place)
    assert done.stdout.splitlines() == found
    assert "-F _posttrain posttrain" in done.stderr


def test_fish_completes(place):
    if not shutil.which("fish"):
        pytest.skip("fish is not installed")
    script = "posttrain completion fish | source; complete -C 'posttrain launch recipe=math_gs'"
    done = subprocess.run(["fish", "--no-config", "-c", script], capture_output=True, text=True, cwd=place)
    assert done.stdout.split() == ["recipe=math_gspo"]


def test_zsh_reads_its_script(place):
    if not shutil.which("zsh"):
        pytest.skip("zsh is not installed")
    script = 'autoload -Uz compinit; compinit -u -D; eval "$(posttrain completion zsh)"; print $_comps[posttrain]'
    done = subprocess.run(["zsh", "-f", "-c", script], capture_output=True, text=True, cwd=place)
    assert done.stdout.split() == ["_posttrain"]


def test_a_shell_that_is_not_known(capsys, monkeypatch):
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    assert main(["completion"]) == 2
    assert "there are: bash, zsh, fish" in capsys.readouterr().err
