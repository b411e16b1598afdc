"""What stands in the data and in the model's tokenizer: template, stops, lengths, golds, manifest."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf
from tokenizers import Tokenizer, models, pre_tokenizers

from data_prep.manifest import config_digest, file_sha256
from posttrain_verl.compose import compose
from posttrain_verl.preflight import data, rewards, tokenizer
from posttrain_verl.preflight.report import CannotTell
from posttrain_verl.verl.composed import Composed
from reward_fns.code.sandbox import SandboxUnavailable

TEMPLATE = """{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>
' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QUESTION = {"role": "user", "content": "12+34="}
RL_ROW = {"data_source": "embedded/x", "prompt": [QUESTION], "reward_model": {"style": "rule", "ground_truth": "46"}}
SFT_ROW = {"messages": [QUESTION, {"role": "assistant", "content": "#### 46"}]}


@pytest.fixture
def model(tmp_path) -> Path:
    """A folder with a byte-level tokenizer and template, and no weights worth the name."""
    folder = tmp_path / "model"
    folder.mkdir()
    alphabet = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens(SPECIAL)
    made.save(str(folder / "tokenizer.json"))
    write_json(folder / "config.json", {"vocab_size": 259, "num_attention_heads": 2})
    write_json(folder / "tokenizer_config.json", {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"})
    write_json(folder / "generation_config.json", {"eos_token_id": 258})
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    return folder


def write_json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value))


def write(folder: Path, name: str, row: dict, rows: int = 64) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([row] * rows), folder / f"{name}.parquet")


@pytest.fixture
def launch(tmp_path, model):
    """`launch(stage, key=value)` on sound data and that model; `__` stands for a dot."""
    for name, row in (("rl_train", RL_ROW), ("rl_val", RL_ROW), ("sft_train", SFT_ROW), ("sft_val", SFT_ROW)):
        write(tmp_path / "data/embedded", name, row)

    def composed(stage: str, posttrain: dict | None = None, **changes: object) -> Composed:
        recipe = "math_sft" if stage == "sft" else "math_grpo"
        one = compose([f"recipe={recipe}", "hardware=cpu", "mix=embedded", f"base_model={model}",
                       f"posttrain.data_dir={tmp_path}/data"])  # fmt: skip
        config = one.verl.copy()
        for key, value in changes.items():
            OmegaConf.update(config, key.replace("__", "."), value, force_add=True)
        return replace(one, verl=config, posttrain=OmegaConf.merge(one.posttrain, posttrain or {}))

    return composed


def whats(problems) -> str:
    return "\n".join(f"{problem.level}: {problem.what}" for problem in problems)


@pytest.mark.parametrize("stage", ["rl", "sft"])
def test_sound(launch, stage):
    one = launch(stage)
    assert [*tokenizer.check_tokenizer(one), *tokenizer.check_lengths(one), *rewards.check_rewards(one)] == []


def test_what_is_wrong_with_a_tokenizer(launch, model):
    write_json(model / "tokenizer_config.json", {"eos_token": "</s>", "pad_token": "[PAD]"})
    write_json(model / "config.json", {"vocab_size": 200})
    text = whats(tokenizer.check_tokenizer(launch("rl")))
    assert "eos_token '</s>'" in text and "pad_token '[PAD]'" in text and "ids up to 258" in text


def test_a_turn_that_does_not_end_where_generation_stops(launch, model):
    write_json(model / "tokenizer_config.json", {"eos_token": "<|endoftext|>"})
    write_json(model / "generation_config.json", {"eos_token_id": 256})
    assert "problem: a turn of the chat template ends with '<|im_end|>'" in whats(
        tokenizer.check_tokenizer(launch("sft"))
    )
    assert "warning: a turn of the chat template" in whats(tokenizer.check_tokenizer(launch("rl")))
    write_json(model / "generation_config.json", {"eos_token_id": [256, 258]})
    assert tokenizer.check_tokenizer(launch("sft")) == []


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no system, please') }}", "cannot render the data: no system, please"),
        ("{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}", "does not begin an answer"),
        ("{% for m in messages %}{{ m.content }<|im_end|>", "cannot render the data"),
    ],
)
def test_templates(launch, model, template, message):
    (model / "chat_template.jinja").write_text(template)
    assert message in whats(tokenizer.check_tokenizer(launch("rl")))


