"""How long a report takes to build, to open and to search: 10,000 steps, 100,000 rollouts of about 2,000 characters.

    python benchmarks/report.py [steps=10000] [rollouts=100000]

Opening is measured in headless Chromium from the start of the navigation: `first paint` shows the verdict, `curves` has all
charts drawn, `reader` shows the first rollout with its formulas, `loaded` has the last byte of the file parsed.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests" / "report"))

import made_runs  # noqa: E402
from selenium import webdriver  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from posttrain_verl.report import __main__ as report  # noqa: E402

WORDS = 330  # of a made response
MOMENTS = """
const moment = (name) => Math.round(performance.getEntriesByName(name)[0]?.startTime ?? NaN);
const loaded = Math.round(performance.getEntriesByType('navigation')[0].loadEventEnd);
return {'first paint': moment('first-contentful-paint'), curves: moment('curves'), reader: moment('reader'), loaded};
"""


def chromium() -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(argument)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


def open_page(page: Path) -> dict[str, int]:
    """Milliseconds from the start of the navigation to each moment, and of a search through all texts, in a new browser."""
    driver = chromium()
    driver.set_page_load_timeout(120)
    try:
        driver.get(page.as_uri())
        wait = WebDriverWait(driver, 120, poll_frequency=0.05)
        wait.until(lambda _: driver.execute_script("return performance.getEntriesByName('reader').length > 0"))
        moments = driver.execute_script(MOMENTS)
        started = time.perf_counter()
        driver.find_element("id", "search").send_keys("no text holds this")
        wait.until(lambda _: " hold " in driver.find_element("id", "count").text)
        return {**moments, "search": round(1000 * (time.perf_counter() - started))}
    finally:
        driver.quit()


def main() -> None:
    given = dict(word.split("=") for word in sys.argv[1:])
    steps, rollouts = int(given.get("steps", 10_000)), int(given.get("rollouts", 100_000))
    with tempfile.TemporaryDirectory() as scratch:
        run = made_runs.grpo(
            Path(scratch) / "math_grpo" / "a", steps=steps, prompts=1, answers=rollouts // steps, every=100, words=WORDS
        )
        files = [*run.glob("rollouts/*.jsonl"), run / "metrics.jsonl"]
        print(f"{steps} steps, {rollouts} rollouts, {sum(file.stat().st_size for file in files) / 1e6:.0f} MB of JSON")
        started = time.perf_counter()
        page = report.write_report(run)
        print(f"built in {time.perf_counter() - started:.1f} s, {page.stat().st_size / 1e6:.1f} MB")
        for attempt in range(3):
            print(
                f"opened {attempt + 1}: " + ", ".join(f"{name} {value} ms" for name, value in open_page(page).items())
            )


if __name__ == "__main__":
    main()
