"""Each embedded model is built at most once a test session, in the cache that the user's own runs share."""

import pytest

from posttrain_verl import base_models


@pytest.fixture(scope="session")
def folder_of():
    return base_models.ensure_model
