"""What a job of a Ray cluster gets of this shell, and that no secret is printed or stored."""

import pytest

from posttrain_verl import clusters
from posttrain_verl.clusters import remote_launch
from posttrain_verl.run import environment

TABLE = [
    ("NCCL_DEBUG", "INFO", ""),
    ("NCCL_SOCKET_IFNAME", "=eth0", ""),
    ("CUDA_DEVICE_MAX_CONNECTIONS", "1", ""),
    ("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True", ""),
    ("UCX_NET_DEVICES", "mlx5_0:1", ""),
    ("FLASHINFER_DISABLE_VERSION_CHECK", "1", ""),
    ("GLOO_SOCKET_IFNAME", "eth0", ""),
    ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1", ""),
    ("VLLM_ATTENTION_BACKEND", "FLASH_ATTN", ""),
    ("HF_ENDPOINT", "https://hub.example", ""),
    ("NCCL_TOPO_FILE", "/shared/topo.xml", ""),  # below posttrain.cluster.shared
    ("NCCL_CONF_FILE", "/home/me/nccl.conf", "a path of this machine"),
    ("CUDA_HOME", "/usr/local/cuda-12.4", "a path of this machine"),
    ("HF_HOME", "~/hf", "a path of this machine"),
    ("CUDA_VISIBLE_DEVICES", "0", "of this machine"),
    ("VLLM_HOST_IP", "192.168.1.7", "of this machine"),
    ("HF_HUB_OFFLINE", "1", "of this machine"),
    ("HF_TOKEN", "hf_never-print-this", "a secret"),
    ("VLLM_API_KEY", "never-print-this", "a secret"),
    ("NCCL_KEYWORD", "1", ""),  # a word that begins like a key
]


@pytest.fixture
def job(composed):
    return composed("cluster=ray", "hardware=cpu", "address=http://h:1", "posttrain.cluster.shared=[/shared]")


@pytest.mark.parametrize(("name", "value", "reason"), TABLE)
def test_a_setting_is_sent_or_kept_with_a_reason(job, name, value, reason):
    shell = remote_launch.shell_variables(job, {name: value, "PATH": "/bin", "EDITOR": "vi"})
    assert shell.sent == ({} if reason else {name: value})
    assert shell.kept == ({name: reason} if reason else {})


def test_what_the_user_names_is_sent_whatever_it_is(composed):
    named = composed("cluster=ray", "hardware=cpu", "posttrain.cluster.forward=[HF_TOKEN,CUDA_HOME,EDITOR]")
    given = {"HF_TOKEN": "t", "CUDA_HOME": "/cuda", "EDITOR": "vi", "WANDB_API_KEY": "k"}
    shell = remote_launch.shell_variables(named, given)
    assert shell.sent == {"HF_TOKEN": "t", "CUDA_HOME": "/cuda", "EDITOR": "vi"} and shell.kept == {}


def test_names_are_said_and_no_value(job):
    shell = remote_launch.shell_variables(job, {name: value for name, value, _ in TABLE})
    said = "\n".join(shell.lines())
    assert "the job gets CUDA_DEVICE_MAX_CONNECTIONS" in said and "HF_TOKEN (a secret)" in said
    assert not [value for _, value, _ in TABLE if len(value) > 5 and value in said]


def test_they_reach_the_job_and_no_file_holds_them(submitted, head, tmp_path):
    given = head.submitted["runtime_env"]["env_vars"]
    assert given["NCCL_DEBUG"] == "INFO" and "HF_TOKEN" not in given and "CUDA_HOME" not in given
    assert "the job gets NCCL_DEBUG" in submitted and "never-print" not in submitted
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert files and not [file for file in files if b"never-print" in file.read_bytes()]


@pytest.fixture
def submitted(composed, head, tmp_path, monkeypatch, told) -> str:
    """What the launch of a job prints."""
    for name, value in (("NCCL_DEBUG", "INFO"), ("HF_TOKEN", "hf_never-print-this"), ("CUDA_HOME", "/usr/local/cuda")):
        monkeypatch.setenv(name, value)
    words = ["cluster=ray", "address=http://h:1", "hardware=cpu", f"posttrain.cluster.runs_dir={tmp_path}/there",
             "posttrain.detach=true"]  # fmt: skip
    assert clusters.submit_launch(composed(*words)) == 0
    return "\n".join(told)


def test_every_worker_gets_them_and_its_own_devices(monkeypatch):
    """On the cluster the driver hands them on: its workers may be on other nodes."""
    for name, value in (("NCCL_IB_HCA", "mlx5"), ("CUDA_VISIBLE_DEVICES", "0,1"), ("VLLM_HOST_IP", "10.0.0.1")):
        monkeypatch.setenv(name, value)
    given = environment.forwarded_variables()
    assert given["NCCL_IB_HCA"] == "mlx5" and not {"CUDA_VISIBLE_DEVICES", "VLLM_HOST_IP", "PATH"} & set(given)


def test_the_shell_is_looked_at_when_a_job_is_submitted(job, monkeypatch):
    """`datasets` puts another object in the place of os.environ."""
    monkeypatch.setattr("os.environ", {"NCCL_DEBUG": "INFO"})
    assert remote_launch.shell_variables(job).sent == {"NCCL_DEBUG": "INFO"}
