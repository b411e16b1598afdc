"""Every row of the data is looked at: what VeRL cannot read is a problem, what is wasted is a warning, and the rest passes."""

import functools
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from posttrain_verl.compose import compose
from posttrain_verl.preflight import data, model, rewards, row_scans, tokenizer
from posttrain_verl.preflight.report import CannotTell
from posttrain_verl.verl.composed import Composed

ROWS, LATE = 300, 271


def user(text: str | None) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str | None) -> dict:
    return {"role": "assistant", "content": text}


def system(text: str) -> dict:
    return {"role": "system", "content": text}


def asked(number: int) -> dict:
    return {"data_source": "math/own", "prompt": [user(f"What is {number} + 1?")],
            "reward_model": {"style": "rule", "ground_truth": str(number + 1)}}  # fmt: skip


def answered(number: int) -> dict:
    return {"messages": [user(f"{number} + 1?"), assistant(f"{number + 1}.")]}


def gold(value: object) -> dict:
    return {"reward_model": {"style": "rule", "ground_truth": value}}


CHAT_TEMPLATE = """{% for m in messages %}{% if m.role == 'system' and STRICT %}{{ raise_exception('no system') }}{% endif %}
{{ m.role + ': ' + m.content }}{% endfor %}"""


@functools.cache
def base(recipe: str) -> Composed:
    return compose([f"recipe={recipe}", "hardware=cpu", "mix=embedded", "base_model=tiny", "data.train_batch_size=8"])


@pytest.fixture
def launch(tmp_path):
    """`launch(rows, *overrides)` for rows of RL, or of SFT where they have messages, or for a table or file of them."""

    def composed(given: list[dict] | pa.Table | Path, *words: str) -> Composed:
        file = given if isinstance(given, Path) else tmp_path / "rows.parquet"
        if isinstance(given, list):
            given = pa.Table.from_pylist(given)
        if isinstance(given, pa.Table):
            pq.write_table(given, file, row_group_size=100)
        is_sft = isinstance(given, pa.Table) and "messages" in given.column_names
        one, files = base("math_sft" if is_sft else "math_grpo"), {"train_files": str(file), "val_files": str(file)}
        return replace(one, verl=OmegaConf.merge(one.verl, {"data": files}, OmegaConf.from_dotlist(list(words))))

    return composed


def every(make, **changes: object) -> list[dict]:
    return [{**make(number), **changes} for number in range(ROWS)]


def late(make, **changes: object) -> list[dict]:
    """Sound rows but for one near the end; of a column that sound rows do not have they have null."""
    others = dict.fromkeys(changes)
    return [{**others, **make(number), **(changes if number == LATE else {})} for number in range(ROWS)]


