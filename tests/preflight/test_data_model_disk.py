"""Files that a launch reads and writes: Parquet, model folder, disk, run folder, schedule."""

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from posttrain_verl import paths, preflight
from posttrain_verl.compose import compose
from posttrain_verl.preflight import capacity, data, model, services, training
from posttrain_verl.terminal.problem import InputError, blocking
from posttrain_verl.verl.composed import Composed

CPU = ("hardware=cpu", "base_model=tiny")
CHAT = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
RL_SCHEMA = pa.schema(
    [
        ("data_source", pa.string()),
        ("prompt", CHAT),
        ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
    ]
)
SFT_SCHEMA = pa.schema([("messages", CHAT)])


QUESTION = {"role": "user", "content": "2 + 3?"}
SOUND = {
    "data_source": "embedded/chain_sum",
    "prompt": [QUESTION],
    "reward_model": {"style": "rule", "ground_truth": "5"},
    "messages": [QUESTION, {"role": "assistant", "content": "#### 5"}],
}


def write(path: Path, schema: pa.Schema, rows: int) -> None:
    """Rows that are sound where the schema is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    row = {name: SOUND.get(name) if schema.field(name).type != pa.string() else "embedded/x" for name in schema.names}
    pq.write_table(pa.Table.from_pylist([row] * rows, schema=schema), path)


def launch(tmp_path: Path, *words: str, recipe: str = "math_sft", mix: str = "embedded") -> Composed:
    folders = [f"posttrain.data_dir={tmp_path}/data", f"posttrain.runs_dir={tmp_path}/runs"]
    return compose([f"recipe={recipe}", *CPU, f"mix={mix}", *folders, *words])


@pytest.fixture
def sft(tmp_path) -> Path:
    """The data folder of an SFT launch of the mix `embedded`, sound: 320 rows are 40 steps in two epochs."""
    folder = tmp_path / "data/embedded"
    write(folder / "sft_train.parquet", SFT_SCHEMA, 320)
    write(folder / "sft_val.parquet", SFT_SCHEMA, 32)
    return folder


def whats(problems) -> str:
    return "\n".join(f"{problem.what}\n{problem.remedy}" for problem in problems)


def test_sound_data(tmp_path, sft):
    assert blocking(preflight.find_problems(launch(tmp_path))) == []


def test_every_problem_of_a_mix_that_the_launch_changes(tmp_path):
    """Also where the config does not have VeRL's form, and without keys that the mix's file does not mention."""
    wrong = {
        "sede": "3",
        "splits.rl_train.rows": "-1",
        "splits.rl_val.sources.smus": "1",
        "sources.sums.size": "0",
        "filters.broken_latx": "false",
        "limit": "5",
    }
    right = ["posttrain.mix.filters.false_step=false", "posttrain.mix.budget=100"]
    keys = [f"posttrain.mix.{key}={value}" for key, value in wrong.items()]
    composed = launch(tmp_path, *right, *keys, "trainer.total_epochs.x=1", recipe="demo_grpo")
    found = [each.what for each in preflight.find_problems(composed) if "posttrain.mix" in each.what]
    assert sorted(each.partition(":")[0] for each in found) == sorted(f"posttrain.mix.{key}" for key in wrong)
    assert data.check_mix(launch(tmp_path, *right)) == []


def test_data_of_an_offline_mix_is_launchs_to_build(tmp_path):
    assert data.check_data(launch(tmp_path)) == []


def test_missing_data_names_the_command_that_builds_it(tmp_path):
    text = whats(data.check_data(launch(tmp_path, mix="math")))
    assert f"{tmp_path}/data/math/sft_train.parquet is missing" in text
    assert "python -m posttrain_verl.prep mix=math" in text and "mix=embedded" in text


def test_a_file_of_the_users_own_that_is_missing(tmp_path, sft):
    text = whats(data.check_data(launch(tmp_path, "data.train_files=[nowhere.parquet]")))
    assert "nowhere.parquet is missing" in text and "give the path" in text


def test_no_parquet(tmp_path, sft):
    (sft / "sft_train.parquet").write_text("not parquet")
    assert "sft_train.parquet is not a readable Parquet file" in whats(data.check_data(launch(tmp_path)))


def test_parquet_without_the_columns(tmp_path, sft):
    write(sft / "sft_train.parquet", pa.schema([("text", pa.string())]), 64)
    assert "has no column messages; it has text" in whats(data.check_data(launch(tmp_path)))


def test_every_missing_column_is_named(tmp_path):
    for name in ("rl_train", "rl_val"):
        write(tmp_path / f"data/embedded/{name}.parquet", pa.schema([("prompt", pa.string())]), 64)
    text = whats(data.check_data(launch(tmp_path, recipe="math_grpo")))
    assert "has a column prompt of type string; training needs a list of turns" in text
    assert "has no column data_source, reward_model" in text
    assert "rl_val.parquet" in text


def test_sound_rl_data(tmp_path):
    for name in ("rl_train", "rl_val"):
        write(tmp_path / f"data/embedded/{name}.parquet", RL_SCHEMA, 64)
    assert blocking(preflight.find_problems(launch(tmp_path, recipe="math_grpo"))) == []


def test_an_empty_set(tmp_path, sft):
    write(sft / "sft_val.parquet", SFT_SCHEMA, 0)
    assert "sft_val.parquet has no rows" in whats(data.check_data(launch(tmp_path)))


def test_fewer_rows_than_a_batch(tmp_path, sft):
    write(sft / "sft_val.parquet", SFT_SCHEMA, 15)
    text = whats(data.check_data(launch(tmp_path, "data.train_max_samples=10")))
    assert "data.train_files has 10 rows, fewer than data.train_batch_size=16" in text
    assert "val_files" not in text, "VeRL gets it filled up to whole batches"
    assert data.check_data(launch(tmp_path)) == []


STAGES = ("easy", "easy", "hard", "hard")


@pytest.mark.parametrize(
    ("stages", "is_curriculum"),
    [(STAGES, True), (("easy", "hard") * 2, False), (("easy",) * 4, False), ((None,) * 4, False), (None, False)],
)
def test_a_curriculum_that_would_be_shuffled(tmp_path, sft, stages, is_curriculum):
    """As the rows say themselves: their file was written by another mix, or stands elsewhere."""
    rows = [SOUND | ({} if stages is None else {"extra_info": {"stage": stage}}) for stage in stages or STAGES]
    schema = SFT_SCHEMA.append(pa.field("extra_info", pa.struct([("stage", pa.string())])))
    file = tmp_path / "own.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=SFT_SCHEMA if stages is None else schema), file)
    found = data.check_order(launch(tmp_path, f"data.train_files={file}"))
    assert bool(blocking(found)) == is_curriculum
    if found:
        assert f"{file} is a curriculum, and data.shuffle=true would mix its stages" in whats(found)
        assert found[0].remedy.startswith("data.shuffle=false ")
    assert data.check_order(launch(tmp_path, f"data.train_files={file}", "data.shuffle=false")) == []


TWO = "[{share: 1, difficulty: [0, 0]}, {share: 1, difficulty: [1, 9]}]"
OF_ONE = "[{share: 1}, {share: 0}]"


@pytest.mark.parametrize("recipe", ["math_sft", "math_grpo"])
@pytest.mark.parametrize(
    ("stages", "words", "shuffles", "refused"),
    [
        (TWO, (), False, False),
        (TWO, ("data.shuffle=true",), True, True),
        (TWO, ("data.shuffle=null",), False, False),
        (TWO, ("data.train_files=/own/rl_train.parquet",), True, False),
        (OF_ONE, (), True, False),
        ("null", (), True, False),
        ("soon", (), True, False),  # the check of the mix says so
    ],
)
def test_the_mix_decides_the_order_before_it_is_built(tmp_path, recipe, stages, words, shuffles, refused):
    split = "sft_train" if recipe == "math_sft" else "rl_train"
    composed = launch(tmp_path, f"posttrain.mix.splits.{split}.stages={stages}", *words, recipe=recipe)
    assert composed.settings.shuffles == composed.verl.data.shuffle == shuffles
    assert bool(data.check_order(composed)) == refused


def test_a_recipe_that_shuffles_a_curriculum_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    library = paths.recipes_dir() / "math_grpo.yaml"
    text = library.read_text().replace("data: {", "data: {shuffle: true, ")
    (tmp_path / "recipes/own.yaml").write_text(text)
    assert data.check_order(compose(["recipe=math_grpo", "hardware=8xh100"])) == []
    assert "is a curriculum" in whats(data.check_order(compose(["recipe=own", "hardware=8xh100"])))


def test_steps_that_the_data_does_not_have(tmp_path, sft):
    text = whats(training.check_schedule(launch(tmp_path, "trainer.total_training_steps=41")))
    assert "trainer.total_training_steps=41, but the data ends after 40 steps (2 epochs of 20)" in text
    assert "trainer.total_epochs=3" in text
    assert training.check_schedule(launch(tmp_path, "trainer.total_training_steps=40")) == []


def test_frequencies(tmp_path, sft):
    text = whats(training.check_schedule(launch(tmp_path, "trainer.save_freq=0", "data.val_files=null")))
    assert "trainer.save_freq=0: VeRL's SFT trainer divides by it" in text
    assert "trainer.test_freq=16, but data.val_files is null" in text


def test_resume_path(tmp_path, sft):
    assert "trainer.resume_from_path=None" in whats(
        training.check_schedule(launch(tmp_path, "trainer.resume_mode=resume_path"))
    )


def model_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    header = json.dumps({"__metadata__": {}, "w": {"dtype": "F32", "shape": [1000, 3000], "data_offsets": [0, 0]}})
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode())
    return folder


def test_a_model_folder(tmp_path):
    folder = model_folder(tmp_path)
    assert model.check_folder(folder) == []
    assert model.count_parameters(folder) == 3_000_000


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_weights_that_were_cut_short_are_found_by_their_header(tmp_path, name):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in ("config.json", "tokenizer.json"):
        (folder / file).write_text("{}")
    weights = {"w": torch.ones(1000)}
    save_file(weights, folder / name) if name.endswith("safetensors") else torch.save(weights, folder / name)
    assert model.check_folder(folder) == []
    whole = (folder / name).read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 4000\n"
    for broken in (whole[:-10], whole[:5], b"", pointer):
        if not broken and name.endswith("bin"):
            continue  # an empty file of the old format is nothing that can be judged
        (folder / name).write_bytes(broken)
        assert f"{name} cut short, or a pointer of Git LFS" in whats(model.check_folder(folder))
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    (folder / "model.safetensors").unlink(missing_ok=True)
    assert model.check_folder(folder) == []


def test_a_model_folder_without_weights(tmp_path, sft):
    folder = model_folder(tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / "tokenizer.json").unlink()
    text = whats(model.check_model(launch(tmp_path, f"base_model={folder}")))
    assert f"model folder {folder} has no weights" in text and "no tokenizer" in text


def test_the_folder_beside_the_shards_of_a_checkpoint_is_told_apart(tmp_path, sft):
    folder = model_folder(tmp_path)
    (folder / "model.safetensors").unlink()
    (folder.parent / "fsdp_config.json").write_text("{}")
    (problem,) = model.check_model(launch(tmp_path, f"base_model={folder}"))
    assert "posttrain_verl.export run=NAME step=N" in problem.remedy


def test_a_shard_that_is_missing(tmp_path):
    folder = model_folder(tmp_path)
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "no model-2.safetensors, which its index lists" in whats(model.check_folder(folder))


def test_a_model_folder_that_is_not_there(tmp_path, sft):
    text = whats(model.check_model(launch(tmp_path, "base_model=/no/such/tinny")))
    assert "model folder /no/such/tinny does not exist" in text and "did you mean base_model=tiny?" in text


MATRIX = 3_000_000  # parameters of the folder's safetensors


def test_disk(tmp_path, sft, monkeypatch):
    words = (f"base_model={model_folder(tmp_path)}", "trainer.save_freq=4")
    composed = launch(tmp_path, *words)
    # fp32 weights and two moments; saved at steps 4, 8, 12 and 16, two kept (max_ckpt_to_keep=2) and one being written
    assert capacity.count_needed_bytes(composed) == capacity.REST_BYTES + 3 * MATRIX * 12
    one = "36 MB: weights 12 MB + optimizer 24 MB"
    assert f"108 MB for checkpoints (2 kept + 1 being written of {one})" in capacity.describe_disk(composed)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(0, 0, capacity.REST_BYTES))
    text = whats(capacity.check_disk(composed))
    assert "has 1 GB free, and the run needs about 1.11 GB" in text and "trainer.max_ckpt_to_keep=1" in text
    # VeRL deletes the oldest before it writes, so the third is there after a resume alone
    for room, level in ((2 * MATRIX * 12, "warning"), (2 * MATRIX * 12 - 1, "problem")):
        monkeypatch.setattr(shutil, "disk_usage", lambda place, free=capacity.REST_BYTES + room: usage(0, 0, free))
        assert [problem.level for problem in capacity.check_disk(composed)] == [level]


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
@pytest.mark.parametrize(("rest", "said"), [(capacity.REST_BYTES, 0), (capacity.REST_BYTES - 1, 1)])
def test_checkpoints_on_another_disk_share_it_with_nothing(tmp_path, sft, monkeypatch, rest, said):
    words = (
        f"base_model={model_folder(tmp_path)}",
        "trainer.save_freq=4",
        "trainer.default_local_dir=/dev/shm/checkpoints",
    )
    composed = launch(tmp_path, *words)
    usage = namedtuple("usage", "total used free")
    rooms = {True: 3 * MATRIX * 12, False: rest}
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(0, 0, rooms[Path(place).is_relative_to("/dev/shm")]))
    found = capacity.check_disk(composed)
    assert len(found) == said and all("posttrain.runs_dir" in problem.remedy for problem in found)


@pytest.mark.parametrize(
    ("words", "checkpoints"),
    [
        (("trainer.save_freq=8",), 2 * 12),  # saved twice
        (("trainer.save_freq=-1",), 12),  # SFT saves at the end
        (("trainer.save_freq=after_each_epoch", "trainer.total_epochs=1"), 12),
        (("trainer.save_freq=4", "trainer.max_ckpt_to_keep=1"), 2 * 12),  # the new one is written first
        (("trainer.save_freq=4", "trainer.max_ckpt_to_keep=null"), 4 * 12),
        (("trainer.save_freq=8", "checkpoint.save_contents=[model,optimizer,extra,hf_model]"), 2 * 16),
        (("trainer.save_freq=8", "checkpoint.save_contents=[model]"), 2 * 4),
        (("trainer.save_freq=8", "engine.model_dtype=bf16"), 2 * 6),
        (("trainer.save_freq=8", "trainer.n_gpus_per_node=4", "engine.fsdp_size=2"), 2 * 24),  # HSDP: two replicas
    ],
)
def test_disk_by_what_is_saved(tmp_path, sft, words, checkpoints):
    composed = launch(tmp_path, f"base_model={model_folder(tmp_path)}", *words)
    assert capacity.count_needed_bytes(composed) == capacity.REST_BYTES + checkpoints * MATRIX


def test_disk_of_a_critic_and_of_a_model_that_is_not_here(tmp_path):
    words = ["hardware=cpu", "base_model=qwen2_5_0_5b_instruct", "trainer.save_freq=8", "trainer.total_training_steps=80",
             "trainer.max_actor_ckpt_to_keep=1",
             f"posttrain.data_dir={tmp_path}", f"posttrain.runs_dir={tmp_path}"]  # fmt: skip
    actor = 494_032_768 * 12  # parameters of its config.json
    critic = actor + 896 * 12  # the embedding is shared with the output layer, so only the value head is added
    assert capacity.count_needed_bytes(compose(["recipe=math_grpo", *words])) == capacity.REST_BYTES + 2 * actor
    assert (
        capacity.count_needed_bytes(compose(["recipe=math_ppo", *words]))
        == capacity.REST_BYTES + 2 * actor + 3 * critic
    )
    assert "saves no checkpoint" in capacity.describe_disk(
        compose(["recipe=math_grpo", *words, "trainer.save_freq=-1"])
    )


def test_one_checkpoint_of_rl_is_warned_of_and_never_the_remedy(tmp_path, monkeypatch):
    words = ["recipe=math_grpo", "hardware=cpu", f"posttrain.runs_dir={tmp_path}", f"posttrain.data_dir={tmp_path}"]
    one = compose([*words, "trainer.max_actor_ckpt_to_keep=1"])
    (warned,) = [problem for problem in training.check_schedule(one) if "ckpt_to_keep" in problem.what]
    assert warned.level == "warning" and "trainer.max_actor_ckpt_to_keep=2" in warned.remedy
    assert "ckpt_to_keep" not in whats(training.check_schedule(compose(words)))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(0, 0, 0))
    assert "keep fewer" not in whats(capacity.check_disk(compose(words)))
    every = compose([*words, "trainer.max_actor_ckpt_to_keep=null"])
    assert "keep fewer checkpoints: trainer.max_actor_ckpt_to_keep=2" in whats(capacity.check_disk(every))


def test_a_critic_has_no_output_layer():
    composed = compose(["recipe=math_ppo", "hardware=8xh100", "base_model=qwen2_5_7b_instruct"])
    actor, critic = capacity.list_checkpoint_parts(composed)
    assert actor.bytes - critic.bytes == 12 * (152_064 * 3584 - 3584)


def test_disk_of_lora(tmp_path):
    whole, alone = (compose(["recipe=math_sft_lora", "hardware=1x80gb", *words])
                    for words in ((), ("+checkpoint.save_lora_only=true",)))  # fmt: skip
    adapter = capacity.known_shape(whole.model, whole.posttrain.base_model).lora_parameters(32)
    assert capacity.list_checkpoint_parts(whole)[0].bytes == 4 * (7_615_616_512 + adapter) + 8 * adapter
    assert capacity.list_checkpoint_parts(alone)[0].bytes == 12 * adapter


@pytest.mark.parametrize(("words", "most"), [
    (("recipe=math_grpo", "hardware=8xh100"), 300), (("recipe=math_dapo", "hardware=8x8xh100"), 300),
    (("recipe=code_grpo", "hardware=8xh100"), 300), (("recipe=math_sft", "hardware=8xh100"), 300),
    (("recipe=math_grpo", "hardware=8xh100", "base_model=llama3_1_8b_instruct"), 300),
    (("recipe=math_grpo_32b", "hardware=8x8xh100"), 1200)])  # fmt: skip
def test_what_a_run_needs_by_default(words, most):
    assert capacity.count_needed_bytes(compose(list(words))) < most * 10**9


def test_a_run_folder_is_used_once(tmp_path, sft):
    composed = launch(tmp_path, "posttrain.run_id=one")
    assert services.check_run_folder(composed) == []
    composed.run_dir().mkdir(parents=True)
    assert f"{tmp_path}/runs/math_sft/one exists already" in whats(services.check_run_folder(composed))


def test_a_run_folder_that_cannot_be_made(tmp_path, sft, monkeypatch):
    monkeypatch.setattr(services.os, "access", lambda path, mode: path != tmp_path)
    assert f"{tmp_path} cannot be written" in whats(services.check_run_folder(launch(tmp_path)))


def test_all_problems_at_once(tmp_path, sft):
    words = ("optim.lrr=1", "base_model=/no/model", "data.train_batch_size=9", "trainer.save_freq=0")
    with pytest.raises(InputError) as error:
        composed = launch(tmp_path, *words)
        preflight.raise_if_blocked(preflight.find_problems(composed), composed)
    text = str(error.value)
    assert text.startswith("recipe 'math_sft' cannot launch (4 problems):")
    for part in ("optim.lrr", "/no/model", "trainer.save_freq=0", "does not divide 9 rows"):
        assert part in text
