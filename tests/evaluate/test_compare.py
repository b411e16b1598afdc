"""Evaluations against one another: what is paired, what is said, and what is refused."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from posttrain_verl import compare as verb
from posttrain_verl.evaluate import comparison, grading, result
from posttrain_verl.evaluate.result import SCHEMA
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.problem import InputError
from posttrain_verl.verbs import Compare


def item(name, acc, sample=0, gold="18"):
    return {"id": name, "sample": sample, "data_source": "openai/gsm8k", "stratum": None, "question": f"{name}?",
            "answer": f"#### {18 if acc else 17}", "gold": gold, "truncated": False, "tokens": 4, "score": acc, "acc": acc,
            "format": 1.0, "answered": 1.0, "verifier_error": 0.0, "pred": "18", "strict_acc": acc, "flexible_acc": acc,
            "error": None if acc else "knowledge", "evidence": "" if acc else "gave '17'"}  # fmt: skip


def evaluation(label, verdicts, name="gsm8k", k=1):
    """Verdicts by question, or lists of k of them."""
    items = [item(f"q{n}", float(acc), sample) for n, each in enumerate(verdicts)
             for sample, acc in enumerate(each if isinstance(each, list) else [each])]  # fmt: skip
    sampling = {"temperature": 0.0 if k == 1 else 1.0, "top_p": 1.0, "k": k, "max_tokens": 9, "seed": 0}
    return {"schema": SCHEMA, "model": label, "label": label, "eval": name, "questions": "x.parquet", "sampling": sampling,
            "population": len(verdicts), "n": len(verdicts), "stratified_by": None, "noise": len(verdicts) < 200,
            "metrics": grading.compute_metrics(items, k), "errors": grading.error_counts(items), "items": items}  # fmt: skip


@pytest.fixture
def files(tmp_path):
    def write(*evaluations, folder="eval"):
        for each in evaluations:
            result.write_result(each, tmp_path / folder / f"{each['label']}-{each['eval']}.json")
        return tmp_path / folder

    return write


def of_a_pipeline(folder, *stages):
    """Make a folder of evaluations that of a pipeline with these stages."""
    (folder.parent / "pipeline.json").write_text(json.dumps({"stages": [{"name": name} for name in stages]}))


def run(capsys, monkeypatch, *words):
    monkeypatch.setenv("COLUMNS", "220")
    code = command_line.main(Compare, verb.run, [str(word) for word in words])
    return code, capsys.readouterr()


RNG = np.random.default_rng(2)
BASE = list(RNG.integers(0, 2, 500))
BETTER = [1 if n < 60 else acc for n, acc in enumerate(BASE)]
SAME = [1 - acc if n < 6 else acc for n, acc in enumerate(BASE)]


def test_a_real_gain_and_noise_are_told_in_one_sentence(files):
    folder = files(evaluation("base", BASE), evaluation("grpo", BETTER), evaluation("sft", SAME))
    of_a_pipeline(folder, "prep", "sft", "grpo", "evaluate")
    compared = comparison.compare_results(comparison.load_results([str(folder)]))
    pairs = [(each.first, each.second, each.verdict) for each in compared]
    assert pairs == [("base", "sft", "noise"), ("base", "grpo", "gain"), ("sft", "grpo", "gain")]
    flipped = 60 - sum(BASE[:60])
    assert len(compared[1].gained) == compared[1].numbers.gained == flipped and compared[1].lost == []
    assert f"grpo against base on gsm8k: +{flipped / 5:.1f} points [" in compared[1].sentence()
    assert compared[1].sentence().endswith("(corrected for 3 comparisons): the gain is real.")
    assert "it cannot be distinguished from noise; with these questions a difference of" in compared[0].sentence()


def labels(folder):
    return [each["label"] for each in comparison.load_results([str(folder)]).values()]


def test_models_stand_in_the_order_of_the_pipeline_else_of_their_evaluation(files):
    """Base comes first. Names say nothing."""
    folder = files(*(evaluation(label, BASE) for label in ("a", "base", "c", "b")))
    for second, label in enumerate(("c", "a", "base", "b")):
        os.utime(folder / f"{label}-gsm8k.json", (second, second))
    assert labels(folder) == ["base", "c", "a", "b"]
    of_a_pipeline(folder, "prep", "b", "choose-b", "a", "evaluate")
    assert labels(folder) == ["base", "b", "a", "c"]


def test_a_loss_is_told(files):
    folder = files(evaluation("base", BETTER), evaluation("grpo", BASE))
    (found,) = comparison.compare_results(
        comparison.load_results([str(folder / "base-gsm8k.json"), str(folder / "grpo-gsm8k.json")])
    )
    assert (found.verdict, found.gained) == ("loss", [])
    assert found.sentence().endswith("the loss is real.")
    assert found.corrected == found.numbers.p, "one comparison needs no correction"


def test_several_comparisons_are_corrected_together(files):
    folder = files(
        evaluation("base", BASE), evaluation("a", SAME), evaluation("b", SAME[::-1]), evaluation("c", BETTER)
    )
    compared = comparison.compare_results(comparison.load_results([str(folder)]))
    assert len(compared) == 5 and {each.of for each in compared} == {5}
    assert all(each.corrected >= each.numbers.p for each in compared)


def test_sets_are_compared_each_for_itself(files):
    folder = files(*(evaluation(label, values, name) for name in ("gsm8k", "svamp")
                     for label, values in (("base", BASE), ("sft", BETTER))))  # fmt: skip
    compared = comparison.compare_results(comparison.load_results([str(folder)]))
    assert [(each.eval, each.first, each.second) for each in compared] == [
        ("gsm8k", "base", "sft"),
        ("svamp", "base", "sft"),
    ]


def test_few_questions_may_differ_for_sure_but_not_by_how_much(files):
    folder = files(evaluation("base", [0] * 40), evaluation("sft", [1] * 30 + [0] * 10))
    (found,) = comparison.compare_results(comparison.load_results([str(folder)]))
    assert found.sentence().endswith(
        "the gain is real, but 40 questions are fewer than 200: its size is known only roughly."
    )


def test_samples_are_compared_by_their_mean(files):
    base = [[int(n % 3 == 0), 0] for n in range(90)]
    better = [[1, int(n % 2)] for n in range(90)]
    folder = files(evaluation("base", base, k=2), evaluation("grpo", better, k=2))
    (found,) = comparison.compare_results(comparison.load_results([str(folder)]))
    assert (found.numbers.test, found.numbers.n, found.verdict) == ("paired t", 90, "gain")
    assert found.numbers.difference == pytest.approx((90 + 45) / 180 - 30 / 180)


def test_only_shared_questions_count_and_that_is_said(files):
    folder = files(evaluation("base", BASE), evaluation("sft", BETTER[:300]))
    results = comparison.load_results([str(folder)])
    assert comparison.compare_results(results)[0].numbers.n == 300
    (said,) = comparison.comparison_remarks(results)
    assert said.startswith("200 questions of gsm8k were not answered in every evaluation")


def test_other_sampling_is_said(files):
    folder = files(evaluation("base", BASE), evaluation("sft", [[acc, acc] for acc in BASE], k=2))
    (said,) = comparison.comparison_remarks(comparison.load_results([str(folder)]))
    assert "sampled differently" in said


def test_what_cannot_be_compared_is_told(files, tmp_path):
    other = evaluation("sft", BASE)
    for each in other["items"]:
        each["gold"] = "19"
    folder = files(evaluation("base", BASE), other)
    with pytest.raises(InputError, match=r"500 questions of one id and two golds, e\.g\. q0"):
        comparison.compare_results(comparison.load_results([str(folder)]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no evaluation"):
        comparison.load_results([str(tmp_path / "empty")])
    with pytest.raises(InputError, match="is not a run"):
        comparison.load_results(["nothing"])
    (tmp_path / "x.json").write_text('{"schema": 0}')
    with pytest.raises(InputError, match="is not an evaluation of schema 1"):
        comparison.load_results([str(tmp_path / "x.json")])


def test_two_runs_with_the_same_label_keep_their_names(files):
    one, two = (
        files(evaluation("grpo", BASE), folder="grpo/1/eval"),
        files(evaluation("grpo", SAME), folder="grpo/2/eval"),
    )
    (found,) = comparison.compare_results(comparison.load_results([str(one.parent), str(two.parent)]))
    assert (found.first, found.second) == ("grpo/1/grpo-gsm8k", "grpo/2/grpo-gsm8k")


def test_the_verb_prints_tables_flips_sentences_and_failures(files, capsys, monkeypatch):
    folder = files(evaluation("base", BASE), evaluation("sft", BETTER))
    code, said = run(capsys, monkeypatch, folder, "--failures")
    assert code == 0
    for part in (
        "exact McNemar",
        "sft gained against base: q",
        " more",
        "the gain is real.",
        "knowledge: 20 of",
        "gave '17'",
    ):
        assert part in said.out
    code, said = run(capsys, monkeypatch, "nowhere")
    assert code == 2 and "no such run" in said.err


def test_json_has_everything(files, capsys, monkeypatch):
    folder = files(evaluation("base", [0.0] * 3), evaluation("sft", [[1, 0]] * 3, k=2))
    _, said = run(capsys, monkeypatch, folder, "--json")
    found = json.loads(said.out)
    (pair,) = found["comparisons"]
    assert (pair["first"], pair["second"], pair["gained"], pair["gained_items"]) == (
        "base",
        "sft",
        3,
        ["q0", "q1", "q2"],
    )
    assert pair["p"] is None and pair["verdict"] == "noise", (
        "equal differences leave nothing to estimate their spread by"
    )
    assert found["evaluations"]["base@gsm8k"]["noise"] is True


def test_the_pairs_of_base_sft_and_rl_fit_a_terminal_of_80_columns(capsys):
    made = {label: evaluation(label, [n % 7 < right for n in range(300)]) for label, right in
            (("base", 1), ("sft", 4), ("grpo", 5))}  # fmt: skip
    found = comparison.Comparisons(made, comparison.compare_results(made), [])
    comparison.print_comparisons(found, Console(width=80))
    said = capsys.readouterr().out
    assert "…" not in said and all(f"{pair}" in said for pair in ("sft against base", "grpo against sft"))


def test_a_reader_that_stops_reading_ends_it_quietly(files):
    folder = files(evaluation("base", BASE), evaluation("grpo", BETTER))
    command = f"{sys.executable} -m posttrain_verl.compare {folder} --json | head -c 30"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=120)
    assert (len(done.stdout), done.stderr, done.returncode) == (30, "", 0)
