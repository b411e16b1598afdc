"""A step of preference optimization gives the numbers on which TRL's DPOTrainer agreed (benchmarks/dpo_vs_trl.py, TRL 1.16.0)."""

import json
from pathlib import Path

import pytest

HERE = Path(__file__).parent
AGREES = 1e-5  # of TRL's number; of a gradient's projection, of its norm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("ranks", [1, 2])
def test_loss_margin_and_gradients_are_those_of_trl(tmp_path, monkeypatch, ranks):
    monkeypatch.syspath_prepend(str(HERE))
    import pair_step
    import torch

    golden = json.loads((HERE / "dpo_golden.json").read_text())
    pair_step.make_case(tmp_path)
    measured = torch.load(pair_step.start_ranks(tmp_path, ranks))
    assert len(measured) == 3 * len(golden) == 18
    for case, found in measured.items():
        known = golden[f"{case.rpartition('/')[0]}/4"]
        mine = pair_step.summarize(found)
        assert mine["loss"] == pytest.approx(known["loss"], rel=AGREES), case
        assert mine["margin"] == pytest.approx(known["margin"], rel=AGREES), case
        assert mine["gradients"].keys() == known["gradients"].keys()
        for name, (norm, projection) in known["gradients"].items():
            bound = AGREES * norm
            assert mine["gradients"][name] == pytest.approx([norm, projection], abs=bound), (case, name)
