"""The sbatch script, read by bash and run under stand-ins of Slurm's programs."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from posttrain_verl import clusters
from posttrain_verl.clusters import slurm
from posttrain_verl.terminal.problem import InputError

WORDS = ["cluster=slurm", "hardware=cpu"]


def lines_of(composed, *words) -> list[str]:
    launch = composed(*WORDS, *words)
    return slurm.sbatch_script(launch, launch.run_dir()).splitlines()


def test_the_options_of_an_allocation(composed, tmp_path):
    lines = lines_of(composed, "trainer.nnodes=2", "trainer.n_gpus_per_node=4", "posttrain.cluster.time=01:00:00",
                     "posttrain.cluster.options=[\"--partition=gpu\"]", "posttrain.cluster.cpus_per_node=64")  # fmt: skip
    options = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
    assert options == ["--job-name=math_sft", "--nodes=2", "--ntasks-per-node=1", "--time=01:00:00",
                       f"--output={tmp_path}/runs/math_sft/it.slurm.txt", "--signal=B:TERM@120", "--cpus-per-task=64",
                       "--partition=gpu"]  # fmt: skip
    assert lines[0] == "#!/bin/bash"
    assert "ray_options=(--num-gpus=4 --num-cpus=72)" in lines


def test_runs_whose_names_differ_after_a_dot_have_files_of_their_own(composed, tmp_path):
    lines = lines_of(composed, "posttrain.run_id=lr0.1")
    assert f"#SBATCH --output={tmp_path}/runs/math_sft/lr0.1.slurm.txt" in lines


def test_gpus_are_asked_for(composed):
    launch = composed("cluster=slurm", "hardware=8xh100")
    assert "#SBATCH --gpus-per-node=8" in slurm.sbatch_script(launch, launch.run_dir())


def test_the_script_is_bash_and_holds_no_token(composed, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "never-write-this")
    text = "\n".join(lines_of(composed, "posttrain.cluster.setup=[module load cuda]"))
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    assert "\nmodule load cuda\n" in text
    assert "never-write-this" not in text and "RAY_AUTH_MODE=token" in text


def test_a_dry_run_prints_the_script_and_writes_nothing(composed, tmp_path, capsys):
    assert clusters.submit_launch(composed(*WORDS), dry_run=True) == 0
    assert capsys.readouterr().out.startswith("#!/bin/bash\n#SBATCH")
    assert not list(tmp_path.iterdir())


def test_without_sbatch_nothing_is_left(composed, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match=r"there is no sbatch on this machine"):
        slurm.submit_launch(composed(*WORDS))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_sbatch_gets_the_script(composed, tmp_path, monkeypatch, told):
    program(tmp_path / "bin/sbatch", 'cp "$2" "$0.seen"; echo "42;cluster"')
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    assert slurm.submit_launch(composed(*WORDS)) == 0
    assert told[0].startswith("Slurm job 42")
    assert (tmp_path / "bin/sbatch.seen").read_text().startswith("#!/bin/bash")


@pytest.mark.parametrize("code", [0, 1])
def test_the_job_ends_as_the_launch_did(tmp_path, composed, code):
    assert run(tmp_path, composed, f"raise SystemExit({code})").wait(timeout=30) == code


def test_the_warning_of_slurm_reaches_the_launch(tmp_path, composed):
    waits = """
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), print("ended well", flush=True), sys.exit(130)))
        print("up", flush=True)
        time.sleep(60)
    """
    job = run(tmp_path, composed, waits)
    output = tmp_path / "output"
    while "up" not in output.read_text():
        assert job.poll() is None
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=30) == 130
    assert "ended well" in output.read_text()


@pytest.mark.parametrize("given", ["64", None])
def test_the_raylets_of_other_nodes_get_the_cpus_of_the_allocation(tmp_path, composed, given):
    """Since Slurm 22.05 srun does not take --cpus-per-task from sbatch."""
    program(tmp_path / "bin/srun", f'printf "%s\\n" "$@" > {tmp_path}/part; mv {tmp_path}/part {tmp_path}/seen')
    program(
        tmp_path / "bin/python",
        'case "$*" in *"-c import socket"*) echo 10.0.0.1;; *"start --head"*) exec sleep 60;;'
        f" *posttrain_verl.launch*) until [ -f {tmp_path}/seen ]; do sleep 0.1; done;; esac",
    )
    program(tmp_path / "bin/scontrol", "echo node1; echo node2")
    words = ("trainer.nnodes=2", f"posttrain.cluster.python={tmp_path}/bin/python")
    (tmp_path / "script").write_text("\n".join(lines_of(composed, *words)))
    environ = {name: value for name, value in os.environ.items() if name != "SLURM_CPUS_PER_TASK"}
    environ |= {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_ID": "7"}
    environ |= {"SLURM_CPUS_PER_TASK": given} if given else {}
    subprocess.run(["bash", str(tmp_path / "script")], env=environ, cwd=tmp_path, timeout=30, check=True)
    seen = (tmp_path / "seen").read_text().splitlines()
    assert [word for word in seen if "cpus" in word and "num" not in word] == (
        [f"--cpus-per-task={given}"] if given else []
    )
    assert "--exclude=node1" in seen and "" not in seen


def run(tmp_path: Path, composed, launch: str) -> subprocess.Popen[bytes]:
    """The script on an allocation of one node, with `launch` as the body of posttrain_verl.launch."""
    package = tmp_path / "stand_in/posttrain_verl"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "launch.py").write_text("if True:\n" + "\n".join("    " + line for line in launch.splitlines()))
    program(tmp_path / "bin/scontrol", "echo node1")
    (tmp_path / "script").write_text("\n".join(lines_of(composed, f"posttrain.cluster.python={sys.executable}")))
    environ = os.environ | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "PYTHONPATH": f"{tmp_path}/stand_in",
                            "SLURM_JOB_NODELIST": "node1", "SLURM_JOB_ID": "7"}  # fmt: skip
    with (tmp_path / "output").open("wb") as output:
        return subprocess.Popen([shutil.which("bash") or "bash", str(tmp_path / "script")], env=environ, stdout=output,
                                stderr=output, cwd=tmp_path)  # fmt: skip


def program(path: Path, body: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
