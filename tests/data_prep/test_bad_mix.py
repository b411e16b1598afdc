"""A mix with many faults: each is named at once, none hides another, and none is made up."""

import copy
from collections.abc import Iterable
from functools import cache

import pytest
import yaml

from data_prep import DataError, Problem, parse
from posttrain_verl import inspect as inspect_verb
from posttrain_verl import prep
from posttrain_verl.terminal.command_line import read
from posttrain_verl.terminal.problem import InputError
from posttrain_verl.verbs import Inspect, Prep

GOOD = yaml.safe_load("""
name: own_mix
sources:
  own: {from: columns, path: own.jsonl, columns: {question: problem, answer: final}, data_source: math/own}
  more: {from: columns, path: more.jsonl, columns: {question: problem, answer: final}, data_source: math/more}
  exam: {from: aime24}
  second_exam: {from: aime25}
  sums: {from: column_sums, data_source: embedded/chain_sum}
prompts:
  default: {user: "{question}"}
decontaminate: {against: [exam]}
splits:
  test: {rows: all, sources: {exam: 1}}
  rl_train:
    rows: 10
    stages:
      - {name: easy, sources: {own: 1}}
      - {name: hard, sources: {more: 1}, difficulty: [1, 3]}
  sft_train: {rows: 10, sources: {own: 1, more: 1, sums: 1}}
""")

# The key that is set, its wrong value, and a problem that must be named.
FAULTS = [
    ("name", "../up", "mix.name: is '../up'"),
    ("seed", 1.5, "mix.seed: is 1.5, not a whole number"),
    ("sed", 3, "mix.sed: is not a known key"),
    ("rows", 40, "mix.rows: is not a key of a mix"),
    ("limit", -1, "mix.limit: is -1"),
    ("sources.own.format", "xml", "mix.sources.own.format: is 'xml'"),
    ("sources.own.bad_rows", "keep", "mix.sources.own.bad_rows: is 'keep'"),
    ("sources.own.pth", "x", "mix.sources.own.pth: is not a known key"),
    ("sources.own.columns.gold", "x", "mix.sources.own.columns.gold: is not a known key"),
    ("sources.own.columns.question", 5, "mix.sources.own.columns.question: is 5, not the name of a column"),
    ("sources.own.answer_pattern", "[0-9]+", "mix.sources.own.answer_pattern: has 0 groups"),
    ("sources.own.data_source", "x/y", "mix.sources.own.data_source: no reward is registered"),
    ("sources.golds", {"from": "columns", "path": "p", "data_source": "math/p", "columns": {"id": "i"}, "answer_pattern": "(.)"},
     "mix.sources.golds.columns: does not say which column is the question"),
    ("sources.bare", {"from": "columns", "path": "b", "data_source": "math/b", "columns": {"question": "q"},
                      "answer_pattern": "(.)"}, "mix.sources.bare.answer_pattern: has no answer column to read"),
    ("sources.odd", {"from": "gsm9k", "unique": "no"}, "mix.sources.odd: reads from 'gsm9k'"),
    ("sources.odder", {"from": "gsm8", "ability": "art"}, "mix.sources.odder.ability: is 'art'"),
    ("sources.twin", {**GOOD["sources"]["more"], "path": "./more.jsonl", "unique": "never"},
     "mix.sources.twin: reads the same rows as more"),
    ("sources.sums.size", 0, "mix.sources.sums.size: is 0"),
    ("splits.rl_trian", {"sources": {"own": 1}}, "mix.splits.rl_trian: is not a known key"),
    ("splits.rl_train.rows", -1, "mix.splits.rl_train.rows: is -1"),
    ("splits.rl_train.tokens", 0, "mix.splits.rl_train.tokens: is 0"),
    ("splits.rl_train.stages.0.shar", 2, "mix.splits.rl_train.stages[0].shar: is not a known key"),
    ("splits.rl_train.stages.0.share", -1, "mix.splits.rl_train.stages[0].share: is -1"),
    ("splits.rl_train.stages.1.difficulty", [5, 1], "mix.splits.rl_train.stages[1].difficulty: is (5.0, 1.0)"),
    ("splits.rl_train.stages.1.sources.mroe", 1, "mix.splits.rl_train.stages[1].sources.mroe: uses source 'mroe'"),
    ("splits.sft_train.sources.second_exam", 1, "mix.splits.sft_train.sources.second_exam: uses second_exam for sft"),
    ("splits.sft_train.sources.own", 0, "mix.splits.sft_train.sources.own: is 0, not a number above 0"),
    ("splits.sft_train.may_share_with", ["rl_vall"], "mix.splits.sft_train.may_share_with[0]: is not a known key"),
    ("splits.sft_val", {"rows": 3, "tokens": "few"}, "mix.splits.sft_val: names no source"),
    ("splits.rl_val", {"stages": [{"share": 0, "sources": {"own": 1}, "difficulty": 3}]},
     "mix.splits.rl_val.stages: have shares that sum to 0"),
    ("prompts.default.user", "no place", "mix.prompts.default.user: is 'no place'"),
    ("prompts.default.system", 5, "mix.prompts.default.system: is 5, not a text"),
    ("filters.broken_latx", False, "mix.filters.broken_latx: is not a known key"),
    ("filters.false_step", "no", "mix.filters.false_step: is 'no'"),
    ("filters.too_long.prompt", "x", "mix.filters.too_long.prompt: is 'x'"),
    ("filters.near_duplicate", 2, "mix.filters.near_duplicate: is 2"),
    ("decontaminate.against", ["own"], "mix.decontaminate.against: names own, which a split trains on"),
    ("decontaminate.ngrams", [], "mix.decontaminate.ngrams: names no length"),
    ("decontaminate.drop", 1, "mix.decontaminate.drop: is 1"),
]  # fmt: skip
KEYS = [key for key, _, _ in FAULTS]


