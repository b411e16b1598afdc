"""Model code is run for real in these tests; without a sandbox they are skipped, and say why."""

import pytest
from hypothesis import settings

import reward_fns
from reward_fns.code.sandbox import SandboxUnavailable, interpreter

settings.register_profile("shared_machine", deadline=None)  # worker processes start inside the first example
settings.load_profile("shared_machine")


@pytest.fixture(scope="session")
def sandboxed():
    """Skips where bubblewrap does not work."""
    try:
        interpreter()
    except SandboxUnavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session", autouse=True)
def processes_end():
    yield
    reward_fns.close()
