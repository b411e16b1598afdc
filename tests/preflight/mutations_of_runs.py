"""More kinds for mutations.py: what a run cannot do or find, each key right by itself."""

from __future__ import annotations

import random

from mutations import ACTOR, REMOVED, ROLLOUT, Changes, Valid, kind  # test_mutations.py has loaded it


@kind
def impossible_batch(dice: random.Random, valid: Valid) -> tuple[Changes, tuple[str, ...]]:
    batch = valid.get("data.train_batch_size")
    if valid.stage == "sft":
        wrong = dice.choice([{"data.train_batch_size": 0}, {"data.train_batch_size": -8}, {"data.train_batch_size": 10**7},
                             {"data.use_dynamic_bsz": False, "data.micro_batch_size_per_gpu": 7},
                             {"data.use_dynamic_bsz": False, "data.micro_batch_size_per_gpu": None},
                             {"data.use_dynamic_bsz": True, "data.max_token_len_per_gpu": 16}])  # fmt: skip
    else:
        mini, micro = f"{ACTOR}.ppo_mini_batch_size", f"{ACTOR}.ppo_micro_batch_size_per_gpu"
        still = {f"{ACTOR}.use_dynamic_bsz": False}
        wrong = dice.choice([{mini: batch * 2}, {mini: 0}, {mini: batch - 1}, {"data.train_batch_size": 0},
                             {"data.train_batch_size": 10**7}, {f"{ROLLOUT}.n": 0}, {f"{ROLLOUT}.n": -1},
                             {**still, micro: 10**4 + 7}, {**still, micro: None}, {**still, micro: 0},
                             {f"{ACTOR}.ppo_micro_batch_size": batch},
                             {f"{ROLLOUT}.log_prob_micro_batch_size": 8},
                             {**still, f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu": None}])  # fmt: skip
    return wrong, tuple(wrong)


@kind
def too_few_tokens(dice: random.Random, valid: Valid) -> tuple[Changes, tuple[str, ...]] | None:
    if valid.stage == "sft":
        return None
    long = valid.get("data.max_prompt_length") + valid.get("data.max_response_length")
    wrong = dice.choice([
        {f"{ACTOR}.use_dynamic_bsz": True, f"{ACTOR}.ppo_max_token_len_per_gpu": 8},
        {f"{ROLLOUT}.max_model_len": long - 1},
        {f"{ROLLOUT}.max_num_batched_tokens": 64, f"{ROLLOUT}.max_num_seqs": 128},
        {f"{ROLLOUT}.log_prob_use_dynamic_bsz": not valid.get(f"{ROLLOUT}.log_prob_use_dynamic_bsz")},
        {"data.max_response_length": 10**6}, {"data.max_prompt_length": 0},
    ])  # fmt: skip
    return wrong, (*wrong, "actor.use_dynamic_bsz", "ppo_max_token_len_per_gpu")


@kind
def contradictory_parallelism(dice: random.Random, valid: Valid) -> tuple[Changes, tuple[str, ...]]:
    gpus = valid.get("trainer.n_gpus_per_node") * valid.get("trainer.nnodes")
    if valid.stage == "sft":
        wrong: Changes = dice.choice([{"engine.ulysses_sequence_parallel_size": gpus * 2},
                                      {"engine.ulysses_sequence_parallel_size": 2, "model.use_remove_padding": False},
                                      {"trainer.nnodes": 0}, {"engine.fsdp_size": 0}])  # fmt: skip
    else:
        unpacked = {"actor_rollout_ref.model.use_remove_padding": False}
        wrong = dice.choice([{f"{ROLLOUT}.tensor_model_parallel_size": gpus * 3},
                             {f"{ROLLOUT}.tensor_model_parallel_size": 0},
                             {f"{ROLLOUT}.data_parallel_size": gpus * 2},
                             {f"{ROLLOUT}.expert_parallel_size": 5},
                             {f"{ACTOR}.ulysses_sequence_parallel_size": gpus * 2},
                             {f"{ACTOR}.ulysses_sequence_parallel_size": 2, **unpacked},
                             {f"{ACTOR}.fsdp_config.fsdp_size": 0},
                             {"trainer.nnodes": 0}, {"trainer.n_gpus_per_node": 0},
                             {"trainer.v1.trainer_mode": "separate_async"}])  # fmt: skip
    return wrong, (*(key.rpartition(".")[2] for key in wrong), "separate_async")


@kind
def missing_file(dice: random.Random, valid: Valid) -> tuple[Changes, tuple[str, ...]]:
    gone = valid.files["missing"]
    shared: list[Changes] = [{"data.train_files": gone}, {"data.val_files": [gone]},
                             {"trainer.resume_mode": "resume_path", "trainer.resume_from_path": f"{gone}/global_step_4"},
                             {"trainer.resume_mode": "resume_path", "trainer.resume_from_path": None}]  # fmt: skip
    model = "model" if valid.stage == "sft" else "actor_rollout_ref.model"
    shared.append({f"{model}.path": gone})
    shared.append({f"{model}.lora_rank": 8, f"{model}.lora_adapter_path": gone, f"{ROLLOUT}.load_format": "safetensors"}
                  if valid.stage == "rl" else {f"{model}.lora_rank": 8, f"{model}.lora_adapter_path": gone})  # fmt: skip
    if valid.stage == "rl":
        shared += [{"reward.custom_reward_function.path": gone}, {"reward.custom_reward_function.path": "pkg://no.such"},
                   {"reward.custom_reward_function.name": "no_such_function"}]  # fmt: skip
    wrong = dice.choice(shared)
    return wrong, (gone, *wrong)


@kind
def bad_data(dice: random.Random, valid: Valid) -> tuple[Changes, tuple[str, ...]] | None:
    """A Parquet file with something wrong in it; what is wrong is the key of its path in `files`."""
    said = {"no parquet": "is not a readable Parquet file", "no column": "has no column", "no rows": "has no rows",
            "other schema": "training needs", "two rows": "fewer than data.train_batch_size"}  # fmt: skip
    if valid.stage == "rl":
        said |= {"wrong gold": "empty golds", "unknown source": "no grader is registered"}
    else:
        said |= {"no answer": "has no turn of the role assistant"}
    if valid.name.endswith("on cpu"):
        said |= {"no template": "cannot render the data"} if valid.stage == "rl" else {"long rows": "are longer than"}
    flaw = dice.choice(list(said))
    return {"data.train_files": valid.files[f"{valid.stage} {flaw}"]}, (said[flaw],)


@kind
def removed_node(dice: random.Random, valid: Valid) -> tuple[Changes, tuple[str, ...]]:
    nodes = ["trainer", "data"] + (["algorithm", ROLLOUT, f"{ACTOR}.optim", "reward"] if valid.stage == "rl"
                                   else ["optim", "engine", "checkpoint"])  # fmt: skip
    key = dice.choice(nodes)
    if dice.random() < 0.5:
        return {key: REMOVED}, (f"{key} was removed", f"{key}.")
    return {key: dice.choice([3, "none"])}, (f"{key}=", "interpolation")


@kind
def broken_interpolation(dice: random.Random, valid: Valid) -> tuple[Changes, tuple[str, ...]]:
    key = dice.choice(["trainer.project_name", "data.train_batch_size", "trainer.total_epochs"])
    return {key: dice.choice(["${nowhere.to.be.found}", "${no_resolver:1}"])}, ("an interpolation cannot be resolved",)


@kind
def unsound_training(dice: random.Random, valid: Valid) -> tuple[Changes, tuple[str, ...]]:
    """What VeRL starts without a word and ends badly."""
    if valid.stage == "sft":
        wrong: list[tuple[Changes, str]] = [
            ({"optim.lr_warmup_steps_ratio": 2.0}, "lr_warmup_steps_ratio"),
            ({"model.lora.rank": 16}, "read by Megatron alone"),
            ({"engine.model_dtype": "bf16", "optim.lr": 1e-6}, "lose updates"),
        ]  # fmt: skip
    else:
        lora = {"actor_rollout_ref.model.lora_rank": 16}
        wrong = [
            ({**lora, f"{ROLLOUT}.load_format": "dummy"}, "on top of random base weights"),
            ({"actor_rollout_ref.model.lora.rank": 16}, "read by Megatron alone"),
            ({f"{ACTOR}.fsdp_config.model_dtype": "bf16", f"{ACTOR}.optim.lr": 1e-6,
              "actor_rollout_ref.model.lora_rank": 0}, "lose updates"),
            ({"algorithm.adv_estimator": "rloo", f"{ROLLOUT}.n": 1}, "compares the answers of a group"),
            ({"algorithm.filter_groups.enable": True, f"{ROLLOUT}.n": 1}, "a group of one has none"),
            ({"algorithm.filter_groups.enable": True, "algorithm.filter_groups.metric": "accuracy"}, "is not a part of a grade"),
            ({"algorithm.filter_groups.enable": True, "trainer.v1.sampler.sampler_kwargs.filter_groups": {}},
             "filter_groups is ignored"),
            ({"reward.reward_kwargs": {"mode": "strict"}}, "is not read by the reward manager"),
            ({"reward.custom_reward_function.reward_kwargs": {"shaping": {"lenght": {}}}}, "shaping.lenght is unknown"),
            ({f"{ACTOR}.policy_loss.loss_mode": "dro"}, "needs"),
            ({"algorithm.rollout_correction.rollout_rs": "token_k1"}, "rollout_rs needs"),
            ({f"{ROLLOUT}.do_sample": False}, "every answer of a group would be the same"),
            ({"reward.reward_model.enable": True}, "without a model"),
            ({"reward.reward_model.enable": True, "reward.reward_model.model_path": "judge"}, "starts a model that nobody asks"),
            ({"trainer.use_v1": False}, "the old trainer has neither"),
            ({f"{ACTOR}.use_prefix_grouper": True}, "read by VeRL's old trainer only"),
            ({"reward.reward_model.enable_resource_pool": True}, "asks for GPUs of its own"),
            ({"distillation.enabled": True}, "asks for GPUs of its own"),
        ]  # fmt: skip
    changes, said = dice.choice(wrong)
    return changes, (said,)


@kind
def unsound_schedule(dice: random.Random, valid: Valid) -> tuple[Changes, tuple[str, ...]]:
    steps = {"trainer.total_training_steps": 10**6, "trainer.total_epochs": 1}
    wrong: list[Changes] = [steps]
    if valid.stage == "sft":
        wrong += [{"trainer.save_freq": 0}, {"data.val_files": None, "trainer.test_freq": 5},
                  {"trainer.profile_interval": [4, 2]}, {"trainer.profile_interval": [1]}]  # fmt: skip
    else:
        wrong += [{"trainer.save_freq": "after_each_epoch"}, {"trainer.test_freq": "after_each_epoch"},
                  {"trainer.critic_warmup": 10**6}]  # fmt: skip
    changes = dice.choice(wrong)
    return changes, tuple(changes)
