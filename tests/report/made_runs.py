"""Run folders as VeRL and our verbs leave them, of any size, with the noise of real ones. Also for benchmarks/report.py."""

from pathlib import Path

import numpy as np
from made_texts import SOURCE, evaluation, rollouts, write, write_lines

START = 1_780_000_000.0
MEMORY = [
    {"line": "weights, bf16", "gb": 14.2, "formula": "2 x parameters / ranks", "source": "FSDP2", "phases": ["update"]}
]


def rise(steps: int, low: float, high: float) -> np.ndarray:
    return low + (high - low) * (1 - np.exp(-3 * np.arange(steps) / max(1, steps - 1)))


def metrics(steps: int, rng: np.random.Generator, every: int) -> list[dict]:
    """metrics.jsonl of a GRPO run whose gradient once is not finite."""
    score = np.clip(rise(steps, 0.25, 0.7) + rng.normal(0, 0.03, steps), 0, 1)
    length, entropy = (
        rise(steps, 180, 320) + rng.normal(0, 6, steps),
        rise(steps, 0.9, 0.25) + rng.normal(0, 0.02, steps),
    )
    kl, norm = rise(steps, 0, 0.08) + rng.gamma(2, 0.002, steps), rng.lognormal(-1.5, 0.4, steps)
    gen, update, log = (rng.gamma(60, size / 60, steps) for size in (22, 14, 6))
    lines = []
    for i in range(steps):
        step = i + 1
        data = {
            "critic/score/mean": score[i],
            "critic/score/max": 1.0,
            "critic/score/min": 0.0,
            "critic/rewards/mean": score[i] - kl[i],
            "reward/score/mean": score[i],
            "reward/acc/mean": score[i],
            "reward/format/mean": min(1.0, score[i] + 0.2),
            "reward/answered/mean": min(1.0, score[i] + 0.25),
            "actor/entropy": entropy[i],
            "actor/grad_norm": norm[i],
            "actor/ppo_kl": kl[i] / 20,
            "actor/kl_loss": kl[i],
            "actor/lr": 1e-6,
            "response_length/mean": length[i],
            "response_length/max": 1024.0,
            "response_length/clip_ratio": max(0.0, rng.normal(0.02, 0.01)),
            "prompt_length/mean": 101.0,
            "prompt_length/max": 256.0,
            "training/rollout_actor_probs_pearson_corr": 1 - rng.gamma(2, 5e-4),
            "timing_s/gen": gen[i],
            "timing_s/update_actor": update[i],
            "timing_s/old_log_prob": log[i],
            "timing_s/ref": log[i] * 0.9,
            "timing_s/reward": 0.4,
            "timing_s/adv": 0.1,
            "timing_s/update_weights": 2.1,
            "timing_s/step": gen[i] + update[i] + 2 * log[i] + 4,
            "perf/throughput": 2400 + rng.normal(0, 60),
            "actor/perf/max_memory_allocated_gb": 52.5,
            "actor/perf/max_memory_reserved_gb": 61.0,
            "actor/perf/cpu_memory_used_gb": 118 + step / steps,
            **{f"critic/advantages/part_{k}": float(k) for k in range(40)},
        }
        if step % every == 0 or step == steps:
            data[f"val-aux/{SOURCE}/score/mean@1"] = float(score[i])  # a grade with parts, as ours
            data[f"val-core/{SOURCE}/acc/mean@1"] = float(np.clip(score[i] - 0.05 + rng.normal(0, 0.01), 0, 1))
            data["timing_s/testing"] = 20.0
            data["timing_s/step"] += 20.0
        lines.append({"step": step, "data": data})
    lines[steps // 2]["data"]["actor/grad_norm"] = float("nan")
    return lines


def manifest(folder: Path, inspected: bool = False) -> None:
    write(
        folder / "manifest.json",
        {
            "schema_version": 1,
            "mix": {"name": "math"},
            "seed": 0,
            "sources": {
                "gsm8k": {
                    "kind": "gsm8k",
                    "licence": "MIT",
                    "rows_in": 7473,
                    "rows_kept": 7440,
                    "drops": {"false_step": 21, "overlap": 12},
                },
                "math": {
                    "kind": "math",
                    "licence": "MIT",
                    "rows_in": 12000,
                    "rows_kept": 11650,
                    "drops": {"broken_latex": 350},
                },
            },
            "files": {
                "rl_train.parquet": {
                    "rows": 16384,
                    "rows_by_source": {"gsm8k": 6554, "math": 9830},
                    "sha256": "ab" * 32,
                }
            },
            "inspected": [{"who": "ada", "when": "2026-08-01T10:00:00+00:00", "rows": 30}] if inspected else [],
        },
    )


def grpo(folder: Path, steps=120, prompts=2, answers=8, every=10, state="done", words=20, seed=0, dump=1) -> Path:
    """A GRPO run; every `dump`-th step has its rollouts, `prompts` x `answers` of them."""
    rng = np.random.default_rng(seed)
    lines = metrics(steps, rng, every)
    write_lines(folder / "metrics.jsonl", lines)
    for line in lines[dump - 1 :: dump]:
        rollouts(folder / "rollouts", line["step"], prompts, answers, line["data"]["critic/score/mean"], rng, words)
    for step in range(every, steps + 1, every):
        rollouts(folder / "validation", step, 4, 1, 0.5, rng, words, graded=True)
    data = folder.parent.parent / "data" / "math"
    manifest(data)
    write(
        folder / "config.yaml",
        {
            "data": {
                "train_files": str(data / "rl_train.parquet"),
                "max_response_length": 1024,
                "max_prompt_length": 512,
            },
            "trainer": {"total_training_steps": steps, "nnodes": 1},
            "algorithm": {"adv_estimator": "grpo"},
            "actor_rollout_ref": {"actor": {"optim": {"lr": 1e-6}}, "rollout": {"n": 5, "temperature": 1.0}},
            "reward": {"custom_reward_function": {"path": "pkg://reward_fns", "name": "compute_score"}},
        },
    )
    write(
        folder / "plan.json",
        {
            "recipe": "math_grpo",
            "stage": "rl",
            "overrides": ["recipe=math_grpo", "trainer.nnodes=1"],
            "hardware": "8xh100",
            "devices": "8 x NVIDIA H100",
            "mix": "math",
            "model": "Qwen/Qwen2.5-7B-Instruct",
            "memory": MEMORY,
            "memory_phases": {"rollout": 61.0, "update": 54.0, "host": 130.0},
            "arithmetic": {"prompts": 1024, "words": "1024 prompts x 5 rollouts = 5120 sequences a step"},
            "changes": [
                {
                    "key": "actor_rollout_ref.rollout.gpu_memory_utilization",
                    "old": 0.5,
                    "new": 0.6,
                    "why": "80 GB hold it",
                }
            ],
        },
    )
    write(
        folder / "preflight.json",
        {
            "ok": True,
            "checks": [
                {"check": "keys", "verdict": "passed", "seconds": 0.1, "problems": [], "note": ""},
                {
                    "check": "disk",
                    "verdict": "warned",
                    "seconds": 0.1,
                    "problems": [{"what": "210 GB free of 200 needed", "remedy": "keep fewer checkpoints"}],
                    "note": "",
                },
            ],
        },
    )
    ended = None if state == "running" else START + steps * 48
    write(
        folder / "status.json",
        {
            "state": state,
            "pid": 1,
            "started": START,
            "ended": ended,
            "last_step": steps,
            "why": "the loss is not finite" if state == "failed" else "",
            "machine": "node-1",
        },
    )
    write_lines(
        folder / "events.jsonl",
        [
            {
                "time": START + 9,
                "rule": "grad_norm",
                "level": "warn",
                "step": steps // 2 + 1,
                "stage": "rl",
                "saw": "grad_norm is nan",
                "why": "the step was skipped; a run can train on nothing for ever",
            },
            {
                "time": START + 10,
                "rule": "length",
                "level": "info",
                "step": steps - 1,
                "stage": "rl",
                "saw": "length rose by 70 %",
                "why": "",
            },
        ],
    )
    return folder


def plain_reward(folder: Path, right_at: float | None = None) -> Path:
    """Two steps of a run whose reward returns a number, which VeRL logs and dumps under the name `acc`, too."""
    lines = []
    for step, scores in ((1, (0.1, 0.1, 0.1, 0.1)), (2, (0.1, 0.1, 0.1, 0.8999999761581421))):
        mean = round(sum(scores) / len(scores), 6)
        keys = ("critic/score/mean", "reward/acc/mean", "val-core/gsm8k/acc/mean@1", "val-aux/gsm8k/reward/mean@1")
        lines.append({"step": step, "data": dict.fromkeys(keys, mean)})
        answer = {"input": "1+1", "output": "2", "gts": "2", "step": step}
        write_lines(folder / "rollouts" / f"{step}.jsonl", [answer | {"score": score} for score in scores])
        graded = [answer | {"score": score, "reward": score, "acc": score} for score in scores]
        write_lines(folder / "validation" / f"{step}.jsonl", graded)
    write_lines(folder / "metrics.jsonl", lines)
    write(folder / "config.yaml", {"reward": {"custom_reward_function": {"path": "mine.py", "name": "score"}}})
    write(folder / "plan.json", {"recipe": "mine", "stage": "rl", "posttrain": {"reward": {"right_at": right_at}}})
    write(folder / "status.json", {"state": "done", "started": START, "ended": START + 60, "last_step": 2})
    return folder


def sft(folder: Path, steps=80, seed=0) -> Path:
    """An SFT run: loss, held-out loss, and nothing of RL."""
    rng = np.random.default_rng(seed)
    loss = rise(steps, 1.6, 0.35) + rng.normal(0, 0.03, steps)
    lines = [
        {"step": i + 1, "data": {"train/loss": loss[i], "train/grad_norm": rng.lognormal(0, 0.3), "train/lr": 2e-5}}
        for i in range(steps)
    ]
    for line in lines[9::10]:
        line["data"]["val/loss"] = line["data"]["train/loss"] + 0.05
    write_lines(folder / "metrics.jsonl", lines)
    write(folder / "plan.json", {"recipe": "math_sft", "stage": "sft", "overrides": ["recipe=math_sft"], "changes": []})
    write(folder / "config.yaml", {"trainer": {"total_training_steps": steps}})
    write(
        folder / "status.json", {"state": "done", "started": START, "ended": START + 900, "last_step": steps, "why": ""}
    )
    return folder


def sweep(home: Path, rates=("1e-6", "3e-6", "1e-5")) -> Path:
    """Three members that are done, and one that never began."""
    folder = home / "multirun" / "20260801-120000"
    members = []
    for number, rate in enumerate((*rates, "1")):
        run = home / "math_grpo" / f"20260801-120000-{number}"
        words = ["recipe=math_grpo", f"++actor_rollout_ref.actor.optim.lr={rate}"]
        member = {
            "number": number,
            "overrides": words,
            "folder": str(run),
            "state": "failed",
            "code": 1,
            "why": "no memory",
        }
        if rate in rates:
            grpo(run, steps=60, seed=number, prompts=1)
            member |= {"state": "done", "code": 0, "seconds": 2880.0, "why": ""}
        members.append(member)
    write(folder / "sweep.json", {"folder": str(folder), "verb": "posttrain_verl.launch", "words": ["recipe=math_grpo"],
                                  "flags": [], "members": members})  # fmt: skip
    return folder


def pipeline(home: Path) -> Path:
    folder = home / "pipeline" / "math" / "20260801-120000"
    first, second = sft(home / "math_sft" / "a"), grpo(home / "math_grpo" / "b")
    for number, (label, accuracy) in enumerate((("base", 0.30), ("sft", 0.44), ("grpo", 0.61))):
        evaluation(folder / "eval" / f"{number}-{label}-gsm8k.json", label, accuracy, seed=number)
    stages = [("prep", None, 20), ("sft", first, 900), ("grpo", second, 5760), ("evaluate", None, 240)]
    write(
        folder / "pipeline.json",
        {
            "stages": [
                {"name": name, "state": "done", "run": run and str(run), "seconds": seconds}
                for name, run, seconds in stages
            ]
        },
    )
    return folder
