"""The page and the terminal show what was built; a real browser lays the page out."""

import shutil
import subprocess

import pytest

import data_prep
from data_prep.inspection import cards, page, terminal


def plain(messages):
    text = "".join(f"{turn['role']}: {turn['content']}\n" for turn in messages)
    return [(text, messages[-1]["role"] == "assistant", len(text))]


@pytest.fixture
def built(clean, source, tmp_path):
    rows = [*clean(60), {"question": "What is $\\frac{3$?", "answer": "3", "solution": "It is 3.\n#### 3"}]
    config = {
        "name": "seen",
        "sources": {"own": source("own", rows)},
        "splits": {name: {"rows": 20, "sources": {"own": 1}} for name in ("rl_train", "sft_train")},
    }
    folder = tmp_path / "seen"
    data_prep.build(config, folder)
    return folder


def drawn(folder, rows=3):
    return cards.draw(folder, rows, 0, plain)


def html(folder):
    return page.page(
        drawn(folder), data_prep.read_manifest(folder), cards.dropped(folder, 5), cards.histograms(folder), "plain"
    )


def test_rows_are_drawn_from_every_split_and_are_the_same_again(built):
    first = drawn(built)
    assert [card.split for card in first] == ["rl_train"] * 3 + ["sft_train"] * 3
    assert [card.row for card in first] == [card.row for card in drawn(built)]
    assert all(card.reward["score"] == 1 for card in first[:3]) and not any(card.flags for card in first)


def test_flags_show_what_the_checks_find():
    info = {"split": "rl_train", "index": 0, "id": "x", "source": "own", "difficulty": None, "stage": None}
    row = {"data_source": "math/own", "ability": "math", "prompt": [{"role": "user", "content": "What is $\\frac{3$?"}],
           "reward_model": {"ground_truth": "3"}, "extra_info": info}  # fmt: skip
    assert set(cards.card("rl_train", row, plain).flags) == {"broken_latex"}


def test_histograms_count_every_row(built):
    assert {each.split: int(each.counts.sum()) for each in cards.histograms(built)} == {"rl_train": 20, "sft_train": 20}


def test_formulas_become_mathml_and_broken_or_hostile_text_stays_text():
    assert "<mfrac>" in page.with_math(r"so $\frac{1}{2}$ of $5")
    assert 'class="raw"' in page.with_math(r"so $\frac{1$ it")
    assert page.with_math("<script>alert(1)</script>") == "&lt;script&gt;alert(1)&lt;/script&gt;"


def test_the_page_needs_no_other_file(built):
    text = html(built)
    assert "src=" not in text and "href=" not in text and "@import" not in text
    assert "broken_latex: 1 rows" in text


def test_the_terminal_shows_every_card(built):
    from io import StringIO

    from rich.console import Console

    out = StringIO()
    terminal.show(Console(file=out, width=140), drawn(built), data_prep.read_manifest(built), cards.dropped(built, 3))
    assert out.getvalue().count("gold:") == 3 and "dropped: broken_latex" in out.getvalue()


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here: apt-get install chromium")
def test_a_browser_lays_the_page_out(built, tmp_path):
    file = tmp_path / "page.html"
    probe = """<script>
        const tall = [...document.querySelectorAll('mfrac')].filter(each => each.getBoundingClientRect().height > 10)
        document.title = `${tall.length} fractions, ${document.querySelectorAll('.card').length} cards`
    </script>"""
    file.write_text(html(built).replace("</body>", probe + "</body>"))
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}/profile",
        "--dump-dom",
        str(file),
    ]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    title = found.split("<title>")[1].split("</title>")[0]
    fractions, cards_shown = int(title.split()[0]), int(title.split()[2])
    assert cards_shown == 6 and fractions >= 1
