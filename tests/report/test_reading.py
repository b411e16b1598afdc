"""What is read of a run folder: metrics as columns, rollouts as chunks; broken files cost what is broken in them, no more."""

import gzip
import json

import made_runs
import numpy as np
import pytest

from posttrain_verl.report import figures, rollouts, subjects
from posttrain_verl.report.page import write_page
from posttrain_verl.report.rollouts import Dump
from posttrain_verl.report.run import Evaluation, Metrics
from posttrain_verl.verl.verdicts import Verdicts


def metrics(*records, tail=""):
    def into(path):
        path.write_text("".join(json.dumps({"step": step, "data": data}) + "\n" for step, data in records) + tail)
        return Metrics().follow(path)

    return into


def test_metrics_are_columns_and_a_resumed_step_counts_as_written_last(tmp_path):
    read = metrics((1, {"a": 1, "b": "text"}), (3, {"a": 3.5}), (2, {"a": 2}), (3, {"a": 4}), tail='{"step": 4, "da')(
        tmp_path / "m"
    )
    assert read["a"].steps.tolist() == [1, 2, 3] and read["a"].values.tolist() == [1, 2, 4]
    assert len(read["b"]) == 0 and read.last_step == 3 and read.bad_lines == 0


def test_what_is_not_finite_is_kept_and_a_broken_line_is_counted(tmp_path):
    path = tmp_path / "m"
    path.write_text('{"step": 1, "data": {"a": NaN}}\nnonsense\n{"step": 2, "data": {"a": Infinity}}\n')
    read = Metrics().follow(path)
    assert np.isnan(read["a"].values[0]) and np.isinf(read["a"].values[1]) and read.bad_lines == 1


def test_metrics_follow_a_growing_file_and_begin_anew_with_a_shorter_one(tmp_path):
    path = tmp_path / "m"
    read = metrics((1, {"a": 1}), (2, {"a": 2}))(path)
    with path.open("a") as file:
        file.write('{"step": 3, "data": {"a": 3}}\n')
    assert read.follow(path)["a"].values.tolist() == [1, 2, 3]
    path.write_text('{"step": 1, "data": {"a": 9}}\n')
    assert read.follow(path)["a"].values.tolist() == [9]


def test_stages_add_up_to_the_step(tmp_path):
    read = metrics(
        (1, {"timing_s/step": 10, "timing_s/gen": 6, "timing_s/update_actor": 3}),
        (2, {"timing_s/step": 8, "timing_s/gen": 5}),
    )(tmp_path / "m")
    [figure] = [each for each in figures.run_figures(read) if each["stacked"]]
    assert {curve["label"]: curve["y"].tolist() for curve in figure["curves"]} == {
        "gen": [6, 5],
        "update actor": [3, 0],
        "other": [1, 3],
    }


def test_a_noisy_curve_gets_a_trend_and_a_wide_one_a_logarithmic_axis(tmp_path):
    noise = np.random.default_rng(0).normal(0, 1, 400)
    read = metrics(*((i, {"critic/score/mean": i + noise[i], "actor/grad_norm": 10.0 ** (i % 3)}) for i in range(400)))(
        tmp_path / "m"
    )
    reward, norm = figures.run_figures(read)
    raw, trend = (np.array(curve["y"]) for curve in reward["curves"])
    assert np.abs(trend[20:-20] - np.arange(400)[20:-20]).max() < 0.8 < np.abs(raw - np.arange(400)).max()
    assert norm["log"] and not reward["log"]


def test_a_figure_counts_what_is_not_finite(tmp_path):
    read = metrics((1, {"actor/grad_norm": float("nan")}), (2, {"actor/grad_norm": 1.0}))(tmp_path / "m")
    assert figures.run_figures(read)[0]["lost"] == {"actor": 1}


def test_numbers_keep_five_digits():
    assert figures.round_digits(np.array([123456.0, 0.000123456, 0.0, -1.5])).tolist() == [
        123460.0,
        0.00012346,
        0.0,
        -1.5,
    ]


OURS = Verdicts(has_acc=True, right_at=1.0)


@pytest.mark.parametrize(
    ("record", "verdicts", "kind"),
    [
        ({"score": 1.0}, OURS, "right"),
        ({"score": 0.5}, OURS, "wrong"),
        ({"score": 0.4, "acc": 0.0}, OURS, "wrong"),
        ({"score": 0.0, "acc": 0.0, "answered": 0.0}, OURS, "unanswered"),
        ({"score": 0.0, "acc": 0.0, "verifier_error": 1.0, "answered": 0.0}, OURS, "verifier"),
        ({"score": 0.0, "acc": 0.0, "error": "logic", "answered": 1.0}, OURS, "logic"),
        ({"score": 1.0, "acc": 1.0, "error": None}, OURS, "right"),
        ({"score": 0.1}, Verdicts(), "scored"),
        ({"score": 1.0, "acc": 1.0}, Verdicts(), "scored"),  # VeRL's name for a plain number
        ({"score": 0.3, "acc": 0.0}, Verdicts(right_at=0.25), "right"),
        ({"score": 0.8999999761581421}, Verdicts(right_at=0.9), "right"),  # as VeRL dumps 0.9
        ({"output": "without a score"}, Verdicts(right_at=0.9), "scored"),
    ],
)
def test_the_kind_of_a_rollout(record, verdicts, kind):
    assert rollouts.record_kind(record, verdicts) == kind