def told(composed: Composed) -> list[str]:
    """What the checks of rows say, each with its level. One file serves for training and validation here, which they say, too."""
    found = [problem for problem in data.check_data(composed) if "is validated on" not in problem.what]
    if composed.settings.reward is not None:
        with suppress(CannotTell):
            found += rewards.check_rewards(composed)
    return [f"{problem.level}: {problem.what}" for problem in found]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (late(asked, prompt=None), "problem: prompt is null in 1 of 300 rows"),
        (late(asked, prompt=[]), "problem: prompt has no turn in 1 of 300 rows"),
        (late(asked, prompt=[None, user("x")]), "problem: prompt has a turn that is null"),
        (late(asked, prompt=[{"role": None, "content": "x"}]), "problem: prompt has a turn whose role is null"),
        (late(asked, prompt=[user(None)]), "problem: prompt has a turn whose content is null"),
        (late(asked, prompt=[user(" \n")]), "warning: prompt asks nothing in 1 of 300 rows"),
        (every(asked, prompt=[system("be kind"), user("")]), "problem: prompt asks nothing in all 300 rows"),
        (every(asked, prompt=[{"role": "human", "content": "x"}]), "warning: prompt has the role 'human' in all 300 rows"),
        (late(asked, reward_model=None), "problem: reward_model is null in 1 of 300 rows"),
        (late(asked, data_source=None), "problem: {file} has rows of data_source 'None'"),
        (late(asked, data_source="nobody/knows"), "problem: {file} has rows of data_source 'nobody/knows'"),
        (late(asked, **gold(None)), "problem: null golds: 1 of 300 golds of data_source 'math/own'"),
        (late(asked, **gold("  ")), "problem: empty golds: 1 of 300 golds of data_source 'math/own'"),
        (late(asked, **gold("nan")), "warning: golds that say None, nan or null: 1 of 300"),
        (every(asked, **gold(float("nan"))), "problem: null golds: all 300 golds"),
        (every(asked, **gold(["5", "five"])), "list, and answers are compared with one text"),
        (every(asked, **gold([assistant("5")])), "list, and answers are compared with one text"),
        (every(asked, **gold({"target": ["5"]})), "dict, and answers are compared with one text"),
        (late(asked, images=[{"bytes": b"x"}]), "problem: images are in 1 of 300 rows"),
        (late(answered, messages=None), "problem: messages is null in 1 of 300 rows"),
        (late(answered, messages=[]), "problem: messages has no turn in 1 of 300 rows"),
        (late(answered, messages=[user("x"), assistant(None)]), "problem: messages has a turn whose content is null"),
        (late(answered, messages=[user("x")]), "warning: messages has no turn of the role assistant in 1 of 300 rows"),
        (every(answered, messages=[user("x")]), "problem: messages has no turn of the role assistant in all 300 rows"),
        (late(answered, messages=[{"role": "human", "content": "x"}, {"role": "gpt", "content": "y"}]),
         "problem: messages has no turn of the role assistant in 1 of 300 rows"),
        (every(answered, messages=[{"role": "User", "content": "x"}, {"role": "Assistant", "content": "y"}]),
         "problem: messages has no turn of the role assistant in all 300 rows"),
        (late(answered, messages=[user("x"), assistant("")]), "warning: the assistant says nothing in 1 of 300 rows"),
        (every(answered, messages=[user("x"), assistant("")]), "problem: the assistant says nothing in all 300 rows"),
        (late(answered, messages=[user("x? Use \\boxed{}."), assistant("So it is 5.\n#### 5")]),
         "warning: the prompt asks for \\boxed, and the assistant uses none in 1 of 300 rows"),
        (every(answered, messages=[system("Answer in <answer> or after ####."), user("x?"), assistant("It is 5.")]),
         "warning: the prompt asks for #### or <answer>, and the assistant uses none in all 300 rows"),
        (late(asked, extra_info={"answer_mark": "boxed"}),
         "warning: extra_info.answer_mark is boxed, and the prompt does not ask for \\boxed in 1 of 300 rows"),
        (every(asked, prompt=[user("x? Use ####.")], extra_info={"answer_mark": "tag"}),
         "warning: extra_info.answer_mark is tag, and the prompt does not ask for <answer> in all 300 rows"),
        (every(answered, images=[]), "problem: {file} has a column images, and tiny reads none"),
        (every(asked, extra_info="{}"), "problem: {file} has a column extra_info of type string; training needs a struct"),
        (every(answered, tools="[]"), "problem: {file} has a column tools of type string; training needs a list"),
        (every(answered, enable_thinking="false"), "training needs true or false"),
        (late(answered, tools=[{"name": "f"}]), "problem: tools is null in 299 of 300 rows"),
        (every(answered, enable_thinking=None), "problem: enable_thinking is null in all 300 rows"),
    ],
)  # fmt: skip
def test_broken_rows_are_found_wherever_they_stand(launch, tmp_path, given, said):
    expected = said.replace("{file}", str(tmp_path / "rows.parquet"))
    assert any(expected in each for each in told(launch(given)))


def text_like(table: pa.Table, column: str, kind: pa.DataType) -> pa.Table:
    return table.set_column(table.schema.get_field_index(column), column, table[column].cast(kind))


ASKED, TURN = (
    pa.Table.from_pylist(every(asked)),
    pa.struct([("role", pa.large_string()), ("content", pa.large_string())]),
)
CATEGORICAL = pa.StructArray.from_arrays(
    [pa.DictionaryArray.from_arrays([0, 1] * ROWS, ["user", "assistant"]), [str(number) for number in range(2 * ROWS)]],
    names=["role", "content"],
)


@pytest.mark.parametrize(
    "given",
    [
        every(asked),
        every(answered),
        every(asked, prompt=[system("Add 2 and 3.")]),
        every(asked, prompt=[system(""), user("x")]),
        every(asked, prompt=[user("1 + 1?"), assistant("2"), user("2 + 2?")]),
        every(asked, prompt=[user("look"), {"role": "tool", "content": "7"}, user("and?")]),
        every(asked, prompt=[user("what does <image> mean in HTML?")]),
        every(asked, images=[], tags=["a"], difficulty=0.5),
        every(asked, images=None),
        every(asked, extra_info=None),
        every(asked, prompt=[user("x? Use \\boxed{}.")], extra_info={"answer_mark": "boxed"}),
        every(answered, messages=[user("x? Use \\boxed{}, not ####."), assistant("\\boxed{5}")]),
        every(answered, tools=[{"name": "f"}], enable_thinking=False),
        every(asked, **gold(5)),
        every(asked, **gold(r"\frac{1}{7}")),
        every(answered, messages=[user("a"), assistant("b"), user("c")]),
        every(answered, messages=[{**user("q"), "tool_calls": None}, {**assistant(None), "tool_calls": [{"name": "f"}]},
                                  {"role": "tool", "content": "7", "tool_calls": None}, {**assistant("7"), "tool_calls": None}]),
        ASKED.set_column(0, "data_source", ASKED["data_source"].dictionary_encode()),
        text_like(ASKED, "data_source", pa.string_view()),
        text_like(ASKED, "prompt", pa.large_list(TURN)),
        text_like(ASKED, "prompt", pa.list_(ASKED["prompt"].type.value_type, 1)),
        pa.table({"messages": pa.ListArray.from_arrays(list(range(0, 2 * ROWS + 1, 2)), CATEGORICAL)}),
    ],
)  # fmt: skip
def test_sound_rows_pass(launch, given):
    assert told(launch(given)) == []


