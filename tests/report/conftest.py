"""The generator of run folders, and a browser."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # the generator is also used by benchmarks/report.py


@pytest.fixture
def browser(chromium):
    """The browser with an empty page and empty logs."""
    yield chromium
    chromium.get("about:blank")
    for log in ("browser", "performance"):
        chromium.get_log(log)


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium, driven by Selenium; one for all tests."""
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        pytest.skip("no chromium or chromedriver here: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    driver.implicitly_wait(5)
    yield driver
    driver.quit()