def test_a_template_whose_turns_do_not_add_up(launch, model):
    (model / "chat_template.jinja").write_text(TEMPLATE.replace("{% for", "{{ messages | length }}{% for", 1))
    assert "renders turns alone differently than together" in whats(tokenizer.check_tokenizer(launch("sft")))
    assert tokenizer.check_tokenizer(launch("sft", data__ignore_input_ids_mismatch=True)) == []


def test_a_template_that_wants_turns_to_alternate(launch, model):
    """VeRL's SFT renders turns alone, and two questions in a row when it starts."""
    alternates = "(m['role'] == 'user') == (loop.index0 % 2 == 0)"
    refuse = "{{ raise_exception('must alternate') }}"
    strict = "{% for m in messages %}{% if not (" + alternates + ") %}" + refuse + "{% endif %}"
    (model / "chat_template.jinja").write_text(TEMPLATE.replace("{% for m in messages %}", strict))
    assert (
        "problem: the chat template" in (said := whats(tokenizer.check_tokenizer(launch("sft"))))
        and "must alternate" in said
    )
    assert tokenizer.check_tokenizer(launch("rl")) == []


def test_no_template_and_no_tokenizer(launch, model):
    (model / "chat_template.jinja").unlink()
    assert "has no chat template" in whats(tokenizer.check_tokenizer(launch("rl")))
    (model / "tokenizer.json").unlink()
    with pytest.raises(CannotTell, match="has no tokenizer"):
        tokenizer.check_tokenizer(launch("rl"))


def test_lengths(launch, tmp_path):
    assert "problem: 100.0% of 64 rows of data.train_files are longer than data.max_length=8" in whats(
        tokenizer.check_lengths(launch("sft", data__max_length=8))
    )
    cut = whats(tokenizer.check_lengths(launch("rl", data__max_prompt_length=8)))
    assert "nothing would be left" in cut
    rows = [RL_ROW] * 9 + [RL_ROW | {"prompt": [{**QUESTION, "content": "9" * 300}]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data/embedded/rl_train.parquet")
    assert "warning: 10.0% of 10 rows" in whats(tokenizer.check_lengths(launch("rl")))
    assert "problem: 10.0% of 10 rows" in whats(
        tokenizer.check_lengths(launch("rl", data__filter_overlong_prompts=False))
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"reward_model": {"style": "rule", "ground_truth": ""}},
            "empty golds: all 64 golds of data_source 'embedded/x'",
        ),
        (
            {"reward_model": {"style": "rule", "ground_truth": "He adds 20 and 3. #### 23"}},
            "take what follows its ####",
        ),
        ({"data_source": "nobody/knows"}, "no grader is registered for it"),
        ({"data_source": "mbpp"}, "golds of"),
    ],
)
def test_golds_and_sources(launch, tmp_path, row, message):
    write(tmp_path / "data/embedded", "rl_train", RL_ROW | row)
    assert message in whats(rewards.check_rewards(launch("rl")))


