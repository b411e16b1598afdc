"""Model code is run for real in these tests; without a sandbox they are skipped, and say why."""

import pytest

import reward_fns
from reward_fns.code.sandbox import SandboxUnavailable, find_interpreter


@pytest.fixture(scope="session")
def sandboxed():
    """Skips where bubblewrap does not work."""
    try:
        find_interpreter()
    except SandboxUnavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session", autouse=True)
def processes_end():
    yield
    reward_fns.close()
