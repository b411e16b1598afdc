"""A kind of row that the product does not know goes from a mix to Parquet, a manifest and the page: ranked answers, defined here.

Nothing of data_prep is patched. What a kind declares is in docs/data.md, "Add a kind of row".
"""

from io import StringIO

import pytest
from rich.console import Console

import data_prep
from data_prep import inspection, schema
from data_prep.schema import RowKind

ASKED = (("system", "system"), ("user", "question"))
RANKED = RowKind("ranked", {"prompt": ASKED, "chosen": (("assistant", "solution"),), "rejected": (("assistant", "answer"),)},
                needs=("solution", "answer"), use="sft", shown=("prompt", "chosen"))  # fmt: skip


@pytest.fixture
def registered():
    schema.register(RANKED)
    yield
    del schema._KINDS[RANKED.name]


def plain(messages):
    text = "".join(f"{turn['role']}: {turn['content']}\n" for turn in messages)
    return [(text, messages[-1]["role"] == "assistant", len(text))]


def mix(own: dict, **splits) -> dict:
    return {"sources": {"own": own}, "splits": splits}


def ranked(rows: int) -> dict:
    return {"ranked_train": {"rows": rows, "sources": {"own": 1}}}


def test_its_splits_are_built_with_its_columns(registered, clean, source, build):
    rows = clean(60)
    prompts = {"default": {"system": "Work it out.", "user": "{question}"}}
    manifest, read = build(
        **mix(source("own", rows), ranked_val={"rows": 10, "sources": {"own": 1}}, **ranked(30)), prompts=prompts
    )
    found = read("ranked_train")
    assert (len(found), len(read("ranked_val"))) == (30, 10)
    assert list(found[0]) == ["data_source", "prompt", "chosen", "rejected", "ability", "extra_info"]
    by_question = {row["question"]: row for row in rows}
    for row in found:
        system, user = row["prompt"]
        assert (system["role"], user["role"], system["content"]) == ("system", "user", "Work it out.")
        item = by_question[user["content"]]
        assert row["rejected"] == [{"role": "assistant", "content": item["answer"]}]
        (turn,) = row["chosen"]
        assert turn["role"] == "assistant" and turn["content"].endswith(f"#### {item['answer']}")
        assert row["extra_info"]["split"] == "ranked_train"
    assert list(manifest["files"]) == ["ranked_val.parquet", "ranked_train.parquet", "dropped.parquet"]


def test_rows_that_lack_what_it_needs_are_missed(registered, clean, source, build):
    rows = clean(20)
    for row in rows[:15]:
        row["solution"] = None
    with pytest.raises(data_prep.DataError, match="asks for 10 rows of own; 5 unused ones are left"):
        build(**mix(source("own", rows), **ranked(10)))


def test_a_source_must_serve_for_it(registered, build):
    with pytest.raises(data_prep.DataError, match="uses exam for sft; it is only for eval"):
        build(sources={"exam": {"from": "aime24"}}, splits={"ranked_train": {"sources": {"exam": 1}}})


def test_it_is_shown_with_what_stands_beside_the_conversation(registered, clean, source, tmp_path):
    data_prep.build({"name": "seen", **mix(source("own", clean(30)), **ranked(20))}, tmp_path)
    cards = inspection.draw_cards(tmp_path, 3, 0, plain)
    manifest = data_prep.read_manifest(tmp_path)
    (lengths,) = inspection.length_histograms(tmp_path)
    assert (lengths.split, int(lengths.counts.sum())) == ("ranked_train", 20)
    assert len(cards) == 3
    card = cards[0]
    assert [turn["role"] for turn in card.messages] == ["user", "assistant"]
    assert (card.gold, card.reward, card.flags) == (None, None, {})
    (rejected,) = card.beside["rejected"]
    out = StringIO()
    inspection.print_cards(Console(file=out, width=200), cards, manifest, {})
    assert f"rejected: {rejected['content']}" in out.getvalue()
    page = inspection.render_page(cards, manifest, {}, [lengths], "plain")
    assert f'<span class="role">rejected</span> <span class="formulas">{rejected["content"]}</span>' in page


def test_without_it_a_split_of_its_name_is_not_known(clean, source, build):
    with pytest.raises(data_prep.DataError, match="ranked_train: is not a known key"):
        build(**mix(source("own", clean(5)), **ranked(1)))


def test_a_flaw_in_its_solution_is_flagged(registered):
    info = {"split": "ranked_train", "index": 0, "id": "x", "source": "own", "difficulty": None, "stage": None}
    user, wrong = {"role": "user", "content": "What is 3*4?"}, {"role": "assistant", "content": "3*4 = 13\n#### 13"}
    row = {
        "data_source": "math/own",
        "ability": "math",
        "prompt": [user],
        "chosen": [wrong],
        "rejected": [wrong],
        "extra_info": info,
    }
    assert set(inspection.make_card("ranked_train", row, plain).flags) == {"false_step"}
