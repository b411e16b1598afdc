"""What is sent with a job."""

import os
import subprocess
import sys

import pytest

from posttrain_verl.clusters import remote_launch
from posttrain_verl.compose import compose
from posttrain_verl.terminal.problem import InputError

RAY = ["cluster=ray", "address=http://h:1", "hardware=cpu"]


def test_the_code_composes_by_itself(composed, tmp_path):
    place = tmp_path / "parcel"
    place.mkdir()
    remote_launch.pack_working_dir(composed(*RAY), place)
    assert not list(place.rglob("__pycache__")) and not (place / "tests").exists()
    line = [sys.executable, "-m", "posttrain_verl.check", "recipe=math_sft", "base_model=tiny", "hardware=cpu"]
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(line, cwd=place, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    where = [sys.executable, "-c", "import posttrain_verl; print(posttrain_verl.__file__)"]
    assert (place / "hydra_plugins/posttrain_plugins.py").is_file()
    found = subprocess.run(where, cwd=place, env=environ, capture_output=True, text=True, check=True)
    assert found.stdout.startswith(str(place))


def test_a_recipe_of_the_current_folder_goes_along(composed, tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/mine.yaml").write_text("# mine\n")
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "parcel"
    place.mkdir()
    remote_launch.pack_working_dir(composed(*RAY), place)
    assert (place / "recipes/mine.yaml").is_file() and (place / "recipes/math_sft.yaml").is_file()


def test_data_that_is_here_is_sent(composed, tmp_path):
    (tmp_path / "data/embedded").mkdir(parents=True)
    (tmp_path / "data/embedded/sft_train.parquet").write_bytes(b"x" * 1000)
    place = tmp_path / "parcel"
    place.mkdir()
    assert remote_launch.pack_working_dir(composed(*RAY), place)["posttrain.data_dir"] == "files/data"
    assert (place / "files/data/embedded/sft_train.parquet").stat().st_size == 1000


def test_data_that_is_not_here_is_the_clusters(composed, tmp_path):
    assert pack(composed(*RAY), tmp_path)["posttrain.data_dir"] == f"{tmp_path}/data"


def test_data_that_is_nowhere_is_built_on_the_cluster(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    launch = compose([*RAY, "recipe=math_sft", "mix=embedded", "posttrain.cluster.runs_dir=/shared/runs"])
    assert pack(launch, tmp_path)["posttrain.data_dir"] == "/shared/runs/data"


def test_what_is_too_large_must_lie_on_the_cluster(composed, tmp_path):
    (tmp_path / "data/embedded").mkdir(parents=True)
    (tmp_path / "data/embedded/sft_train.parquet").write_bytes(b"x" * 3 * 2**20)
    launch = composed(*RAY, "posttrain.cluster.send_at_most_mib=2")
    with pytest.raises(InputError, match=r"embedded has 3 MiB; at most 2 MiB are sent") as stopped:
        pack(launch, tmp_path)
    assert f"posttrain.cluster.shared=[{tmp_path}/data]" in str(stopped.value)
    shared = composed(*RAY, "posttrain.cluster.send_at_most_mib=2", f"posttrain.cluster.shared=[{tmp_path}/data]")
    assert pack(shared, tmp_path, "two")["posttrain.data_dir"] == f"{tmp_path}/data"


def test_a_model_of_this_machine_is_sent_and_one_of_the_cluster_is_named(composed, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    assert pack(composed(*RAY, f"base_model={tmp_path}/model"), tmp_path)["base_model"] == "files/model"
    assert pack(composed(*RAY, "base_model=/shared/m"), tmp_path, "two")["base_model"] == "/shared/m"
    assert "base_model" not in pack(composed(*RAY, "base_model=qwen2_5_3b_instruct"), tmp_path, "three")


def test_files_that_the_user_names(composed, tmp_path):
    (tmp_path / "rows.parquet").write_bytes(b"x")
    launch = composed(*RAY, f"data.train_files=[{tmp_path}/rows.parquet]", "data.val_files=/shared/val.parquet")
    there = pack(launch, tmp_path)
    assert there["data.train_files"] == "[files/0-0/rows.parquet]"
    assert there["data.val_files"] == "/shared/val.parquet"
    assert there["data.shuffle"] == "true"
    own = [
        f"data.train_files={launch.data_dir}/sft_train.parquet",
        "posttrain.mix.splits.sft_train.stages=[{share: 1}, {share: 2}]",
    ]
    launch.data_dir.mkdir(parents=True, exist_ok=True)
    (launch.data_dir / "sft_train.parquet").write_bytes(b"x")
    assert pack(composed(*RAY, *own), tmp_path, "three")["data.shuffle"] == "false"
    with pytest.raises(InputError, match=r"nowhere.parquet is not here"):
        pack(composed(*RAY, "data.val_files=nowhere.parquet"), tmp_path, "two")


def pack(launch, tmp_path, name="parcel"):
    (tmp_path / name).mkdir()
    return remote_launch.pack_working_dir(launch, tmp_path / name)
