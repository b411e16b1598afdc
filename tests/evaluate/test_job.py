"""What is evaluated: a name, a folder or a run, and a set by its name or file."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from posttrain_verl import paths
from posttrain_verl.base_models import naming
from posttrain_verl.evaluate import grading, job
from posttrain_verl.evaluate.result import Answer
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.problem import InputError
from posttrain_verl.verbs import Evaluate
from reward_fns.code.problem import read_problem


def read(*words):
    return job.read_job(command_line.read(Evaluate, words))


@pytest.mark.parametrize(
    ("config", "part", "label"),
    [({"model": {}}, "huggingface", "sft"),
     ({"actor_rollout_ref": {}, "algorithm": {"adv_estimator": "grpo"}}, "actor/huggingface", "grpo"),
     ({"actor_rollout_ref": {}, "algorithm": {"adv_estimator": "gae"}}, "actor/huggingface", "ppo")],
)  # fmt: skip
def test_a_run_is_its_newest_folder_under_the_name_of_its_method(tmp_path, sums, config, part, label):
    run = RunFolder.create(tmp_path / "runs" / "recipe" / "7")
    run.write_config(OmegaConf.create(config))
    run.write_plan({"stage": "rl" if "algorithm" in config else "sft"})
    for step in (9, 10):
        folder = run.checkpoints / f"global_step_{step}" / part
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
        (folder / "config.json").write_text("{}")
        (folder / "chat_template.jinja").write_text("x")
    found = read("run=recipe/7", f"eval={sums(3)}", f"posttrain.runs_dir={tmp_path}/runs")
    assert found.model == str(run.checkpoints / "global_step_10" / part)
    assert found.label == label
    assert found.out == run.path / "eval" / f"{label}-sums-test.json"


def test_a_run_without_weights_is_told(tmp_path, sums):
    RunFolder.create(tmp_path / "r" / "1").write_config(OmegaConf.create({}))
    with pytest.raises(InputError, match=r"holds no checkpoint(.|\n)*trainer.save_freq"):
        read("run=r/1", f"eval={sums(3)}", f"posttrain.runs_dir={tmp_path}")


def test_a_name_of_conf_is_the_hubs_and_a_wrong_one_is_told(sums, monkeypatch):
    monkeypatch.setattr(naming, "_config_file", lambda _: "config.json")
    assert read("base_model=qwen2_5_0_5b_instruct", f"eval={sums(3)}").model == "Qwen/Qwen2.5-0.5B-Instruct"
    with pytest.raises(InputError, match="did you mean qwen2_5_0_5b_instruct"):
        read("base_model=qwen2_5_0_5b_instrct", f"eval={sums(3)}")
    with pytest.raises(InputError, match="one of base_model= and run= is needed"):
        read(f"eval={sums(3)}")


def test_a_model_without_a_chat_template_needs_one(model, sums, tmp_path):
    (model / "chat_template.jinja").unlink()
    words = [f"base_model={model}", f"eval={sums(3)}"]
    with pytest.raises(InputError, match=r"no chat template(.|\n)*chat_template=FILE"):
        read(*words)
    (tmp_path / "t.jinja").write_text("T")
    assert read(*words, f"chat_template={tmp_path}/t.jinja").chat_template == "T"


def test_words_win_over_the_sets_defaults(model, tmp_path):
    words = [f"base_model={model}", "eval=humaneval", f"posttrain.data_dir={tmp_path}"]
    assert read(*words).sampling == {"temperature": 0.0, "top_p": 1.0, "k": 1, "max_tokens": 1024, "seed": 0}
    chosen = read(*words, "k=5", "temperature=0.8", "max_tokens=7", "label=mine", "rows=9", "seconds=3")
    assert chosen.sampling == {"temperature": 0.8, "top_p": 1.0, "k": 5, "max_tokens": 7, "seed": 0}
    assert (chosen.label, chosen.rows, chosen.seconds) == ("mine", 9, 3.0)


@pytest.mark.parametrize("name", paths.names("eval"))
def test_every_set_of_conf_can_be_built(name, tmp_path):
    """Those of the hub are built from a file of one row; a mix that is made here is built as it is."""
    config = job.load_eval_config(paths.find_option("eval", name), {})
    if "mix" in config:
        assert len(job.read_questions(job.choose_eval_set(name, tmp_path).file)) >= 200
        return
    mix = job.as_mix(config)
    from data_prep.mix import parse

    parsed = parse(mix)
    assert parsed.held_out() == (name,), "the set is read whole and never filtered"
    assert set(config["sampling"]) <= set(job.SAMPLING)


def test_a_set_is_built_from_local_rows_once(tmp_path, told):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "1 and 1?", "answer": "so <<1+1=2>>2\\n#### 2"}\n' * 2)
    for _ in range(2):
        found = job.choose_eval_set("gsm8k", tmp_path / "data", {"path": str(rows)})
    assert (
        sum(line.startswith("building") for line in told) == 1
        and found.file == tmp_path / "data" / "eval" / "gsm8k" / "test.parquet"
    )
    one, two = job.read_questions(found.file)
    assert (one.gold, {one.id, two.id}) == ("2", {"gsm8k/0", "gsm8k/1"}), "a set is kept whole, twins and all"
    assert one.text.startswith("1 and 1?\n") and "\\boxed{}" in one.text


# The first lines of a row of HumanEval+ as EvalPlus writes it.
HUMANEVAL_PLUS = {
    "task_id": "HumanEval/0", "prompt": "def half(x: float) -> float:\n    \"\"\"Half of x.\"\"\"\n", "entry_point": "half",
    "canonical_solution": "    return x / 2\n",
    "test": "import numpy as np\n\ndef assertion(out, exp, atol):\n    if out != exp:\n"
            "        np.testing.assert_allclose(out, exp, atol=atol)\n\n"
            "def check(candidate):\n    for inp, exp in zip([[1], [4]], [0.5, 2.0]):\n"
            "        assertion(candidate(*inp), exp, 1e-6)\n",
}  # fmt: skip


def test_humaneval_plus_is_built_from_a_file_and_graded_with_numpy(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps(HUMANEVAL_PLUS) + "\n")
    found = job.choose_eval_set("humaneval_plus", tmp_path / "data", {"path": str(tmp_path / "rows.jsonl")})
    (question,) = job.read_questions(found.file)
    assert question.id == "humaneval_plus/HumanEval/0" and question.text.startswith(HUMANEVAL_PLUS["prompt"])

    def verdict(body):
        text = f"```python\n{HUMANEVAL_PLUS['prompt']}{body}\n```"
        item = grading.grade_answer(question, None, Answer(question.id, 0, text, 9, False))
        return item["acc"], item["error"]

    assert verdict(HUMANEVAL_PLUS["canonical_solution"]) == (1, None)
    assert verdict("    return 0.5 * x + 1e-9") == (1, None)
    assert verdict("    return x // 2") == (0, "logic")


def test_a_hub_that_cannot_be_reached_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"eval=svamp cannot be built(.|\n)*add path=FILE"):
        job.choose_eval_set("svamp", tmp_path)


def test_wrong_sets_are_told(tmp_path, sums):
    with pytest.raises(InputError, match=r"did you mean gsm8k(.|\n)*FILE\.parquet"):
        job.choose_eval_set("gsm9k", tmp_path)
    with pytest.raises(InputError, match="is not a file"):
        job.choose_eval_set(f"{tmp_path}/none.parquet", tmp_path)
    pq.write_table(pa.table({"prompt": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="no column data_source, reward_model"):
        job.read_questions(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"no")
    with pytest.raises(InputError, match="not a readable Parquet"):
        job.read_questions(tmp_path / "b.parquet")


def test_rows_of_others_need_no_id_but_a_reward_and_no_twins(tmp_path):
    row = {"prompt": [{"role": "user", "content": "1+1="}], "data_source": "openai/gsm8k",
           "reward_model": {"ground_truth": "2"}}  # fmt: skip
    pq.write_table(pa.Table.from_pylist([row, row]), tmp_path / "plain.parquet")
    assert [each.id for each in job.read_questions(tmp_path / "plain.parquet")] == ["0", "1"]
    rows = [{**row, "data_source": "my/own", "extra_info": {"id": "x"}}] * 2
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "own.parquet")
    with pytest.raises(InputError, match=r"1 rows share their extra_info.id(.|\n)*data_source 'my/own' has no reward"):
        job.read_questions(tmp_path / "own.parquet")


def as_rows(**changed):
    row = {"prompt": [{"role": "user", "content": "1+1="}], "data_source": "openai/gsm8k",
           "reward_model": {"ground_truth": "2"}}  # fmt: skip
    return [row, {**row, **changed}, {**row, **changed}]


BLANK = [{"role": "user", "content": " "}]


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"reward_model": {"ground_truth": None}}, "ground_truth is null"),
        ({"reward_model": None}, "ground_truth is null"),
        ({"reward_model": {"ground_truth": " "}}, "ground_truth is empty"),
        ({"prompt": None}, "prompt is null"),
        ({"prompt": []}, "prompt has no turn"),
        ({"prompt": [{"role": "user", "content": None}]}, "prompt has a turn whose content is null"),
        ({"prompt": BLANK}, "prompt asks nothing"),
        ({"data_source": None}, "data_source is null"),
    ],
)
def test_rows_that_cannot_be_asked_or_graded_are_named(tmp_path, changed, fault):
    pq.write_table(pa.Table.from_pylist(as_rows(**changed)), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=rf"{fault}.* in 2 of 3 rows: 1, 2 \(counted from 0\)"):
        job.read_questions(tmp_path / "a.parquet")


def test_a_gold_that_is_a_list_is_refused_where_answers_are_compared_with_one_text(tmp_path):
    lists = {"reward_model": {"ground_truth": ["2"]}}
    pq.write_table(pa.Table.from_pylist(as_rows(**lists)[1:]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="ground_truth is list, not a text or a number in 2 of 2 rows"):
        job.read_questions(tmp_path / "a.parquet")
    tests = {"reward_model": {"ground_truth": ["assert f(1) == 2"]}, "data_source": "mbpp"}
    pq.write_table(pa.Table.from_pylist(as_rows(**tests)[1:2]), tmp_path / "code.parquet")
    (question,) = job.read_questions(tmp_path / "code.parquet")
    assert read_problem(question.gold).cases == ("assert f(1) == 2",)


def test_the_set_is_looked_up_before_a_model_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(naming.cache, "ensure_model", lambda _: pytest.fail("a model was built"))
    with pytest.raises(InputError, match="eval=gsm9k is not a set"):
        read("base_model=tiny", "eval=gsm9k")


def test_on_data_of_ones_own_a_run_answers_as_long_as_it_trained_and_with_its_template(tmp_path, sums):
    run = RunFolder.create(tmp_path / "runs" / "recipe" / "7")
    config = {"data": {"max_response_length": 77}, "algorithm": {"adv_estimator": "grpo"},
              "actor_rollout_ref": {"model": {"custom_chat_template": "{{ messages }} mine"}}}  # fmt: skip
    run.write_config(OmegaConf.create(config))
    run.write_plan({"stage": "rl"})
    folder = run.checkpoints / "global_step_9" / "actor/huggingface"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    where = ["run=recipe/7", f"eval={sums(3)}", f"posttrain.runs_dir={tmp_path}/runs"]
    assert (read(*where).sampling["max_tokens"], read(*where).chat_template) == (77, "{{ messages }} mine")
    assert read(*where, "max_tokens=5").sampling["max_tokens"] == 5


def test_the_test_split_of_a_mix_is_named_where_it_may_be_meant(tmp_path):
    (tmp_path / "remainders").mkdir()
    (tmp_path / "remainders/test.parquet").touch()
    for name in ("remainders", "test.parquet"):
        with pytest.raises(InputError) as missing:
            job.choose_eval_set(name, tmp_path)
        assert missing.value.problems[0].remedy.startswith(f"did you mean eval={tmp_path}/remainders/test.parquet? ")
    with pytest.raises(InputError) as missing:
        job.choose_eval_set("nothing", tmp_path)
    assert "test.parquet" not in missing.value.problems[0].remedy