def with_faults(keys: Iterable[str]) -> dict:
    mix = copy.deepcopy(GOOD)
    for key, value, _ in FAULTS:
        if key in keys:
            node, (*parents, leaf) = mix, key.split(".")
            for parent in parents:
                node = node[int(parent)] if isinstance(node, list) else node.setdefault(parent, {})
            node[leaf] = copy.deepcopy(value)
    return mix


@cache
def problems(*keys: str) -> frozenset[Problem]:
    try:
        parse(with_faults(keys))
    except DataError as error:
        assert len(set(error.problems)) == len(error.problems)
        return frozenset(error.problems)
    return frozenset()


def test_the_mix_without_faults_parses():
    assert not problems()


@pytest.mark.parametrize(("key", "said"), [(key, said) for key, _, said in FAULTS])
def test_each_fault_is_named_with_its_remedy(key, said):
    assert [each for each in problems(key) if f"{each.where}: {each.what}".startswith(said) and each.remedy]


@pytest.mark.parametrize("first", KEYS)
def test_no_fault_hides_another(first):
    """Two faults give the problems of the one and of the other, and no more."""
    for second in KEYS:
        assert problems(*sorted({first, second})) == problems(first) | problems(second), second


def test_a_path_that_no_file_can_have_is_compared_as_it_is():
    mix = copy.deepcopy(GOOD)
    mix["sources"]["own"]["path"] = "own\0.jsonl"
    assert parse(mix).sources["own"].path == "own\0.jsonl"  # reading it says that it is not a file


def test_of_two_sizes_both_are_named_though_one_is_wrong():
    with pytest.raises(DataError) as caught:
        parse(GOOD | {"limit": 5, "budget": "many"})
    assert [each.where for each in caught.value.problems] == ["mix.budget", "mix.limit"]


@pytest.mark.parametrize(("verb", "declared"), [(prep, Prep), (inspect_verb, Inspect)])
def test_one_file_with_every_fault_is_refused_once(verb, declared, tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump(with_faults(KEYS)))
    with pytest.raises(InputError) as caught:
        verb.run(read(declared, [f"mix={file}", f"posttrain.data_dir={tmp_path}"]))
    found = {each.what for each in caught.value.problems}
    # What is built may have been graded by a reward of somebody's own.
    keys = [key for key in KEYS if declared is Prep or key != "sources.own.data_source"]
    assert found == {f"{each.where}: {each.what}" for key in keys for each in problems(key)}
    assert len(found) > len(keys) > 30 and all(each.remedy for each in caught.value.problems)
