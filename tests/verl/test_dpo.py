"""The stage dpo: its arithmetic in pairs, what check says of settings and rows, and which checkpoint is the result of a run."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.schema import PAIRS
from posttrain_verl import base_models
from posttrain_verl.compose import compose
from posttrain_verl.export.weights import result_step
from posttrain_verl.plan.memory import memory_table
from posttrain_verl.preflight import CHECKS, run_checks
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.run.prepare import plan_facts
from posttrain_verl.terminal.problem import blocking
from posttrain_verl.verl import reference
from posttrain_verl.verl.checkpoints import METRICS_VARIABLE, Retention, best_step, write_held_out
from posttrain_verl.verl.dpo import HELD_OUT_PAIRS
from posttrain_verl.verl.stage import stage_named

QUESTION = [{"role": "user", "content": "1+2="}]


def said(text, role="assistant"):
    return [{"role": role, "content": text}]


def pair(number=0, **changes):
    longer, shorter = f"#### {number} and more", f"#### {number + 1}"
    texts = (longer, shorter) if number % 2 else (shorter, longer)
    return {"prompt": QUESTION, "chosen": said(texts[0]), "rejected": said(texts[1])} | changes


def made_run(folder, accuracies):
    """A run with a checkpoint for each step: shards that are whole, and what its validation measured."""
    composed = compose(overrides())
    run = RunFolder.create(folder / "runs/math_dpo/it")
    run.write_config(composed.for_run(run.path))
    run.write_plan(plan_facts(composed, None))
    for step, accuracy in accuracies.items():
        write_held_out(run.checkpoints, step, {"val/accuracy": accuracy})
        for kind in ("model", "optim", "extra_state"):
            with zipfile.ZipFile(run.shards(step) / f"{kind}_world_size_1_rank_0.pt", "w") as archive:
                archive.writestr("data", "weights")
        (run.shards(step) / "fsdp_config.json").write_text('{"world_size": 1}')
    return run


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, with sound pairs."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, [pair(number) for number in range(128)])
    base_models.ensure_model("tiny")
    return tmp_path


def write(folder, rows):
    for name in ("train", "val"):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")


def overrides(*more, recipe="math_dpo", hardware="8xh100"):
    return [f"recipe={recipe}", "base_model=tiny", f"hardware={hardware}", "data.train_files=train.parquet",
            "data.val_files=val.parquet", "posttrain.run_id=it", *more]  # fmt: skip


def findings(*more, hardware="8xh100"):
    return run_checks(compose(overrides(*more, hardware=hardware))).problems


def whats(*more, hardware="8xh100"):
    return [problem.what for problem in findings(*more, hardware=hardware)]


@pytest.mark.parametrize("hardware", ["8xh100", "cpu"])
def test_every_check_looks_and_sound_pairs_pass(hardware):
    report = run_checks(compose(overrides("trainer.total_training_steps=1", hardware=hardware)))
    assert {verdict.check for verdict in report.verdicts} == CHECKS.keys()
    assert not blocking(report.problems)
    passed = {verdict.check for verdict in report.verdicts if verdict.verdict == "passed"}
    assert {"keys", "values", "data", "tokenizer", "lengths", "batch", "engine", "schedule"} <= passed


def test_a_step_is_counted_in_pairs():
    composed = compose(overrides("data.use_dynamic_bsz=false", "data.micro_batch_size_per_gpu=4"))
    batch = composed.settings.batch()
    assert (batch.prompts, batch.sequences, batch.effective) == (128, 256, 256)
    assert (batch.held, batch.accumulation) == (8, 4), "16 pairs a GPU in micro batches of 4"
    assert composed.settings.describe_step() == "128 pairs = 256 sequences a step"
    assert plan_facts(composed, None)["arithmetic"]["effective_batch"] == 256
    dynamic = compose(overrides("data.max_token_len_per_gpu=7000")).settings.batch()
    assert (dynamic.held, dynamic.accumulation) == (2, 16), "three sequences of 2048 fit, and so one pair"


def test_the_batch_must_divide_in_pairs():
    assert "data.train_batch_size=12 does not divide by 8 data-parallel GPUs" in whats("data.train_batch_size=12")
    wrong = whats("data.use_dynamic_bsz=false", "data.micro_batch_size_per_gpu=3")
    assert "data.micro_batch_size_per_gpu=3 does not divide 16 pairs a GPU" in wrong
    assert (
        "data.max_token_len_per_gpu=4000 is less than 2 sequences that stay together (data.max_length=2048)"
        in whats("data.max_token_len_per_gpu=4000")
    )


def test_a_pair_needs_the_memory_of_two_sequences():
    def peak(recipe, *more):
        composed = compose([f"recipe={recipe}", "base_model=qwen2_5_7b_instruct", "hardware=8xh100",
                            "data.use_dynamic_bsz=false", "data.max_length=2048", *more])  # fmt: skip
        shape = base_models.shape.known_shape(composed.model, composed.posttrain.base_model)
        return memory_table(composed.settings.job(shape, composed.posttrain.hardware)).peak

    assert peak("math_dpo", "data.micro_batch_size_per_gpu=2") == peak("math_sft", "data.micro_batch_size_per_gpu=4")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("preference.betta=1", "preference.betta is no"),
        ("preference.beta=much", "preference.beta=much is no"),
        ("preference.loss=hinge", "preference.loss=hinge is not a loss"),
        ("preference.beta=0", "preference.beta=0: every pair would be the same"),
        ("preference.beta=0.1", "preference.beta=0.1 is far from what runs with preference.loss=sigmoid_norm"),
        ("preference.beta=-1", "preference.beta=-1: the rejected answers would be preferred"),
        ("preference.beta=nan", "preference.beta=nan: not a finite number"),
        ("preference.nll_weight=inf", "preference.nll_weight=inf: not a finite number"),
        ("preference.target_margin=-1", "preference.target_margin=-1 is SimPO's"),
        ("trainer.save_freq=7", "trainer.save_freq=7 with trainer.test_freq=50: checkpoints without a validation"),
        ("data.val_files=train.parquet", "train.parquet is validated on, and trained on, too"),
        ("optim.lr=0.9", "optim.lr=0.9 is far from what models of any size learn at"),
        ("preference.label_smoothing=0.5", "preference.label_smoothing=0.5 is not a share"),
        ("preference.target_margin=1", "preference.target_margin=1 is SimPO's"),
        ("preference.nll_weight=-1", "preference.nll_weight=-1 unlearns"),
        ("data.custom_cls.path=mine.py", "data.custom_cls.path is not read"),
    ],
)
def test_settings_that_are_wrong(override, said):
    assert any(what.startswith(said) for what in whats(override)), whats(override)


@pytest.mark.parametrize(
    ("given", "usual"),
    [(["optim.lr=2e-5"], "between 1e-07 and 1e-06"), (["optim.lr=1e-4", "model.lora_rank=8"], "between 1e-06 and 1e-05"),
     (["optim.lr=5e-7"], ""), (["optim.lr=5e-6", "model.lora_rank=8"], "")],
)  # fmt: skip
def test_learning_rates_are_those_of_published_runs(given, usual):
    named = [f"base_model={name}" for name in ("qwen2_5_7b_instruct",)]
    found = [problem.remedy for problem in findings(*named, *given) if "optim.lr" in problem.what]
    assert [remedy for remedy in found if usual and usual in remedy] or not (usual or found)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"rejected": said("#### 1"), "chosen": said("#### 1")}, "chosen and rejected are the same in 1 of 128"),
        ({"chosen": [*QUESTION, *said("#### 3")]}, "chosen is not one turn of the assistant in 1 of 128"),
        ({"rejected": said("#### 3", role="user")}, "rejected is not one turn of the assistant in 1 of 128"),
        ({"prompt": [*QUESTION, *said("3")]}, "prompt ends with a turn of the assistant in 1 of 128"),
        ({"chosen": None}, "chosen is null in 1 of 128"),
        ({"rejected": said("9" * 3000)}, "0.8% of 128 rows of data.train_files are longer than data.max_length=2048"),
    ],
)  # fmt: skip
def test_rows_that_are_wrong(folder, row, said):
    write(folder, [*(pair(number) for number in range(127)), pair(127, **row)])
    found = whats("data.truncation=error")
    assert any(what.startswith(said) for what in found), found


def test_pairs_of_synthesize_pass(folder):
    """Its files have more columns, which VeRL's data set carries along."""
    more = {
        "data_source": "embedded/chain_sum",
        "ability": "math",
        "extra_info": {"split": PAIRS.training_split, "id": "1#0-1"},
    }
    for name in ("train", "val"):
        rows = [pair(number, **more) for number in range(128)]
        pq.write_table(pa.Table.from_pylist(rows, PAIRS.schema), folder / f"{name}.parquet", store_schema=False)
    assert not blocking(findings())