@pytest.mark.parametrize(
    ("options", "said"),
    [({}, True), ({"sandbox_url": "http://localhost:1"}, False), ({"packages": ["torch"]}, True)],
)
def test_programs_that_cannot_be_isolated_here(launch, tmp_path, monkeypatch, options, said):
    def unavailable(packages):
        raise SandboxUnavailable("there is no filter of system calls")

    tests = {"style": "rule", "ground_truth": '{"test_list": ["assert f(1) == 1"]}'}
    write(tmp_path / "data/embedded", "rl_train", RL_ROW | {"data_source": "mbpp", "reward_model": tests})
    monkeypatch.setattr(rewards, "isolation_here", unavailable)
    problems = list(rewards.check_rewards(launch("rl", reward__custom_reward_function__reward_kwargs=options)))
    assert ["programs cannot be run" in problem.what for problem in problems] == [True] * said
    if said:
        assert ("torch" if options else "no filter of system calls") in problems[0].remedy


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward__custom_reward_function__path": "nowhere.py"}, "path=nowhere.py does not exist"),
        ({"reward__custom_reward_function__path": "pkg://no.such.module"}, "path=pkg://no.such.module does not exist"),
        ({"reward__custom_reward_function__name": "score"}, "defines no such function"),
        ({"reward__reward_kwargs": {"mode": "strict"}}, "reward_kwargs.mode is not read by the reward manager naive"),
        ({"reward__custom_reward_function__reward_kwargs": {"modus": 1}}, "no reward has the options ['modus']"),
        ({"reward__reward_manager__name": "dapo", "reward__reward_kwargs": {"overlong_buffer_cfg": {"enable": True, "len": 9}}},
         "len=9 does not lie in 1..max_resp_len=None"),
    ],
)  # fmt: skip
def test_rewards(launch, changes, message):
    assert message in whats(rewards.check_rewards(launch("rl", **changes)))


@pytest.fixture
def with_manifest(tmp_path, launch):
    """Write a manifest beside the data, with some of its entries changed."""

    def make(**changes: object) -> None:
        folder = tmp_path / "data/embedded"
        files = {
            file.name: {"bytes": file.stat().st_size, "sha256": file_sha256(file)} for file in folder.glob("*.parquet")
        }
        mix = {"sources": {"gsm8k_test": {"from": "gsm8k", "split": "test"}}}
        found = {"rows_by_overlap": {"8 words": 4, "13 words": 2}, "dropped": 2}
        digest = config_digest(OmegaConf.to_container(launch("sft").posttrain.mix))
        plain = {
            "files": files,
            "overlap": {"gsm8k_test": found},
            "inspected": [],
            "mix": mix,
            "mix_sha256": digest,
        }
        write_json(folder / "manifest.json", plain | changes)

    return make


def test_the_manifest(launch, with_manifest, tmp_path):
    assert "nobody knows what this data is" in whats(data.check_manifest(launch("sft")))
    with_manifest(mix={"seed": 5}, mix_sha256="")
    (other,) = data.check_manifest(launch("sft"))
    assert other.level == "warning" and "another version of the mix embedded: seed=5, no " in other.what
    with_manifest()
    assert data.check_manifest(launch("sft")) == []
    assert "problem: nobody has approved" in whats(data.check_manifest(launch("sft", {"require_inspected": True})))
    with_manifest(inspected=[{"who": "me"}])
    assert data.check_manifest(launch("sft", {"require_inspected": True})) == []


def test_changed_data(launch, with_manifest, tmp_path):
    with_manifest()
    file = tmp_path / "data/embedded/sft_train.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    later = file.stat().st_mtime + 10
    os.utime(file, (later, later))
    assert "sft_train.parquet is not the file that its manifest describes" in whats(data.check_manifest(launch("sft")))


def test_evaluations(launch, with_manifest, monkeypatch):
    with_manifest()
    assert data.check_manifest(launch("sft", {"evals": ["math_500"]})) == [], (
        "the embedded mix stands for no other data"
    )
    monkeypatch.setattr(data, "is_offline", lambda composed: False)
    assert "names gsm9k, and there is no such evaluation" in whats(
        data.check_manifest(launch("sft", {"evals": ["gsm9k"]}))
    )
    assert "searched" not in whats(data.check_manifest(launch("sft", {"evals": ["gsm8k", "embedded"]})))
    assert "was not searched for items of the evaluation math_500" in whats(
        data.check_manifest(launch("sft", {"evals": ["math_500"]}))
    )
    with_manifest(overlap={"gsm8k_test": {"rows_by_overlap": {"13 words": 5}, "dropped": 0}})
    assert "warning: 5 training rows" in whats(data.check_manifest(launch("sft", {"evals": ["gsm8k"]})))
