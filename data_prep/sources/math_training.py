"""Sets of mathematical problems to train on, with worked solutions or for RL only."""

import re

from data_prep.sources.files import hub_source
from data_prep.sources.source import BadRow, Row, as_number, required_text
from reward_fns.math.extract import final_answer


# What the sets share whose gold stands in `\boxed{}` at the end of the worked solution.
def boxed_gold(solution: str) -> str:
    """The content of the last box. Raises BadRow without one."""
    answer = final_answer(solution, "strict").text
    if not answer:
        raise BadRow(f"solution has no boxed answer, but ends in {solution[-60:]!r}")
    return answer


# MATH (Hendrycks et al. 2021): competition problems, levels 1 to 5 (MIT; 7500 train, 5000 test):
#     {"problem": "Let \[f(x) = \left\{ ... Find $a+b$ if ...",
#      "level": "Level 5", "type": "Algebra", "solution": "For the function to be continuous, ... $\boxed{0}$."}
# MATH-500 is drawn from its test rows: decontaminate against `math_500` when those are trained on.
MATH = hub_source(
    "math",
    "DigitalLearningGmbH/MATH-lighteval",
    question="problem",
    answer=lambda row: boxed_gold(required_text(row, "solution")),
    solution="solution",
    difficulty=lambda row: as_number(None if row.get("level") in ("Level ?", "") else row.get("level"), "level"),
    licence="MIT",
)


# DAPO-Math-17k: competition problems with integer answers, for RL (Apache-2.0):
#     {"data_source": "math_dapo", "prompt": [{"role": "user", "content": "Solve the following math problem step by
#      step. ...\n\nIn triangle $ABC$, ...\n\nRemember to put your answer on its own line after \"Answer:\"."}],
#      "ability": "MATH", "reward_model": {"ground_truth": "34", "style": "rule-lighteval/MATH_v2"},
#      "extra_info": {"index": "9a9b6eb4-a1cb-49d1-8c1e-62eaf2f74079"}}
# The published file repeats each problem about a hundred times: the build's exact dedup leaves about 17,000. The
# instruction around the problem is taken off, since prompts are the mix's.
DAPO_FRAME = re.compile(
    r"^Solve the following math problem step by step\..*?\n\n|\n\nRemember to put your answer.*$", re.DOTALL
)


def bare_problem(row: Row) -> str:
    """The problem without the instruction around it. Raises BadRow if there is no user message."""
    prompt = row.get("prompt")
    if not isinstance(prompt, list) or not prompt or not isinstance(prompt[-1], dict):
        raise BadRow(f"prompt is {str(prompt)[:60]!r}, not a list of messages")
    return DAPO_FRAME.sub("", required_text(prompt[-1], "content"))


def dapo_gold(row: Row) -> str:
    """The answer of the row's reward. Raises BadRow if there is none."""
    reward = row.get("reward_model")
    if not isinstance(reward, dict):
        raise BadRow(f"reward_model is {str(reward)[:60]!r}, not a mapping")
    return required_text(reward, "ground_truth")


DAPO_MATH = hub_source(
    "dapo_math",
    "BytedTsinghua-SIA/DAPO-Math-17k",
    question=bare_problem,
    answer=dapo_gold,
    licence="Apache-2.0",
    uses=("rl",),
)


# DeepScaleR-Preview: 40,000 problems of AIME, AMC, Omni-MATH and STILL with short answers (MIT):
#     {"problem": "The operation $\otimes$ is defined for all nonzero numbers by ...",
#      "answer": "-\frac{2}{3}", "solution": "1. **Apply the operation ..."}
# Solutions are often empty or do not reach the answer, so for RL only. Holds AIME problems up to 2023.
DEEPSCALER = hub_source(
    "deepscaler",
    "agentica-org/DeepScaleR-Preview-Dataset",
    question="problem",
    answer="answer",
    licence="MIT",
    data_source="math/deepscaler",
    uses=("rl",),
)