def test_a_missing_column_is_named(folder):
    write(
        folder, [{name: value for name, value in pair(number).items() if name != "rejected"} for number in range(128)]
    )
    assert any("has no column rejected; it has prompt, chosen" in what for what in whats())


def test_columns_of_other_names_or_forms_are_all_said_with_the_page_of_pairs(folder):
    write(folder, [{"messages": QUESTION, "win": "3", "lose": "4"}] * 128)
    problems = [problem for problem in findings() if "has no column" in problem.what]
    assert "has no column prompt, chosen, rejected; it has messages, win, lose" in problems[0].what
    assert "data.rejected_key" in problems[0].remedy
    write(folder, [pair(number) | {"prompt": "1+2="} for number in range(128)])
    assert any('training needs a list of turns, such as [{"role": "user"' in what for what in whats())


def test_a_table_that_is_no_parquet_is_for_a_mix(folder):
    (folder / "pairs.csv").write_text("prompt,chosen,rejected\n1+2=,3,4\n")
    (problem,) = [each for each in findings("data.train_files=pairs.csv") if "pairs.csv is not a readable" in each.what]
    assert "a mix reads such files" in problem.remedy


def test_few_held_out_pairs_decide_little(folder):
    assert not [what for what in whats() if "decide which checkpoint" in what]
    pq.write_table(pq.read_table(folder / "val.parquet").slice(0, 5), folder / "val.parquet")
    assert [what for what in whats() if what.startswith("5 held-out pairs decide which checkpoint is the result")]


