"""`prep`, `inspect`, `grade` and `evaluate` under an own reward, and what a run keeps of it."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from posttrain_verl import grade, inspect, own_reward, prep
from posttrain_verl.compose import compose
from posttrain_verl.evaluate import comparison, job, sampling
from posttrain_verl.evaluate.grading import compute_metrics, grade_by_reward, is_right
from posttrain_verl.evaluate.job import Question
from posttrain_verl.evaluate.result import Answer, headline
from posttrain_verl.preflight import data
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.command_line import read
from posttrain_verl.terminal.problem import InputError
from posttrain_verl.verbs import Evaluate, Grade, Inspect, Prep
from reward_fns.own import OwnReward

MIX = {
    "name": "mine", "seed": 1,
    "sources": {"own": {"from": "columns", "path": "rows.jsonl", "columns": {"question": "q", "answer": "a"},
                        "data_source": "my/subtraction"}},
    "prompts": {"default": {"user": "{question}", "answer": "hashes"}},
    "splits": {"rl_val": {"rows": 10, "sources": {"own": 1}}, "rl_train": {"rows": 30, "sources": {"own": 1}}},
}  # fmt: skip
WORD = "reward=my_reward.py:score"


@pytest.fixture
def mix(questions):
    file = questions.with_name("mine.yaml")
    file.write_text(yaml.safe_dump(MIX))
    return f"mix={file}"


def run(verb, declared, *arguments):
    return command_line.main(declared, verb.run, arguments)


def test_prep_takes_any_source_under_an_own_reward(mix, here, capsys):
    assert run(prep, Prep, mix) == 2
    assert "or add reward=FILE.py:NAME" in capsys.readouterr().err
    assert run(prep, Prep, mix, WORD, "reward_kwargs.partial=0.2") == 0
    manifest = json.loads((here / "data/mine/manifest.json").read_text())
    assert manifest["files"]["rl_train.parquet"]["rows"] == 30 and manifest["sources"]["own"]["drops"] == {}
    assert manifest["reward"]["name"] == "my_reward.py:score" and manifest["reward"]["arguments"] == {"partial": 0.2}
    assert run(prep, Prep, mix, "--verify") == 0


def test_another_reward_is_another_build(mix, here, capsys):
    for word, again in ((WORD, False), (WORD, True), ("reward=other.py:score", False)):
        shutil.copyfile("my_reward.py", "other.py")
        assert run(prep, Prep, mix, word) == 0
        assert ("holds a finished build" in capsys.readouterr().err) == again


def test_changed_rows_are_built_again_and_check_says_so(mix, here, questions, capsys):
    assert run(prep, Prep, mix, WORD) == 0
    questions.write_text("\n".join(questions.read_text().splitlines()[:50]))
    mix_file = mix.removeprefix("mix=")
    composed = compose(["recipe=math_grpo", "hardware=cpu", "base_model=tiny", f"mix={mix_file}", WORD])
    said = [each.what for each in data.check_manifest(composed)]
    assert f"rows.jsonl changed since {here}/data/mine was built" in said
    capsys.readouterr()
    assert run(prep, Prep, mix, WORD) == 0
    assert "rows.jsonl changed since data/mine was built: building again" in capsys.readouterr().err
    assert json.loads((here / "data/mine/manifest.json").read_text())["sources"]["own"]["rows_in"] == 50


def test_golds_that_the_reward_cannot_grade_are_dropped_with_its_reason(mix, here, reward_file):
    file = reward_file("return 1 / (int(ground_truth) % 2)")
    assert run(prep, Prep, mix, f"reward={file}") == 2, "half of the rows are too few"
    assert run(prep, Prep, mix, f"reward={file}", "splits.rl_train.rows=20") == 0
    drops = json.loads((here / "data/mine/manifest.json").read_text())["sources"]["own"]["drops"]
    assert drops == {"unreadable_gold": 30}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ValueError(f'no {ground_truth}')", "your reward failed on every gold of own: ValueError: no 80"),
        ("return float(int(ground_truth) / 0)", "your reward failed on every gold of own: ZeroDivisionError"),
        ("return 0.0 if solution_str[5:] in ('', ground_truth) else abs(int(solution_str[5:]) - ground_truth)",
         "your reward failed on a wrong answer: TypeError: unsupported operand"),
    ],
)  # fmt: skip
def test_a_reward_that_fails_is_the_one_problem(mix, here, reward_file, capsys, body, said):
    file = reward_file(body)
    assert run(prep, Prep, mix, f"reward={file}") == 2
    shown = capsys.readouterr().err
    assert said in shown and "(other_reward.py, line 2), called with solution_str='#### " in shown
    assert "ground_truth='" in shown and "(1 problem)" in shown
    assert "unreadable_gold" not in shown and "unused" not in shown


def test_a_service_out_of_reach_says_nothing_of_wrong_answers(mix, reward_file):
    body = "if solution_str[5:] not in ('', ground_truth): raise ConnectionError\n    return float(bool(solution_str))"
    assert run(prep, Prep, mix, f"reward={reward_file(body)}") == 0


def test_golds_that_earn_nothing_are_counted_and_kept(mix, here, reward_file, capsys):
    assert run(prep, Prep, mix, f"reward={reward_file('return -len(solution_str)')}") == 0
    assert (
        "all 60 golds score no more than an empty answer under other_reward.py:compute_score" in capsys.readouterr().err
    )
    assert json.loads((here / "data/mine/manifest.json").read_text())["sources"]["own"]["drops"] == {}


def test_a_reward_that_cannot_be_called_is_refused_before_a_row_is_read(mix, capsys):
    assert run(prep, Prep, mix, "reward=my_reward.py:scor") == 2
    assert "has no function scor; it defines score" in capsys.readouterr().err
    assert run(prep, Prep, mix, "reward=nowhere.py") == 2
    assert "nowhere.py is not a file" in capsys.readouterr().err


def test_inspect_shows_the_reward_of_the_gold(mix, capsys):
    assert run(prep, Prep, mix, WORD) == 0
    capsys.readouterr()
    assert run(inspect, Inspect, mix, WORD, "rows=1", "posttrain.out=page.html") == 0
    assert "reward of the gold 1" in capsys.readouterr().out
    assert run(inspect, Inspect, mix, "rows=1", "posttrain.out=page.html") == 0
    assert "reward of the gold" not in capsys.readouterr().out


def rows_of(file: Path, **fields: str) -> Path:
    rows = [{"data_source": "my/x", "response": text, "ground_truth": "4"} for text in ("#### 4", "5", "")]
    named = [{fields.get(key, key): value for key, value in row.items()} for row in rows]
    file.write_text("".join(json.dumps(row) + "\n" for row in named))
    return file


def test_grade(here, capsys):
    file = rows_of(here / "answers.jsonl")
    assert run(grade, Grade, str(file)) == 2, "no grader of ours is for it"
    assert run(grade, Grade, str(file), WORD, "reward_kwargs.partial=0.25", "--json", "posttrain.out=out.jsonl") == 0
    assert json.loads(capsys.readouterr().out)["sources"] == {"my/x": {"rows": 3, "score": 1.25}}
    assert [json.loads(line)["score"] for line in Path("out.jsonl").read_text().splitlines()] == [1.0, 0.25, 0.0]


def test_grade_sums_what_the_reward_returns_and_names_what_fails(here, reward_file, capsys):
    file = rows_of(here / "answers.jsonl")
    body = "return {'score': 1 / len(solution_str), 'length': len(solution_str), 'pred': solution_str}"
    assert run(grade, Grade, str(file), f"reward={reward_file(body)}", "--json") == 1
    said = json.loads(capsys.readouterr().out)
    assert said["sources"] == {"my/x": {"rows": 2, "score": 1 / 6 + 1, "length": 7}}
    assert "ZeroDivisionError: division by zero (other_reward.py, line 2)" in said["ungraded"][0]["reason"]
    ours = rows_of(here / "ours.jsonl")
    ours.write_text(ours.read_text().replace("my/x", "gsm8k"))
    assert run(grade, Grade, str(ours), "reward_kwargs.mode=strict", "--json") == 0, (
        "which is mode=strict of our graders"
    )
    assert json.loads(capsys.readouterr().out)["sources"]["gsm8k"]["acc"] == 1
    assert run(grade, Grade, str(file), WORD, "mode=strict") == 2
    assert "'mode=strict' is an option of our graders" in capsys.readouterr().err


@pytest.fixture
def folder(rows, here):
    """The folder of a run that was trained on `rows` under my_reward.py:score."""
    file = rows()
    composed = compose(["recipe=math_grpo", "hardware=cpu", "base_model=tiny", f"data.train_files={file}", WORD,
                        f"data.val_files={file}"])  # fmt: skip
    made = RunFolder.create(here / "runs/math_grpo/1")
    made.write_config(composed.for_run(made.path))
    made.write_plan({"recipe": "math_grpo", "stage": "rl", "overrides": composed.overrides})
    own_reward.keep_in_run(own_reward.of_settings(composed.settings), made.path)
    return made


def test_after_a_failure_the_reward_of_a_run_is_corrected_by_naming_the_file(folder, here):
    def remedy(reward):
        with pytest.raises(InputError) as failed:
            sampling.grade_answers([(None, None)], lambda *_: reward.grade("s", "5", None), reward)
        return failed.value.problems[0].remedy

    def kept():
        return own_reward.kept_by_run(own_reward.of_settings(folder.read_settings()), folder.path)

    file = here / "my_reward.py"
    file.write_text(file.read_text().replace("found[-1] == ground_truth", "ground_truth.x"))
    bad = OwnReward(str(file), "score")
    assert remedy(bad) == "correct the reward; the same command grades the answers that are there"
    own_reward.keep_in_run(bad, folder.path)
    assert "add reward=FILE.py:score to grade by the corrected file" in remedy(kept()), (
        "a correction makes the copy grade"
    )
    file.write_text(file.read_text() + "# corrected")
    assert f"{folder.path}/reward/my_reward.py:score grades, as it was when the run was" in remedy(kept())


def test_a_run_keeps_its_reward_as_it_was(folder, here):
    def kept():
        return own_reward.kept_by_run(own_reward.of_settings(folder.read_settings()), folder.path)

    file = here / "my_reward.py"
    assert kept().path == str(file), "which may read files beside it"
    file.write_text(file.read_text().replace("0.1", "0.5"))
    assert kept().path == str(folder.path / "reward/my_reward.py")
    assert kept().grade("s", "5", "4")["score"] == 0.1
    file.unlink()
    assert kept().path == str(folder.path / "reward/my_reward.py")


def test_a_resumed_run_is_graded_as_it_began(folder, here):
    settings = folder.read_settings()
    assert own_reward.hold_reward(settings, settings.tree.copy(), folder.path) == ""
    (here / "my_reward.py").write_text("")
    before = settings.tree.copy()
    assert "is not what it was when the run was launched" in own_reward.hold_reward(settings, before, folder.path)
    assert settings.reward.reward_path == str(folder.path / "reward/my_reward.py")
    named = folder.stage.settings(before.copy())
    named.put("reward_path", str(here / "new.py"))
    assert own_reward.hold_reward(named, before, folder.path) == "", "what the resume names anew is meant"


def test_rollouts_of_a_run_are_graded_by_its_reward(folder, capsys):
    (folder.path / "rollouts").mkdir()
    file = rows_of(folder.path / "rollouts/5.jsonl", response="output", ground_truth="gts")
    file.write_text("".join(json.dumps({k: v for k, v in json.loads(row).items() if k != "data_source"}) + "\n"
                            for row in file.read_text().splitlines()))  # fmt: skip
    assert run(grade, Grade, str(file), "--json") == 0
    assert json.loads(capsys.readouterr().out)["sources"] == {
        "my/subtraction": {"rows": 3, "score": pytest.approx(1.1)}
    }


QUESTION = Question("q", [{"role": "user", "content": "2+2="}], "my/x", "4", {})


def answered(text: str, reward: OwnReward, name: str = "q"):
    question = Question(name, QUESTION.messages, "my/x", "4", {}, "4")
    return grade_by_reward(reward, question, None, Answer(name, 0, text, 3, False))


def test_a_reward_without_acc_has_no_accuracy(here):
    reward = OwnReward(str(here / "my_reward.py"), "score")
    items = [answered(text, reward, name) for name, text in (("a", "#### 4"), ("b", "5"), ("c", ""))]
    assert [item["score"] for item in items] == [1.0, 0.1, 0.0] and not any("acc" in item for item in items)
    metrics = compute_metrics(items, 1, by_reward=True)
    assert metrics.keys() == {"reward", "truncated"}
    assert metrics["reward"]["value"] == pytest.approx(1.1 / 3)
    assert (is_right({"score": 1.0}), is_right({"score": 1.0}, right_at=1.0), is_right({"score": 0, "acc": True})) == (
        None,
        1.0,
        1.0,
    )


def test_a_reward_with_acc_has_both(reward_file):
    body = "return {'score': 0.5, 'acc': float(ground_truth in solution_str), 'pred': solution_str}"
    reward = OwnReward(str(reward_file(body)))
    items = [answered(text, reward, name) for name, text in (("a", "#### 4"), ("b", "2 + 2 = 5"), ("c", ""))]
    assert [item["error"] for item in items] == [None, "logic", "format"]
    metrics = compute_metrics(items, 1, by_reward=True)
    assert metrics["accuracy"]["value"] == pytest.approx(1 / 3) and metrics["reward"]["value"] == 0.5


def result(label: str, scores: list[float], **more):
    items = [
        {"id": str(n), "sample": 0, "gold": "4", "score": score, "truncated": False, "error": None}
        for n, score in enumerate(scores)
    ]
    return {"label": label, "eval": "mine", "items": items, "metrics": compute_metrics(items, 1, by_reward=True),
            "sampling": {}, "errors": {}, **more}  # fmt: skip


def test_rewards_are_compared_as_rewards():
    base, trained = result("base", [0.0, 0.1, 0.1, 0.2] * 10), result("grpo", [0.5, 0.7, 0.9, 0.6] * 10)
    (found,) = comparison.compare_results({"base@mine": base, "grpo@mine": trained})
    assert (found.figure, found.verdict) == ("reward", "gain")
    assert found.sentence().startswith("grpo against base on mine: +0.575 of mean reward [")
    assert headline(base)[0] == "reward"
    remarks = comparison.comparison_remarks({"a": base | {"reward": "r 1"}, "b": trained | {"reward": "r 2"}})
    assert remarks == ["the evaluations on mine were graded differently: r 1; r 2"]
    assert (
        comparison.comparison_remarks({"a": base | {"reward": "r 1"}, "b": trained | {"reward": "copy_of_r 1"}}) == []
    )


def test_a_reward_and_an_accuracy_are_not_compared():
    one, two = result("base", [0.0, 1.0]), result("grpo", [1.0, 1.0])
    two["metrics"]["accuracy"] = two["metrics"]["truncated"]
    with pytest.raises(InputError, match="have reward and accuracy"):
        comparison.compare_results({"base@mine": one, "grpo@mine": two})


def test_which_reward_grades_an_evaluation(folder, here, rows):
    def chosen(*arguments: str):
        return job.choose_reward(read(Evaluate, [*arguments, "eval=gsm8k"]), folder if "run=1" in arguments else None)

    assert chosen("run=1").word == f"{here}/my_reward.py:score"
    assert chosen("run=1", "reward_kwargs.partial=0.3").arguments == {"partial": 0.3}
    assert chosen("base_model=tiny") is None
    with pytest.raises(InputError, match=r"reward_kwargs\.partial has no reward to go to"):
        chosen("base_model=tiny", "reward_kwargs.partial=0.3")
    assert chosen("base_model=tiny", WORD, "reward_kwargs.partial=0.5").arguments == {"partial": 0.5}
    ours, own = (
        job.EvalSet("gsm8k", rows(4, lambda row: row | {"data_source": "openai/gsm8k"}, "ours")),
        job.EvalSet("x", rows(4)),
    )
    assert job.is_graded_by_set(ours) and not job.is_graded_by_set(own), (
        "figures of a public set compare with those of others"
    )


def test_questions_of_any_source(rows):
    file = rows(3)
    with pytest.raises(InputError, match="has no reward"):
        job.read_questions(file)
    assert len(job.read_questions(file, any_source=True)) == 3