def unpacked(block):
    return json.loads(gzip.decompress(block))


def texts(read):
    """(set, step, score, prompt, gold, response) of every rollout, as the page finds them."""
    index = unpacked(read.index())
    rows, at = [], 0
    for chunk, name, size in zip(read.chunks, index["sets"], index["sizes"], strict=True):
        held = unpacked(chunk.block)
        for i in range(size):
            rows.append((name, index["step"][at + i], index["score"][at + i], held["prompts"][held["p"][i]],
                         held["golds"][held["g"][i]], held["output"][i]))  # fmt: skip
        at += size
    return rows


def test_the_page_holds_every_rollout_as_it_was_written(tmp_path):
    folder = made_runs.grpo(tmp_path / "math_grpo" / "a", steps=30, prompts=4, answers=5)
    written = [
        (name, record["step"], record["score"], record["input"], record["gts"], record["output"])
        for name, directory in (("training", "rollouts"), ("held out", "validation"))
        for path in sorted((folder / directory).glob("*.jsonl"), key=lambda path: int(path.stem))
        for record in map(json.loads, path.read_text().splitlines())
    ]
    read = rollouts.read_rollouts(folder)
    assert texts(read) == written and read.total == read.shown == len(written) and read.stride == 1
    assert len(read.chunks) > 2


def test_answers_to_one_prompt_stay_in_one_chunk():
    records = [{"input": f"question {i // 5}", "output": "x"} for i in range(1000)]
    pieces = list(rollouts._split_pieces(records))
    assert [len(piece) for piece in pieces] == [260, 260, 260, 220]


def test_too_many_rollouts_are_thinned_by_whole_steps_and_the_last_one_stays(tmp_path):
    folder = made_runs.grpo(tmp_path / "math_grpo" / "a", steps=21, prompts=2, answers=5, every=100)
    read = rollouts.read_rollouts(folder, limit=60)
    index = unpacked(read.index())
    assert read.total == 210 and read.stride == 4
    assert sorted(set(index["step"])) == [1, 5, 9, 13, 17, 21] and index["step"].count(5) == 10


def test_files_that_did_not_change_are_not_encoded_again(tmp_path):
    made_runs.grpo(tmp_path / "r" / "a", steps=3)
    [first], [again] = (
        [chunk for chunk in rollouts.read_rollouts(tmp_path / "r" / "a").chunks if chunk.kind == "training"]
        for _ in range(2)
    )
    assert first is again
    dump = tmp_path / "r" / "a" / "rollouts" / "3.jsonl"
    dump.write_text(dump.read_text() + json.dumps({"input": "new", "output": "rollout", "score": 1}) + "\n")
    assert len(rollouts.read_rollouts(tmp_path / "r" / "a").chunks[0].rows) == len(first.rows) + 1


def test_a_file_is_known_by_its_content(tmp_path):
    path = tmp_path / "1.jsonl"
    path.write_text('{"input": "a", "output": "b"}\n\n{"half')
    dump = Dump(path, path.stat().st_mtime_ns, path.stat().st_size)
    assert [len(chunk.rows) for chunk in rollouts.encode_batch("training", (dump,), OURS)] == [1]


def test_answers_of_an_evaluation_are_rollouts_too(tmp_path):
    data = json.loads(made_runs.evaluation(tmp_path / "e.json", "grpo", 0.5, n=20).read_text())
    data["items"][0]["question"] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}]
    read = rollouts.read_rollouts(tmp_path, [Evaluation(tmp_path / "e.json", data)])
    name, _, score, prompt, gold, response = texts(read)[0]
    item = data["items"][0]
    assert (name, score, gold, response) == ("evaluation: grpo on gsm8k", item["score"], item["gold"], item["answer"])
    assert prompt == "Be brief.\n\n1+1?"


@pytest.mark.parametrize("name", ["config.yaml", "plan.json", "preflight.json", "status.json", "metrics.jsonl", "events.jsonl",
                                  "rollouts/3.jsonl", "eval/base.json"])  # fmt: skip
@pytest.mark.parametrize("damage", ["missing", "cut", "nonsense", "another type"])
def test_a_damaged_file_costs_no_more_than_itself(tmp_path, name, damage):
    folder = made_runs.grpo(tmp_path / "math_grpo" / "a", steps=6, every=3)
    made_runs.evaluation(folder / "eval" / "base.json", "base", 0.5, n=20)
    path = folder / name
    whole = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(
            {"cut": whole[: len(whole) // 2], "nonsense": b"\xff\xfe{[\n", "another type": b"[1, 2]\n"}[damage]
        )
    page = subjects.Reader().page(folder)
    write_page(page, tmp_path / "report.html")
    assert page.sentences and (page.parts[0].run.manifest.get("sources") or name == "config.yaml")
    if damage in ("nonsense", "another type") and name != "rollouts/3.jsonl":
        assert any(name in flaw for flaw in page.flaws)