# NuminaMath-CoT: 860,000 problems with worked solutions (Apache-2.0):
#     {"source": "synthetic_math", "problem": "Consider the terms of an arithmetic sequence: $-\frac{1}{3}, y+2, ...",
#      "solution": "For an arithmetic sequence, ... Thus, $y = \boxed{-\frac{13}{6}}$.", "messages": [...]}
# Proofs have no boxed answer and come out as bad rows: set `bad_rows: drop`.
NUMINA_MATH = hub_source(
    "numina_math",
    "AI-MO/NuminaMath-CoT",
    question="problem",
    answer=lambda row: boxed_gold(required_text(row, "solution")),
    solution="solution",
    licence="Apache-2.0",
    role="cot",
)


# OpenMathInstruct-2: 14 million solutions written by Llama-3.1-405B (CC-BY-4.0):
#     {"problem": "Solve for $y$:\n\n$$\frac{y^2 - 3y + 2}{y - 2} = y + 1$$",
#      "generated_solution": "Start by factoring the numerator: ... \boxed{\text{No solution}}",
#      "expected_answer": "\text{No solution}", "problem_source": "augmented_math"}
# Several solutions a problem; exact dedup keeps one unless the source says `unique: row`.
OPEN_MATH_INSTRUCT = hub_source(
    "open_math_instruct",
    "nvidia/OpenMathInstruct-2",
    question="problem",
    answer="expected_answer",
    solution="generated_solution",
    licence="CC-BY-4.0",
    role="cot",
    split="train_1M",
)


# OpenThoughts-114k: synthetic reasoning for maths, code and science (Apache-2.0):
#     {"system": "Your role as an assistant involves thoroughly exploring ...",
#      "conversations": [{"from": "user", "value": "Return your final response within \boxed{}. ..."},
#                        {"from": "assistant", "value": "<|begin_of_thought|> ... <|begin_of_solution|> ... "}]}
# For SFT only. The thought and solution marks become `<think>` and its end, which reward and template know. Rows without
# a boxed answer (code, science) come out as bad rows: set `bad_rows: drop`.
def first_turn(row: Row, role: str) -> str:
    """What `role` says first. Raises BadRow if it says nothing."""
    turns = row.get("conversations")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise BadRow(f"conversations is {str(turns)[:60]!r}, not a list of turns")
    return required_text(next((turn for turn in turns if turn.get("from") == role), {}), "value")


def reasoning_text(row: Row) -> str:
    """The assistant's turn with the usual marks around the thought."""
    answer = (
        first_turn(row, "assistant")
        .replace("<|begin_of_thought|>", "<think>")
        .replace("<|end_of_thought|>", "</think>")
    )
    return answer.replace("<|begin_of_solution|>", "").replace("<|end_of_solution|>", "").strip()


OPEN_THOUGHTS = hub_source(
    "open_thoughts",
    "open-thoughts/OpenThoughts-114k",
    question=lambda row: first_turn(row, "user"),
    answer=lambda row: boxed_gold(reasoning_text(row)),
    solution=reasoning_text,
    licence="Apache-2.0",
    data_source="math/open_thoughts",
    uses=("sft",),
    role="cot",
)


# OpenR1-Math-220k: problems with long reasoning of DeepSeek-R1, verified (Apache-2.0):
#     {"problem": "## Task B-1.3. A ship traveling along a river ...", "solution": "...", "answer": "v_{R}=4",
#      "problem_type": "Algebra", "source": "olympiads", "uuid": "586fd646-...", "is_reasoning_complete": [true, true],
#      "generations": ["<think>\nOkay, so I need ..."], "correctness_math_verify": [true, false], ...}
# The first generation that is complete and verified is the solution. A problem without one serves RL only.
def verified_solution(row: Row) -> str | None:
    """The first generation that is complete and was verified, or None."""
    columns = [row.get(key) or [] for key in ("generations", "correctness_math_verify", "is_reasoning_complete")]
    if not all(isinstance(column, list) for column in columns):
        raise BadRow("generations and their verdicts are not lists")
    good = (answer for answer, right, complete in zip(*columns, strict=False) if right and complete)
    return next(good, None)


OPENR1_MATH = hub_source(
    "openr1_math",
    "open-r1/OpenR1-Math-220k",
    question="problem",
    answer="answer",
    solution=verified_solution,
    id="uuid",
    licence="Apache-2.0",
    role="cot",
)
