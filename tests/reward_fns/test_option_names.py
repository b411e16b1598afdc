"""Options of graders that had another name in an earlier version."""

import pytest

import reward_fns


def test_one_option_under_two_names_is_refused_unless_they_agree():
    assert reward_fns.under_current_names({"limit": 3, "mode": "strict"}) == {"timeout": 3, "mode": "strict"}
    assert reward_fns.under_current_names({"limit": 3, "timeout": 3}) == {"timeout": 3}
    with pytest.raises(ValueError, match="timeout=0 and limit=3 are two names of one option"):
        reward_fns.grade("math", "4", "4", timeout=0, limit=3)