def test_random_weights_are_no_beginning():
    assert any("base_model=tiny has random weights" in what for what in whats())


def test_a_reference_is_that_of_the_weights_that_a_run_began_at(tmp_path):
    digests = {"model.safetensors": "a", "config.json": "b"}
    for found in (digests, digests, digests | {"config.json": "of another version of transformers"}):
        reference.require_same_model(tmp_path, found)
    with pytest.raises(RuntimeError, match="not those that this run began at"):
        reference.require_same_model(tmp_path, digests | {"model.safetensors": "c"})


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_reference_that_is_not_finite_is_measured_again(tmp_path, broken):
    whole = np.zeros((3, 2), dtype=np.float32)
    reference.write_reference([tmp_path], "key", whole)
    assert reference.read_reference([tmp_path], "key", 3) is not None
    whole[1, 1] = broken
    reference.write_reference([tmp_path], "key", whole)
    assert reference.read_reference([tmp_path], "key", 3) is None


def test_what_a_model_wrote_must_be_looked_at(folder):
    manifest = {"files": {f"{name}.parquet": {"bytes": (folder / f"{name}.parquet").stat().st_size, "sha256": ""}
                          for name in ("train", "val")}, "overlap": {}, "teacher": {}}  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert any("nobody has approved" in what for what in whats("mix=embedded"))
    (folder / "manifest.json").write_text(json.dumps(manifest | {"inspected": {"by": "me"}}))
    assert not any("nobody has approved" in what for what in whats("mix=embedded"))


