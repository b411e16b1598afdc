"""The page in headless Chromium, with real clicks and keys: curves, filters, search, formulas, and no network."""

import json

import made_runs
import made_texts
import pytest

from posttrain_verl.report import __main__ as report

By = pytest.importorskip("selenium.webdriver.common.by").By
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
Select = pytest.importorskip("selenium.webdriver.support.ui").Select
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait

HOSTILE = """<img src=x onerror="document.title='broken in'"><script>document.title='broken in'</script>"""
HOSTILE += " $\\href{javascript:alert(1)}{x}$"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page of a run with two evaluations, hostile rollouts among its own."""
    folder = made_runs.grpo(tmp_path_factory.mktemp("runs") / "math_grpo" / "a", steps=100, prompts=4, answers=5)
    for number, (label, accuracy) in enumerate((("base", 0.3), ("grpo", 0.6))):
        made_texts.evaluation(folder / "eval" / f"{number}.json", label, accuracy, seed=number, n=250)
    hostile = {
        "input": HOSTILE,
        "output": HOSTILE + " needle \\(\\frac{1}{2\\)",
        "gts": "1",
        "score": 0.25,
        "step": 101,
    }
    made_texts.write_lines(folder / "rollouts" / "101.jsonl", [hostile])
    return report.write_report(folder)


@pytest.fixture
def opened(browser, written):
    browser.get(f"file://{written}")
    WebDriverWait(browser, 20).until(lambda page: page.find_elements(By.CSS_SELECTOR, ".response"))
    yield browser
    said = [entry["message"] for entry in browser.get_log("browser")]
    assert not said, "the browser complains"


def find(page, selector):
    return page.find_element(By.CSS_SELECTOR, selector)


def counted(page, text):
    WebDriverWait(page, 20).until(lambda _: text in find(page, "#count").text, f"{text!r} in the count")
    return find(page, "#count").text


def select(page, name, value):
    Select(find(page, f"#{name}")).select_by_visible_text(value)


def test_the_verdict_comes_first(opened):
    assert find(opened, ".verdict").text.startswith("The gain is real: grpo is better than base on gsm8k")
    assert find(opened, "h1").text == "math_grpo/a"


def test_every_curve_is_drawn(opened):
    inks = opened.execute_script("""return [...document.querySelectorAll('.chart canvas')].map((canvas) => {
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        const seen = new Set(new Uint32Array(data.buffer));
        return [canvas.closest('figure').id, seen.size] })""")
    assert len(inks) == 13 and all(colours > 5 for _, colours in inks), inks


def test_arrow_keys_read_a_curve(opened):
    chart = find(opened, "#reward .canvas")
    chart.send_keys(Keys.HOME, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert find(opened, "#reward .u-legend .u-value").text == "3"
    chart.send_keys(Keys.END)
    assert find(opened, "#reward .u-legend .u-value").text == "100"
    assert "score: " in chart.get_attribute("aria-label")


def test_values_of_a_curve_as_a_table(opened):
    find(opened, "#entropy .values summary").click()
    rows = opened.find_elements(By.CSS_SELECTOR, "#entropy .values tbody tr")
    assert len(rows) == 12 and rows[-1].text.startswith("100 ")


def test_filters(opened, written):
    total = 100 * 4 * 5 + 1 + 10 * 4 + 2 * 250
    counted(opened, f"{total:,} of {total:,}")
    select(opened, "set", "training")
    counted(opened, "2,001 of")
    find(opened, "#step-low").send_keys("11")
    find(opened, "#step-high").send_keys("12")
    counted(opened, "40 of")
    find(opened, "#score-low").send_keys("1")
    dumps = [written.parent / "rollouts" / f"{step}.jsonl" for step in (11, 12)]
    right = sum(json.loads(line)["score"] == 1 for dump in dumps for line in dump.read_text().splitlines())
    counted(opened, f"{right} of {total:,}")
    find(opened, "button[type=reset]").click()
    counted(opened, f"{total:,} of")
    select(opened, "set", "evaluation: grpo on gsm8k")
    select(opened, "kind", "logic")
    logic = json.loads((written.parent / "eval" / "1.json").read_text())["errors"]["logic"]
    counted(opened, f"{logic} of {total:,}")
    find(opened, ".list .row").click()
    WebDriverWait(opened, 10).until(lambda page: "logic" in find(page, ".rollout h3").text)
    assert "first false equation" in find(opened, ".grade").text


def test_the_list_shows_the_rows_of_the_filter_in_order(opened):
    select(opened, "set", "training")
    select(opened, "order", "newest first")
    counted(opened, "2,001 of")
    shown = "return [...document.querySelectorAll('.list .row .end')].slice(0, 4).map((each) => each.textContent)"
    expected = ["step 101", "step 100", "step 100", "step 100"]
    WebDriverWait(opened, 10).until(lambda page: page.execute_script(shown) == expected)


def test_keys_move_in_the_list_to_its_very_end(opened):
    rows = find(opened, "#list")
    rows.send_keys(Keys.HOME, Keys.ARROW_DOWN, "j")
    assert find(opened, ".row[aria-selected=true]").get_attribute("aria-posinset") == "3"
    rows.send_keys(Keys.END)
    last = find(opened, ".row[aria-selected=true]")
    assert last.get_attribute("aria-posinset") == last.get_attribute("aria-setsize") == "2541"
    assert rows.get_attribute("aria-activedescendant") == last.get_attribute("id")
    WebDriverWait(opened, 10).until(lambda page: "evaluation: grpo" in find(page, ".rollout h3").text)


def test_search_finds_what_only_one_text_holds(opened):
    find(opened, "#search").send_keys("NEEDLE")
    assert counted(opened, "hold").startswith("1 of")
    find(opened, ".list .row").click()
    WebDriverWait(opened, 10).until(lambda page: "step 101" in find(page, ".rollout h3").text)
    assert opened.execute_script("return CSS.highlights.get('found').size") == 1
    assert "broken in" not in opened.title and HOSTILE.split(" $")[0] in find(opened, ".response").text
    assert find(opened, ".response .raw").text == "\\(\\frac{1}{2\\)"
    assert opened.execute_script("return document.querySelectorAll('.rollout :is(img, script, a)').length") == 0


def test_formulas_are_laid_out_and_money_is_not(opened):
    find(opened, "#search").send_keys("each box costs $5.")
    counted(opened, "hold")
    find(opened, ".list .row").click()
    WebDriverWait(opened, 10).until(lambda page: page.find_elements(By.CSS_SELECTOR, ".response mfrac"))
    assert find(opened, ".response mfrac").size["height"] > 10 and "costs $5." in find(opened, ".prompt").text
    find(opened, ".tools input").click()
    WebDriverWait(opened, 10).until(lambda page: "\\frac" in find(page, ".response").text)
    assert not opened.execute_script("return document.querySelectorAll('.response math').length")


def test_the_answers_to_one_prompt_stand_together(opened):
    select(opened, "set", "training")
    counted(opened, "2,001 of")
    find(opened, "#list").send_keys(Keys.HOME)
    buttons = opened.find_elements(By.CSS_SELECTOR, ".siblings button")
    assert len(buttons) == 5 and buttons[0].get_attribute("aria-current") == "true"
    prompt = find(opened, ".prompt").text
    buttons[3].click()
    WebDriverWait(opened, 10).until(
        lambda page: page.find_elements(By.CSS_SELECTOR, ".siblings button")[3].get_attribute("aria-current") == "true"
    )
    assert find(opened, ".prompt").text == prompt
    assert find(opened, ".row[aria-selected=true]").get_attribute("aria-posinset") == "4"


def test_the_page_asks_for_nothing(browser, written):
    browser.get("about:blank")
    browser.get_log("performance")
    browser.get(f"file://{written}")
    WebDriverWait(browser, 20).until(lambda page: page.find_elements(By.CSS_SELECTOR, ".response"))
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    assert {url for url in asked if not url.startswith("data:")} == {f"file://{written}"}
    refused = browser.execute_async_script("""const done = arguments[0];
        document.addEventListener('securitypolicyviolation', (event) => done(event.effectiveDirective));
        fetch('https://example.com/').then(() => done('allowed'), () => setTimeout(done, 500, 'not refused'));""")
    assert refused == "connect-src", "the page's policy refuses it, not a missing network"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_it_fits_and_can_be_read(browser, written, width, scheme):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    try:
        browser.get(f"file://{written}")
        WebDriverWait(browser, 20).until(lambda page: page.find_elements(By.CSS_SELECTOR, ".response"))
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        poor = browser.execute_script(CONTRAST)
        assert not poor
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


# Texts whose contrast with what lies behind them is under 4.5 to 1 (WCAG 2.2, 1.4.3).
CONTRAST = """
const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (node) => { for (; node; node = node.parentElement) {
    const back = channels(getComputedStyle(node).backgroundColor); if (back.length < 4 || back[3] > 0.99) return back }
    return [255, 255, 255] };
const poor = [];
for (const node of document.querySelectorAll('body *')) {
    const speaks = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!speaks || !node.checkVisibility() || node.closest('script')) continue;
    const [a, b] = [light(channels(getComputedStyle(node).color)), light(behind(node))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) poor.push(`${node.tagName}.${node.className}: ${((a + 0.05) / (b + 0.05)).toFixed(2)}`);
}
return [...new Set(poor)];
"""