@pytest.mark.parametrize("form", ["lines", "list", "mixed", "blank lines"])
def test_json_of_rl(launch, tmp_path, form):
    """As `datasets` reads it: a gold may be a number in one row and a text in another."""
    found = every(asked)
    if form == "mixed":
        found[7] |= gold(8)
    file = tmp_path / ("rows.json" if form == "list" else "rows.jsonl")
    lines = [json.dumps(row) for row in found]
    file.write_text(json.dumps(found) if form == "list" else ("\n\n" if form == "blank lines" else "\n").join(lines))
    composed = launch(file)
    assert told(composed) == [] and data.count_rows(composed, "train_files") == ROWS


def test_files_that_verl_does_not_open(launch, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(asked(1)) + "\n{oops\n")
    assert "is not a readable JSON file" in told(launch(every(asked), f"data.train_files={file}"))[0]
    assert "is not a readable Parquet file" in told(launch(every(answered), f"data.train_files={file}"))[0]
    other = tmp_path / "rows.data"
    pq.write_table(ASKED, other)
    assert "does not end in .parquet, .json, .jsonl" in told(launch(other))[0]


def test_what_is_not_looked_at_is_a_warning(launch):
    away = told(launch(every(asked), "data.train_files=[s3://a/b.parquet,s3://a/c.parquet]"))
    assert "warning: 2 data files elsewhere, e.g. s3://a/b.parquet" in away[0]
    own = told(launch(pa.table({"text": ["x"] * ROWS}), "data.custom_cls.path=own.py"))
    assert own and all("warning" in each and "nobody looked at the rows" in each for each in own)


def test_pictures_and_their_marks(launch, monkeypatch):
    """A model with a processor: each picture needs its mark, and SFT opens every row of the column."""
    monkeypatch.setattr(model, "reads_media", lambda composed: True)
    seen = {"prompt": [user("<image>what?")], "images": [{"bytes": b"x"}]}
    assert told(launch(every(asked, **seen))) == []
    assert "another number of <image>" in told(launch(late(asked, prompt=[user("what?")], images=seen["images"])))[0]
    assert (
        "images is null in 1 of 300 rows"
        in told(launch([{**row, "images": None if n == LATE else []} for n, row in enumerate(every(answered))]))[0]
    )
    monkeypatch.setattr(model, "reads_media", lambda composed: None)
    assert "warning" in told(launch(every(asked, **seen)))[0]


def test_some_golds_that_are_not_right_are_a_warning(launch):
    """One that the grader cannot read wastes its row; many mean that data and reward do not fit."""
    odd = r"\{x : x > 1"
    few = told(launch([{**asked(n), **gold(odd if n == LATE else "5")} for n in range(ROWS)]))
    assert few == [] or few[0].startswith("warning: 1 of")
    assert told(launch(every(asked, **gold(["5"]))))[0].startswith("problem: ")


def test_rows_that_the_template_refuses(launch, monkeypatch):
    """One order of turns near the end, which no sample of rows would meet."""
    composed = launch(late(answered, messages=[system("s"), user("x"), assistant("y")]))
    template = CHAT_TEMPLATE.replace("STRICT", "true")
    chat = tokenizer.Chat(None, {}, template)  # type: ignore[arg-type]
    (problem,) = {found.what for found in tokenizer._check_rendering(chat, composed)}
    assert "no system; messages in 1 of 300 rows" in problem and f"row {LATE}" in problem
    assert not list(tokenizer._check_rendering(tokenizer.Chat(None, {}, template.replace("true", "false")), composed))  # type: ignore[arg-type]


def test_orders_of_turns_are_told_apart(tmp_path):
    talks = [[user("a"), assistant("b")] * (1 + number % 3) for number in range(9002)]
    talks[5000], talks[9001] = [assistant("b"), user("a")], [user(""), assistant("b")]
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"messages": talks}), file, row_group_size=1700)
    found = row_scans.scan_conversations(file, "messages")
    counts = sorted((shape.hits.count, shape.hits.first) for shape in found.shapes.values())
    assert counts == [(1, 5000), (1, 9001), (2999, 2), (3000, 1), (3001, 0)]
    assert found.rows == 9002 and found.more_shapes.count == 0


def test_more_orders_of_turns_than_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(row_scans, "SHAPES", 2)
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"messages": [[user("a")] * (1 + number % 4) for number in range(8)]}), file)
    found = row_scans.scan_conversations(file, "messages")
    assert len(found.shapes) == 2 and found.more_shapes.count == 4