def test_pairs_that_length_tells_apart(folder):
    write(folder, [pair(number, chosen=said("a long answer")) for number in range(128)])
    assert not [what for what in whats() if "is longer than rejected" in what], "half of the pairs"
    write(folder, [pair(number, chosen=said("an answer that is longer than any other")) for number in range(128)])
    found = [problem for problem in findings() if "chosen is longer than rejected in all 128" in problem.what]
    assert [problem.level for problem in found] == ["warning"] * 2, "of the training file and of the other"


def test_answers_may_be_plain_texts(folder):
    rows = [pair(number) for number in range(128)]
    texts = [row | {side: row[side][0]["content"] for side in ("chosen", "rejected")} for row in rows]
    write(folder, texts)
    assert not blocking(findings())
    write(folder, [*texts[:-1], texts[-1] | {"rejected": texts[-1]["chosen"]}])
    assert any("chosen and rejected are the same in 1 of 128" in what for what in whats())
    write(folder, [*texts[:-1], texts[-1] | {"rejected": None}])
    assert any(what.startswith("rejected is null in 1 of 128") for what in whats())


def test_an_answer_that_holds_the_end_of_a_turn(folder):
    ending = json.loads((base_models.ensure_model("tiny") / "tokenizer_config.json").read_text())["eos_token"]
    write(folder, [*(pair(number) for number in range(127)), pair(127, rejected=said(f"3{ending}4"))])
    assert any(what.startswith("answers in 1 of 128 rows of data.train_files hold") for what in whats())


def test_a_template_that_does_not_end_the_rejected_answer(folder):
    turn = '{{ m.role[0] }}:{{ m.content }}{% if m.content != "4" %}{{ eos_token }}{% endif %}'
    template = "{% for m in messages %}" + turn + "{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
    write(folder, [*(pair(number) for number in range(120)), *(pair(9, rejected=said("4")) for _ in range(8))])
    found = whats(f"model.custom_chat_template='{template}'")
    assert any("does not end the answer in" in what for what in found), found


@pytest.mark.parametrize(
    ("accuracies", "step"), [({10: 0.6, 20: 0.9, 30: 0.8}, 20), ({10: 0.9, 20: 0.9}, 20), ({10: None, 20: None}, 20)]
)
def test_export_and_evaluate_take_the_best_checkpoint(folder, accuracies, step):
    run = made_run(folder, accuracies)
    assert result_step(run) == result_step(run, from_shards=True) == step
    (run.shards(step) / "model_world_size_1_rank_0.pt").write_bytes(b"cut short")
    assert result_step(run) != step


def test_the_best_checkpoint_is_the_result_and_stays(folder, monkeypatch):
    home = folder / "run/checkpoints"
    monkeypatch.setenv(METRICS_VARIABLE, str(home.parent / "metrics.jsonl"))
    config = compose(overrides("trainer.max_ckpt_to_keep=1")).for_run(home.parent)
    kept = Retention(config, stage_named("dpo"))
    for step, accuracy in ((10, 0.6), (20, 0.8), (30, 0.7), (40, 0.7)):
        write_held_out(home, step, {"val/accuracy": accuracy, "val/loss": 1 - accuracy})
        kept.after_save(step)
    assert sorted(path.name for path in home.iterdir()) == ["global_step_20", "global_step_40"]
    assert best_step(home, HELD_OUT_PAIRS, [20, 40]) == 20
    assert best_step(home, None, [20, 40]) is None
    write_held_out(home, 40, {"val/accuracy": 0.8})
    assert best_step(home, HELD_OUT_PAIRS, [20, 40]) == 40, "of equal ones the last"
    (home / "global_step_40/held_out.json").write_text(json.dumps({"val/accuracy": None}))
    assert best_step(home, HELD_OUT_PAIRS, [20, 40]) == 20
