"""What `synthesize` is asked to do: whose questions, which model, how many answers, and what is selected of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from posttrain_verl.evaluate import job as evaluating
from posttrain_verl.evaluate.sampling import Generate, Sampler
from posttrain_verl.export.weights import ensure_weights
from posttrain_verl.synthesize.endpoint import Endpoint, read_endpoint
from posttrain_verl.synthesize.questions import Questions, find_questions
from posttrain_verl.synthesize.selection import Rules
from posttrain_verl.verbs import Synthesize
from reward_fns.own import OwnReward

TITLE = Synthesize.TITLE
MAX_TOKENS, KEEP = 1024, 4
ANSWERS, ENGINE_LOG = "answers.jsonl", "engine.log"  # in the folder of the data


@dataclass(frozen=True)
class Teacher:
    """Who answers. `generate` answers what is missing, and `identity` is what answers depend on."""

    generate: Generate
    identity: Mapping[str, Any]
    model: str
    endpoint: Endpoint | None = None

    def facts(self) -> dict[str, Any]:
        """What the manifest says of it: the model and its revision, or the endpoint."""
        if self.endpoint:
            return {"endpoint": self.endpoint.url, "model": self.model}
        if Path(self.model).is_dir():
            return {"model": self.model, "fingerprint": self.identity["model"]}
        file = try_to_load_from_cache(self.model, "config.json")  # snapshots/COMMIT/config.json
        return {"model": self.model, "revision": Path(file).parent.name if isinstance(file, str) else None}


@dataclass(frozen=True)
class Job:
    """`n` answers by `teacher` to each of `questions` (at most `rows`, stratified), graded by ours or by `reward`, of which a
    score of `right_at` is right. What `rules` select goes into `folder`, of a share `val` of questions for validation."""

    folder: Path
    questions: Questions
    teacher: Teacher
    n: int
    rules: Rules
    val: float
    rows: int | None = None
    stratify: str | None = None
    reward: OwnReward | None = None
    right_at: float | None = None
    force: bool = False

    @property
    def answers(self) -> Path:
        """The file of the answers as they come."""
        return self.folder / ANSWERS


def read_job(given: Synthesize) -> Job:
    """The job that the arguments ask for. Builds the mix and an embedded model, if they are not there.

    Raises:
        InputError: the mix, the model, the run, the endpoint's key or the reward is not there.
    """
    run = evaluating.find_run(given)
    reward = evaluating.choose_reward(given, run)
    questions = find_questions(given.mix, Path(given.data_dir).expanduser(), reward)
    limits = questions.limits
    longest = evaluating.run_lengths(run).get("max_tokens") if run else None
    longest = longest or (limits.solution if limits.tokenizer != "bytes" else None) or MAX_TOKENS
    drawn: dict[str, Any] = {"temperature": given.temperature, "top_p": given.top_p, "seed": given.seed,
                             "max_tokens": given.max_tokens or longest}  # fmt: skip
    endpoint = read_endpoint(given.endpoint, given.arguments, drawn) if given.endpoint else None
    label = endpoint.model if endpoint else run.path.parent.name if run else Path(str(given.base_model)).name
    name = given.data_name or f"{questions.name}_{label.replace('/', '_')}"
    folder = (Path(given.data_dir).expanduser() / name).absolute()
    if endpoint:
        teacher = Teacher(endpoint.generate, endpoint.identity, endpoint.model, endpoint)
    else:
        model = str(ensure_weights(run)) if run else evaluating.find_model(str(given.base_model))
        template = evaluating.choose_template(given.chat_template, run, model, TITLE)
        sampler = Sampler(model, **drawn, log=folder / ENGINE_LOG, replicas=given.replicas,
                          tensor_parallel=given.tensor_parallel, chat_template=template)  # fmt: skip
        teacher = Teacher(sampler.generate, sampler.identity, model)
    rejects = given.also_reject.split(",")
    keep = min(KEEP, given.n) if given.keep is None else given.keep
    rules = Rules(keep, given.choice, given.near_duplicate, given.pairs, given.match_lengths,
                  "cut_off" in rejects, "undecided" in rejects, given.seed)  # fmt: skip
    right_at = given.right_at if given.right_at is not None else evaluating.read_right_at(run)
    return Job(folder, questions, teacher, given.n, rules, given.val, given.rows, given.stratify, reward, right_at,
               given.force)  # fmt: skip
