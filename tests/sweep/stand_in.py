"""Stands for `launch`: leaves a run folder whose validation follows from the learning rate, in a moment.

`python -m stand_in key=value ...`; a learning rate of 1 fails, of 8 is killed, of 9 waits to be interrupted. `run=FOLDER`
goes on with such a run. Each line of words.jsonl is one start.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path


def read(argv: list[str]) -> dict[str, str]:
    return dict(word.lstrip("+").split("=", 1) for word in argv)


words = read(sys.argv[1:])
if "run" in words:
    folder = Path(words["run"])
    words = read(json.loads((folder / "words.jsonl").read_text().splitlines()[0]))
else:
    folder = Path(words["posttrain.runs_dir"], words["recipe"], words["posttrain.run_id"])
    folder.mkdir(parents=True)
rate = float(words.get("optim.lr", words.get("actor_rollout_ref.actor.optim.lr", "0.5")))
state, why, code = "done", "", 0


def leave(state: str, why: str) -> None:
    (folder / "status.json").write_text(json.dumps({"state": state, "why": why, "started": time.time()}))


with (folder / "words.jsonl").open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\n")
leave("running", "")
if rate == 8:
    os.kill(os.getpid(), signal.SIGKILL)
try:
    time.sleep(60 if rate == 9 else float(words.get("trainer.total_epochs", "0")))
    if rate == 1:
        state, why, code = "failed", "ValueError: lr", 1
except KeyboardInterrupt:
    state, why, code = "interrupted", "interrupted", 130
if state == "done":
    if words["recipe"].endswith("grpo"):
        (folder / "validation").mkdir()
        lines = [{"input": f"q{i}", "score": 1.0, "acc": float(i < 200 * rate), "step": 4} for i in range(200)]
        (folder / "validation/4.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        graded = {"val-core/set/acc/mean@1": rate, "val-aux/set/score/mean@1": 1.0}
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 4, "data": graded}) + "\n")
    else:
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 2, "data": {"val/loss": rate}}) + "\n")
leave(state, why)
sys.exit(code)
