"""The page and the terminal show what was built; a real browser lays the page out."""

import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from markupsafe import escape

import data_prep
from data_prep import inspection

SCRIPT = re.compile(r"<script>.*?</script>", re.DOTALL)
in_a_browser = pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here: apt-get install chromium")


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
    return inspection.draw_cards(folder, rows, 0, plain)


def laid_out(text, folder):
    """The page as it stands when a browser has run its scripts."""
    (folder / "page.html").write_text(text)
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile",
               "--dump-dom", str(folder / "page.html")]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def html(folder):
    return inspection.render_page(
        drawn(folder),
        data_prep.read_manifest(folder),
        inspection.read_dropped(folder, 5),
        inspection.length_histograms(folder),
        "plain",
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
    assert set(inspection.make_card("rl_train", row, plain).flags) == {"broken_latex"}


def test_histograms_count_every_row(built):
    assert {each.split: int(each.counts.sum()) for each in inspection.length_histograms(built)} == {
        "rl_train": 20,
        "sft_train": 20,
    }


HOSTILE = "<script>document.title = 'taken'</script> <img src=x onerror=\"document.title = 'taken'\">"


def saying(folder, *texts):
    """The page of cards whose questions are these texts."""
    card = drawn(folder)[0]
    shown = [replace(card, messages=[{"role": "user", "content": text}]) for text in texts]
    return inspection.render_page(shown, data_prep.read_manifest(folder), {}, [], "plain")


def test_hostile_text_is_escaped(built):
    text = saying(built, HOSTILE)
    assert str(escape(HOSTILE)) in text and "<img" not in SCRIPT.sub("", text)


@in_a_browser
def test_formulas_become_mathml_and_broken_or_hostile_text_stays_text(built, tmp_path):
    questions = (r"so $\frac{1}{2}$ of $5", r"so $\frac{1$ it", HOSTILE)
    good, broken, hostile = laid_out(saying(built, *questions), tmp_path).split('class="card"')[1:]
    assert "<mfrac>" in good and "of $5" in good and 'class="raw"' not in good
    assert 'class="raw"' in broken and r"$\frac{1$" in broken and "<mfrac>" not in broken
    hostile = hostile.split("</span></div>")[0]
    assert "&lt;script&gt;" in hostile and "<script" not in hostile and "<img" not in hostile


def test_the_page_needs_no_other_file(built):
    text = SCRIPT.sub("", html(built))
    assert "src=" not in text and "href=" not in text and "@import" not in text
    assert "broken_latex: 1 rows" in text


def test_the_terminal_shows_every_card(built):
    from io import StringIO

    from rich.console import Console

    out = StringIO()
    inspection.print_cards(
        Console(file=out, width=140), drawn(built), data_prep.read_manifest(built), inspection.read_dropped(built, 3)
    )
    assert out.getvalue().count("gold:") == 3 and "dropped: broken_latex" in out.getvalue()


@in_a_browser
def test_a_browser_lays_the_page_out(built, tmp_path):
    probe = """<script>
        const tall = [...document.querySelectorAll('mfrac')].filter(each => each.getBoundingClientRect().height > 10)
        document.title = `${tall.length} fractions, ${document.querySelectorAll('.card').length} cards`
    </script>"""
    found = laid_out(html(built).replace("</body>", probe + "</body>"), tmp_path)
    title = found.split("<title>")[1].split("</title>")[0]
    fractions, cards_shown = int(title.split()[0]), int(title.split()[2])
    assert cards_shown == 6 and fractions >= 1
