"""Questions that are held out anywhere are not asked: by the name of their file, by what rows say, and by overlap."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import data_prep
from data_prep import schema
from posttrain_verl.synthesize.questions import Questions
from posttrain_verl.terminal.problem import InputError

LONG = "If a train leaves the station at noon and travels sixty miles every hour, how far is it at three o'clock then?"


def test_a_test_split_is_refused_by_its_name(synthesize, sums):
    with pytest.raises(InputError, match="is held out: it is a split test"):
        synthesize(sums(5, "test"), "n=2")
    with pytest.raises(InputError, match="is held out: it is a split rl_val"):
        synthesize(sums(5, "rl_val"), "n=2")


def test_rows_of_a_test_split_are_refused_under_any_name(synthesize, sums):
    with pytest.raises(InputError, match="rows say that they are of the split test"):
        synthesize(sums(5, split="test"), "n=2")


def test_rows_of_a_source_for_evaluation_are_refused(synthesize, sums):
    with pytest.raises(InputError, match="rows are of math_500, which serves evaluation only"):
        synthesize(sums(5, source="math_500"), "n=2")


def test_an_evaluation_is_refused_by_its_name(synthesize, tmp_path):
    with pytest.raises(InputError, match="mix=math_500 is an evaluation set"):
        synthesize("math_500", "n=2")


def write_test_split(folder, questions):
    folder.mkdir(parents=True)
    rows = [{"data_source": "embedded/sums", "ability": "math", "prompt": [{"role": "user", "content": text}],
             "reward_model": {"style": "rule", "ground_truth": "1"}, "extra_info": {"id": text}}
            for text in questions]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema=schema.RL.schema), folder / "test.parquet")


@pytest.mark.parametrize("place", ["eval/own", "other"])
def test_questions_of_an_evaluation_are_not_asked(synthesize, sums, rows, fake, tmp_path, place):
    write_test_split(tmp_path / "data" / place, ["10+20=", "13+23="])
    manifest = synthesize(sums(10), "n=2")
    assert "sum/0" not in {name for _, name, _ in fake()}
    assert [row["id"] for row in rows("rates")] == [f"sum/{n}" for n in (1, 2, 4, 5, 6, 7, 8, 9)]
    assert manifest["questions"]["held_out"] == 2
    name = place if place.startswith("eval") else f"{place}/test"
    assert manifest["overlap"][name]["dropped"] == 2 and manifest["overlap"][name]["left_in"] == 0


def test_most_of_an_evaluation_under_another_name_is_refused(synthesize, sums, tmp_path):
    write_test_split(tmp_path / "data/eval/own", [f"{10 + n}+{20 + n}=" for n in range(6)])
    with pytest.raises(InputError, match=r"6 of 10 questions of .* are held out"):
        synthesize(sums(10), "n=2")


def test_an_answer_that_tells_a_held_out_question_is_not_shown(synthesize, sums, rows, tmp_path):
    write_test_split(tmp_path / "data/eval/own", [LONG])
    file = sums(6)
    synthesize(file, "n=2")
    answers = tmp_path / "data/out/answers.jsonl"
    answers.write_text(answers.read_text().replace("10+20=30\\n####", f"{LONG} 10+20=30\\n####"))
    (tmp_path / "data/out/manifest.json").unlink()
    manifest = synthesize(file, "n=2")
    assert manifest["sources"]["sums"]["drops"]["contaminated"] == 1
    assert "how far is it at three o clock then' with eval/own" in rows("dropped")[0]["detail"]


def test_the_prompt_of_the_mix_is_not_part_of_a_question(tmp_path):
    mix = {"name": "m", "sources": {"s": {"from": "column_sums", "size": 300}},
           "prompts": {"default": {"user": "Q: {question}\nPut the answer within \\boxed{}.", "answer": "boxed"}},
           "splits": {"rl_train": {"rows": 20, "sources": {"s": 1}}}}  # fmt: skip
    data_prep.build(mix, tmp_path / "m")
    asked = Questions.beside_manifest(tmp_path / "m/rl_train.parquet").read(any_source=False)
    assert len(asked) == 20
    assert all(one.messages[0]["content"] == f"Q: {one.text}\nPut the answer within \\boxed{{}}." for one in asked)
    assert {one.source for one in asked} == {"s"}
