"""Facts about the files under version control that are easy to forget."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = {".py", ".sh", ".yaml", ".toml"}
LONGEST = 500
# Split so that this file does not hold what it looks for.
FOREIGN = re.compile(
    "|".join(
        ["files." + "pythonhosted", "pypi" + r"\.org", "registry." + "npmjs", "deb." + "debian"]
        + [rf"(?<![\w.]){folder}" for folder in ("/wo" + "rk/", "/ro" + "ot/", "/fa" + "rm/", "/opt/wh" + "eels")]
    )
)


@pytest.fixture(scope="module")
def files() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.splitlines() if (ROOT / name).is_file()]


def test_no_source_file_is_long(files):
    lengths = {file: len(file.read_text().splitlines()) for file in files if file.suffix in SOURCE}
    assert lengths
    assert not {str(file.relative_to(ROOT)): lines for file, lines in lengths.items() if lines > LONGEST}


def test_no_file_names_a_package_registry_or_a_path_of_one_machine(files):
    found = []
    for file in files:
        text = file.read_bytes().decode("utf-8", errors="replace")
        found += [f"{file.relative_to(ROOT)}: {match.group()}" for match in FOREIGN.finditer(text)]
    assert not found


def test_every_recipe_is_small_and_says_what_it_claims(files):
    recipes = [file for file in files if file.parent == ROOT / "recipes"]
    assert recipes
    for recipe in recipes:
        lines = recipe.read_text().splitlines()
        assert lines[0].startswith("#"), f"{recipe.name} has no header"
        body = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
        assert len(body) <= 20, f"{recipe.name} has {len(body)} lines"
