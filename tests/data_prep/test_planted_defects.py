"""Thirty defects of each kind in 3,000 clean rows: what each filter finds, and what it wrongly finds."""

import random

import pyarrow.parquet as pq
import pytest

KINDS = 30
CLEAN = 3000
KINDS_OF_ROWS = ("rl_train", "sft_train")
WORDS = [
    "river",
    "window",
    "purple",
    "seventeen",
    "bridge",
    "lantern",
    "quickly",
    "forest",
    "marble",
    "thunder",
    "silver",
    "pencil",
    "orchard",
    "velvet",
]


def cut_latex(row, rng):
    broken = rng.choice(
        [
            lambda t: t.replace("}{", "}", 1).replace("= 1$", "= 1"),
            lambda t: t.replace("$x$", "$x"),
            lambda t: t.replace("\\frac", "\x0crac", 1),
            lambda t: t.replace("= 1$", "= 1 \\begin{cases} x$"),
        ]
    )
    return row | {"question": broken(row["question"])}


def truncate(row, rng):
    if rng.random() < 0.3:
        return row | {"question": row["question"].rsplit(" ", 5)[0] + " of the"}
    lines = row["solution"].splitlines()
    return row | {"solution": "\n".join(lines[:-1]) + "\nNow we have to subtract the remaining amount of"}


def loop(row, rng):
    passage = f"so we need to check the number {rng.randint(10, 99)} again and "
    head, _, last = row["solution"].rpartition("\n")
    return row | {"solution": f"{head}\n{passage * rng.randint(5, 9)}\n{last}"}


def foreign(row, rng):
    n = rng.randint(10, 999)
    question = rng.choice(
        [
            f"小明有{n}个苹果,他把其中的一半分给了小红。小明现在还有多少个苹果?",
            f"María tiene {n} manzanas y le da la mitad a su hermano que vive con ella. ¿Cuántas manzanas le quedan?",
            f"Der Bauer hat {n} Schafe und verkauft die Hälfte. Wie viele Schafe hat der Bauer noch auf der Weide?",
            f"У Маши {n} яблок, половину она отдала брату. Сколько яблок осталось у Маши?",  # noqa: RUF001
        ]
    )
    return row | {"question": question}


def picture(row, rng):
    words = (
        "shown in the figure below",
        "depicted in the diagram above",
        "![chart](chart.png)",
        "[asy] draw((0,0)--(1,1)); [/asy]",
    )
    return row | {"question": row["question"] + f" The plan is {rng.choice(words)}."}


def false_step(row, rng):
    a, b = rng.randint(12, 99), rng.randint(12, 99)
    head, _, last = row["solution"].rpartition("\n")
    return row | {"solution": f"{head}\nAs a check, {a} * {b} = {a * b + rng.choice((-10, 1, 7, 100))}.\n{last}"}


def disagree(row, rng):
    return row | {"answer": str(int(row["answer"]) + rng.randint(1, 50))}


def no_final(row, rng):
    body = row["solution"].split("\n")[0]
    return row | {"solution": body + "\nThis settles the matter completely."}


def unreadable(row, rng):
    gold = rng.choice(["\\frac{1}{", "see the worked solution given above", "$\\sqrt{2", "\\left( 3, 4 "])
    return row | {"answer": gold}


DEFECTS = {
    "broken_latex": cut_latex,
    "truncated": truncate,
    "repetition": loop,
    "other_language": foreign,
    "needs_image": picture,
    "false_step": false_step,
    "disagreeing_solution": disagree,
    "missing_final_answer": no_final,
    "unreadable_gold": unreadable,
    "empty_answer": lambda row, rng: row | {"answer": " "},
    "too_long": lambda row, rng: row | {"question": row["question"] + " ".join(rng.choices(WORDS, k=300)) + "?"},
}


def near_copy(row, rng):
    """Two harmless words changed, all numbers kept."""
    return row | {"question": "Well, " + row["question"].replace("How much money", "How much cash")}


