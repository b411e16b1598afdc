"""Every verb as somebody uses it who has not read about it: help, no words, and wrong ones."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent))

from verbs import VERBS, run

from posttrain_verl.terminal.command_line import fields, read
from posttrain_verl.verbs import VERBS as declarations

# The embedded mix, the runs of this folder, an hour of work, and a head on the usual port.
NEED_NO_WORD = {"prep", "list", "first_gpu_hour", "head"}
WRONG = {
    "launch": ["run=", "recipe=", "recipe=math_grpo posttrain.run_id=", "recipe=math_grpo eval=gsm8k", "run=/etc/passwd",
               "recipe=math_grpo address=x", "recipe=math_grpo data.train_files=[a"],
    "check": ["recipe=math_grpo trainer=1", "recipe=math_grpo base_model=", "recipe=math_grpo posttrain.runs_dir=/etc/passwd",
              "recipe=math_grpo posttrain.detach=maybe", "recipe=math_grpo ~nosuch"],
    "prep": ["mix=", "mix=/nosuch.yaml", "posttrain.data_dir=", "posttrain.data_dir=/etc/passwd"],
    "inspect": ["mix=embedded seed=x", "rows=0", "posttrain.out=.", "--who a=b"],
    "grade": [".", "mode=strict", "x.jsonl posttrain.out=/etc/passwd/x"],
    "evaluate": ["base_model= eval=gsm8k", "base_model=tiny eval=gsm8k chat_template=nosuch",
                 "base_model=tiny eval=gsm8k posttrain.out=."],
    "synthesize": ["mix=", "mix=gsm8k", "mix=embedded base_model=tiny keep=9", "mix=gsm9k base_model=tiny",
                   "mix=embedded endpoint=http://127.0.0.1:9", "mix=x.parquet base_model=tiny",
                   "mix=embedded base_model=tiny n=0"],
    "compare": ["posttrain.runs_dir=x", "run=", "x.json", "/etc/passwd"],
    "export": ["run=x posttrain=1", "run=x step=a", "run=x vllm=maybe", "run=x form="],
    "report": ["run=/etc/passwd", "run=x posttrain.out=."],
    "serve": ["posttrain.runs_dir=", "port=99999"],
    "pipeline": ["recipe=", "recipe=demo export=maybe", "recipe=demo run_id=a/b", "recipe=demo evaluate:foo=1",
                 "recipe=demo foo=1", "recipe=demo plateau=x", "recipe=demo posttrain.runs_dir=/etc/passwd"],
    "resume": ["run=/etc/passwd", "run=x recipe=math_sft", "run=x --changes"],
    "new": ["reward a b", "mix ../x", "recipe r posttrain.out=."],
    "status": ["run=/etc/passwd", "run=x posttrain.runs_dir="], "logs": ["run=x -n a"], "stop": ["run=.."],
    "list": ["posttrain.runs_dir=nosuch"], "head": ["port=80", "gpus=0", "stop=18265 port=18266"],
    "first_gpu_hour": ["out=.", "base_modl=tiny", "mode=shrt", "minutes=0"],
}  # fmt: skip


def test_the_verbs_are_found_and_each_has_wrong_words():
    assert len(VERBS) > 10 and set(WRONG) == set(VERBS) == set(declarations)


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("verb", VERBS)
def test_help(verb, flag, tmp_path, monkeypatch, capsys):
    assert run(verb, [flag], tmp_path, monkeypatch) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: python -m posttrain_verl.{verb} ")
    assert len(said.splitlines()) <= 40 and max(map(len, said.splitlines())) <= 100, "it fits one screen"
    assert f"example: python -m posttrain_verl.{verb} " in said and "exit codes: " in said
    described = [each.metadata["text"] for each in fields(declarations[verb])]
    assert described and all(described)


def test_help_imports_no_slow_library():
    """`--help` of each verb stays under a second: what takes longer is imported by the work itself."""
    code = """if True:
        import sys
        from importlib import import_module, util
        for verb in sys.argv[1:]:
            spec = util.find_spec(f"posttrain_verl.{verb}")
            import_module(f"{spec.name}.__main__" if spec.submodule_search_locations else spec.name)
        slow = {"torch", "transformers", "pandas", "scipy.stats", "statsmodels", "datasets", "ray", "verl", "vllm"}
        print(*slow & set(sys.modules))
    """
    done = subprocess.run([sys.executable, "-c", code, *VERBS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("verb", VERBS)
def test_no_words(verb, tmp_path, monkeypatch, capsys):
    if verb in NEED_NO_WORD:
        pytest.skip("it does its work")
    assert run(verb, [], tmp_path, monkeypatch) == 2
    assert remedies(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("verb", "words"),
    [(verb, words) for verb in VERBS for words in ["--nosuch", "nosuch", "nosuch=1", "=", *WRONG.get(verb, [])]],
)
def test_wrong_words(verb, words, tmp_path, monkeypatch, capsys):
    assert run(verb, words.split(), tmp_path, monkeypatch) == 2
    said = capsys.readouterr().err
    assert remedies(said)


def remedies(said: str) -> list[str]:
    """The lines that say what to do."""
    return [line for line in said.splitlines() if line.startswith("     ")]


@pytest.mark.parametrize(
    ("verb", "words", "said"),
    [
        ("status", "g2", "did you mean run=g2?"),
        ("prep", "gsm8k", "did you mean mix=gsm8k?"),
        ("check", "math_grpo", "did you mean recipe=math_grpo?"),
        ("launch", "recipe=demo", "it is a pipeline: python -m posttrain_verl.pipeline recipe=demo"),
        ("launch", "recipe=math_grpo mix=gsm", "did you mean mix=gsm8k?"),
        ("check", "recipe=rem_grpo", "your own lie in recipes/ of the folder that you start in, and "),
        ("launch", "recipe=math_grpo hardware=cpu --max-steps 10", "did you mean trainer.total_training_steps?"),
        ("prep", "rows=40 limit=80", "rows=40 and limit=80 are two names of one key"),
        ("pipeline", "recipe=demo id=x run_id=y", "id=x and run_id=y are two names of one key"),
        ("list", "runs_dir=a posttrain.runs_dir=b", "runs_dir=a and posttrain.runs_dir=b are two names of one key"),
        ("check", "recipe=math_grpo run_id=a posttrain.run_id=b", "run_id=a and posttrain.run_id=b are two names"),
    ],
)
def test_what_was_meant_is_named(verb, words, said, tmp_path, monkeypatch, capsys):
    assert run(verb, words.split(), tmp_path, monkeypatch) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verb", "words", "meant"),
    [
        ("status", "--run g2", "run=g2"),
        ("evaluate", "--base-model=tiny --eval gsm8k", "base_model=tiny eval=gsm8k"),
        ("evaluate", "base_model=tiny eval=gsm8k --max-tokens 9", "base_model=tiny eval=gsm8k max_tokens=9"),
        ("check", "--recipe math_grpo --json", "recipe=math_grpo --json"),
        ("prep", "mix=gsm8k --limit 20", "mix=gsm8k rows=20"),
        ("prep", "mix=gsm8k limit=20", "mix=gsm8k rows=20"),
        ("prep", "mix=gsm8k rows=20 limit=20", "mix=gsm8k rows=20"),
        ("prep", "mix=gsm8k rows=9 rows=20", "mix=gsm8k rows=20"),
        (
            "check",
            "recipe=math_grpo --trainer.save-freq=3 --json --changes",
            "recipe=math_grpo trainer.save_freq=3 --json --changes",
        ),
        ("pipeline", "recipe=demo id=a", "recipe=demo run_id=a"),
    ],
)
def test_a_key_that_is_written_as_a_flag_or_by_its_old_name_is_understood(verb, words, meant):
    assert read(declarations[verb], words.split()) == read(declarations[verb], meant.split())
