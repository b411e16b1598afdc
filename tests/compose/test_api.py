"""`api.compose` and `api.check` say what the verbs say, and the module is light."""

import json
import subprocess
import sys

import pytest

from posttrain_verl import api, check
from posttrain_verl.terminal import command_line
from posttrain_verl.verbs import Check

WORDS = ["recipe=math_sft", "hardware=cpu", "base_model=tiny", "mix=embedded"]


def test_importing_it_imports_nothing_heavy():
    heavy = {"torch", "ray", "verl", "vllm", "transformers", "scipy", "pandas", "jinja2", "datasets"}
    script = f"from posttrain_verl import api; import sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_the_words_are_those_of_the_command_line(tmp_path):
    composed = api.compose(*WORDS, f"runs_dir={tmp_path}", "run_id=first", "optim.lr=1e-4")
    assert composed.run_dir() == tmp_path / "math_sft" / "first" and composed.settings.model.lr == 1e-4
    assert len(repr(composed)) < 500, "a notebook shows it"
    with pytest.raises(api.InputError) as wrong:
        api.compose("recipe=math_stf", "x")
    assert "'x' is not a key=value" in str(wrong.value)


def without_seconds(facts):
    for each in facts["checks"]:
        del each["seconds"]
    return facts


@pytest.mark.parametrize("more", [[], ["optim.lrr=1"], ["data.train_batch_size=15", "data.micro_batch_size_per_gpu=4"]])
def test_a_check_has_what_the_verb_prints_as_json(more, tmp_path, capfd):
    words = [*WORDS, f"posttrain.data_dir={tmp_path}", *more]
    found = api.check(api.compose(*words))
    assert capfd.readouterr() == ("", "")
    code = command_line.main(Check, check.run, [*words, "--json"])
    assert (code == 0) is found.ok is (not more)
    assert without_seconds(found.as_dict()) == without_seconds(json.loads(capfd.readouterr().out))


def test_a_check_is_typed(tmp_path):
    found = api.check(api.compose("recipe=math_grpo", "hardware=8xh100", f"data_dir={tmp_path}"))
    assert not found.ok and found.title == "recipe 'math_grpo' cannot launch"
    assert (
        all("posttrain_verl.prep mix=math" in problem.remedy for problem in found.problems) and len(found.problems) == 2
    )
    assert (found.batch.sequences, found.batch.prompts) == (5120, 1024) and found.steps is None
    phase, peak = found.memory.peak
    assert found.memory.fits and phase in found.memory.phases and 2**33 < peak < found.memory.job.memory
    assert found.disk_bytes > 10**11
    assert str(found).startswith("recipe math_grpo: RL with GRPO") and "cannot launch (2 problems)" in str(found)


def test_problems_of_the_recipe_do_not_raise(tmp_path):
    found = api.check(api.compose(*WORDS, f"data_dir={tmp_path}", "optim.lrr=1", "data.train_batch_size=abc"))
    assert "did you mean optim.lr?" in [problem.remedy for problem in found.problems]
    assert (found.batch, found.memory, found.steps) == (None, None, None)
    assert found.to_build and "did you mean optim.lr?" in str(found)