def exam_row(rng):
    """A question of an evaluation set, in other words than the clean rows."""
    n = rng.randint(2, 500)
    question = f"Picture a {' '.join(rng.sample(WORDS, 10))} scene where {n} things double. What is the count?"
    return {"question": question, "answer": str(2 * n), "solution": f"Doubling gives 2*{n}={2 * n}.\n#### {2 * n}"}


@pytest.fixture
def planted(clean):
    rng = random.Random(5)
    rows = [row | {"kind": ""} for row in clean(CLEAN, seed=1)]
    latex = [row for row in clean(2000, seed=2) if "\\frac" in row["question"]]
    fresh = {kind: clean(KINDS, seed=100 + number) for number, kind in enumerate(DEFECTS)}
    fresh["broken_latex"] = latex[:KINDS]
    bad = [make(row, rng) | {"kind": kind} for kind, make in DEFECTS.items() for row in fresh[kind]]
    for row in rows[:KINDS]:
        bad.append(row | {"question": "  " + row["question"].replace(" ", "  "), "kind": "duplicate"})
    words = [row for row in rows[KINDS:] if "How much money" in row["question"]]
    bad += [near_copy(row, rng) | {"kind": "near_duplicate"} for row in words[:KINDS]]
    for row in rows[-KINDS:]:
        row["kind"] = "conflicting_gold"
        solution = row["solution"].replace(row["answer"], str(int(row["answer"]) + 1))
        bad.append(row | {"answer": str(int(row["answer"]) + 1), "solution": solution.split("\n")[-1]})
    exam = [exam_row(rng) for _ in range(KINDS)]
    for row in exam:
        bad.append({"question": "A friend asks you this. " + row["question"], "answer": row["answer"],
                    "solution": row["solution"], "kind": "contaminated"})  # fmt: skip
    rows += bad
    rng.shuffle(rows)
    # The first of two equal rows is the one that stays: copies go behind their originals.
    copies = ("duplicate", "near_duplicate")
    return [row for row in rows if row["kind"] not in copies] + [row for row in rows if row["kind"] in copies], exam


def test_recall_and_precision_by_kind(planted, source, build, tmp_path, capsys):
    rows, exam = planted
    numbered = [row | {"id": f"{number}"} for number, row in enumerate(rows)]
    columns = {"question": "question", "answer": "answer", "solution": "solution", "id": "id"}
    build(
        sources={"exam": source("exam", exam), "rows": source("rows", numbered, columns=columns)},
        prompts={"default": {"answer": "plain"}},  # solutions stay as they are: nobody writes the missing answer
        filters={"near_duplicate": 0.7, "too_long": {"prompt": 1000}},
        decontaminate={"against": ["exam"]},
        splits={
            "test": {"sources": {"exam": 1}},
            **{name: {"rows": 500, "sources": {"rows": 1}} for name in KINDS_OF_ROWS},
        },
    )
    found = {row["id"]: row["reason"] for row in pq.read_table(tmp_path / "built" / "dropped.parquet").to_pylist()}
    lines, bad = [], []
    for kind in [*DEFECTS, "duplicate", "near_duplicate", "conflicting_gold", "contaminated"]:
        planted_ids = {row["id"] for row in numbered if row["kind"] == kind}
        dropped = {number for number, reason in found.items() if reason == kind}
        recall = len(planted_ids & dropped) / len(planted_ids)
        precision = len(planted_ids & dropped) / max(1, len(dropped))
        lines.append(f"{kind:22} planted {len(planted_ids):3}  recall {recall:.3f}  precision {precision:.3f}")
        if recall < 0.95 or precision < 0.95:
            wrong = [(rows[int(n)]["kind"], rows[int(n)]["question"][:90]) for n in list(dropped - planted_ids)[:3]]
            missed = [
                (found.get(n), rows[int(n)]["question"][-90:], rows[int(n)]["answer"])
                for n in list(planted_ids - dropped)[:4]
            ]
            bad.append(f"{lines[-1]}\n   wrongly: {wrong}\n   missed: {missed}")
    with capsys.disabled():
        print("\n" + "\n".join(lines))
    assert not bad, "\n".join(bad)
    assert not [number for number in found if rows[int(number)]["kind"] == ""]
