"""How each documented command is tested: run here, run for real by another test, or not run on a machine like this, and why.

Keys are whole commands (regular expressions) with optional words left out and examples in the place of names.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Here:
    """Run by tests/test_docs.py itself: the exit code, and something that it prints."""

    code: int
    says: str


@dataclass(frozen=True)
class Elsewhere:
    """Run, with a model or machine of another size, by the test of this name."""

    test: str


@dataclass(frozen=True)
class Nowhere:
    """Not run: what it needs."""

    needs: str


Way = Here | Elsewhere | Nowhere
BUILD = "build it: python -m posttrain_verl.prep mix=math"  # the mix is one of the hub: all that stands in the way
GRPO = "tests/e2e/test_grpo.py::test_grpo_saves_and_resumes"
PIPELINE = "tests/e2e/test_pipeline.py::test_the_pipeline_goes_on_and_ends_with_a_report"
SWEEP = "tests/e2e/test_sweep.py::test_a_sweep_of_two_runs"
RESUME = "tests/e2e/test_faults.py::test_a_killed_driver_at_the_end_of_an_epoch_and_the_same_metrics_after"
FIRST_DAY = "tests/e2e/test_first_day.py::test_the_page_word_for_word"
HEAD = "tests/e2e/clusters/test_head.py::test_the_commands_of_the_page_word_for_word"
DPO = "tests/e2e/test_dpo.py::test_pairs_are_learned_and_a_run_resumes_without_a_gap"
HUB = "the hub: a data set or model of it"

WAYS: dict[str, Way] = {
    # What starts no training.
    r"check recipe=math_grpo": Here(0, "can launch"),
    r"check recipe=math_grpo hardware=(8xh100|1x80gb)": Here(2, BUILD),
    r"check recipe=math_grpo hardware=8xh100 --rehearse": Elsewhere("tests/e2e/test_rehearsal.py::test_a_sound_recipe_passes"),
    r"launch recipe=math_grpo --cfg job": Here(0, "adv_estimator: grpo"),
    r"launch recipe=math_grpo cluster=slurm .* --dry-run": Here(2, BUILD),
    r"launch recipe=math_grpo cluster=kuberay .* --dry-run": Here(0, "kind: RayJob"),
    r"prep mix=embedded": Here(0, "rl_train.parquet"),
    r"inspect mix=embedded --approve": Here(0, "approved by"),
    r"(prep|inspect) mix=math( .*)?": Nowhere(HUB),
    r"new reward my_reward": Here(0, "posttrain check recipe=RECIPE reward=my_reward.py"),
    r"prep mix=conf/mix/mine.yaml reward=my_reward.py": Elsewhere(
        "tests/own_reward/test_new.py::test_the_mix_is_built_from_rows_and_graded_by_the_reward"
    ),
    r"check recipe=math_grpo reward=my_reward.py": Elsewhere(
        "tests/own_reward/test_check.py::test_healthy_rewards_pass_in_silence"
    ),
    r"launch recipe=math_grpo reward=my_reward.py .*": Elsewhere(
        "tests/own_reward/test_words.py::test_words_become_keys_of_verl"
    ),
    r"grade answers.jsonl reward=my_reward.py": Elsewhere("tests/own_reward/test_verbs.py::test_grade"),
    r"evaluate run=math_grpo eval=data/mine/test.parquet": Elsewhere(
        "tests/own_reward/test_verbs.py::test_which_reward_grades_an_evaluation"
    ),
    r"inspect mix=EXAMPLE --approve": Nowhere("a mix in the place of the dots"),
    r".*\bsubtract.*": Elsewhere(FIRST_DAY),
    # What looks at what there is.
    r"list": Here(0, "math_grpo/20260801-120000"),
    r"status run=math_grpo": Here(0, "done"),
    r"logs run=math_grpo": Here(0, "step 4: reward"),
    r"stop run=math_grpo": Here(0, "20260801-120000"),
    r"report run=math_grpo": Here(0, "math_grpo/20260801-120000/report.html"),
    r"report run=math_grpo/\d+-\d+ vs=math_grpo/\d+-\d+": Here(0, "math_grpo/20260801-120000/report.html"),
    r"serve": Here(130, "http://127.0.0.1:"),
    r"compare (?!run=subtract)\S+ \S+": Here(0, "on gsm8k"),
    r"grade completions\.(jsonl|parquet)( .*)?": Here(0, "openai/gsm8k"),
    # What trains.
    r"launch recipe=math_grpo( actor_rollout_ref.actor.optim.lr=3e-6)?": Elsewhere(GRPO),
    r"launch recipe=math_grpo posttrain.watch.silence.\S+ posttrain.watch.no_variance.do=warn": Elsewhere(
        "tests/e2e/test_faults.py::test_a_reward_that_hangs"
    ),
    r"launch recipe=math_grpo posttrain.detach=true": Elsewhere(
        "tests/run/test_faults.py::test_a_detached_run_goes_on_alone_and_is_followed"
    ),
    r"launch recipe=math_grpo cluster=ray address=\S+": Elsewhere(
        "tests/e2e/clusters/test_submission.py::test_a_job_trains_on_two_nodes_and_its_files_come_back"
    ),
    r"head .*|.*demo_sft.*\btry\b.*": Elsewhere(HEAD),
    r"launch recipe=demo_sft( posttrain.mix.seed=1 \S+)?": Elsewhere(PIPELINE),
    r"launch recipe=demo_dpo base_model=EXAMPLE": Elsewhere(DPO),
    r"launch recipe=math_dpo(_lora)?": Elsewhere(DPO),
    r"evaluate run=demo_sft eval=\S+ max_tokens=64": Nowhere("a minute of SFT before it; it measures a row of evidence"),
    r"launch recipe=demo_grpo base_model=EXAMPLE": Elsewhere(PIPELINE),
    r"launch recipe=demo_smollm2_(sft|grpo base_model=EXAMPLE)": Nowhere("half an hour on two cores; its smaller twin is demo"),
    r"launch recipe=\w+ hardware=(1x80gb|8xh100|8x8xh100)": Elsewhere("tests/e2e/test_rehearsal.py::test_the_library"),
    r"resume run=math_grpo/\S+": Elsewhere(RESUME),
    r"launch -m recipe=math_grpo actor_rollout_ref.actor.optim.lr=1e-6,3e-6( \S+)?": Elsewhere(SWEEP),
    r"launch -m recipe=math_grpo hydra/sweeper=optuna .*": Elsewhere(
        "tests/sweep/test_sweep.py::test_optuna_searches_and_goes_on"
    ),
    r"launch -m posttrain.sweep=EXAMPLE": Elsewhere("tests/sweep/test_sweep.py::test_going_on_repeats_only_what_is_not_done"),
    r"pipeline recipe=demo(_smollm2)?( seed=\d)?": Elsewhere(PIPELINE),
    r"pipeline recipe=math(_rft|_dpo)? hardware=8xh100.*": Nowhere("8 GPUs, and " + HUB),
    r"pipeline recipe=demo_dpo( seed=\d)?": Elsewhere(
        "tests/e2e/test_dpo_pipeline.py::test_dpo_is_better_than_the_sft_it_begins_at"
    ),
    r"pipeline recipe=demo_rft": Elsewhere("tests/e2e/test_synthesize.py::test_own_answers_are_trained_on"),
    # What needs weights that a run left.
    r"synthesize mix=embedded run=demo_sft rows=512": Elsewhere("tests/e2e/test_synthesize.py::test_own_answers_are_trained_on"),
    r"synthesize mix=math .*": Nowhere("a GPU or a service, and " + HUB),
    r"inspect mix=embedded_demo_sft --approve": Elsewhere(
        "tests/synthesize/test_synthesize.py::test_inspect_shows_its_rows_and_approval_counts"
    ),
    r"evaluate base_model=smollm2_135m eval=embedded": Elsewhere("tests/e2e/test_evaluate.py::test_two_replicas_answer_as_one"),
    r"evaluate (base_model=qwen\S+|run=math_grpo) eval=gsm8k( .*)?": Nowhere(HUB),
    r"export run=(math_grpo|FOLDER dtype=bfloat16 vllm=false posttrain.out=my-model)": Elsewhere(
        "tests/e2e/test_export.py::test_weights_that_are_not_those_of_the_checkpoint_fail"
    ),
    r"export run=math_grpo_lora/x step=40 form=adapter": Elsewhere("tests/e2e/test_export.py::test_a_lora_run_of_two_ranks"),
    r"first_gpu_hour": Nowhere("a GPU; without one tests/first_gpu_hour runs its parts"),
    r"first_gpu_hour mode=short": Elsewhere(
        "tests/first_gpu_hour/test_carried.py::test_the_short_mode_runs_with_torch_and_the_carried_folder_alone"
    ),
}  # fmt: skip
