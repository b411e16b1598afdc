"""Sets of mathematical problems that models are measured on. GSM8K and SVAMP also have training rows."""

import re
from functools import partial

from data_prep.sources.files import hub_source
from data_prep.sources.source import BadRow, Row, as_text, required_text

# AIME 2024: 30 problems with integer answers, evaluation only (as published):
# {"id": 60, "problem": "Every morning Aya goes for a walk ...", "solution": "...",
#  "answer": "204", "url": "...", "year": "2024"}
competition_source = partial(
    hub_source,
    answer=lambda row: as_text(row.get("answer"), "answer"),
    id="id",
    licence="competition problems",
    uses=("eval",),
)
AIME24 = competition_source("aime24", "HuggingFaceH4/aime_2024", question="problem")


# AIME 2025: 30 problems with integer answers, evaluation only (as published):
# {"problem": "Find the sum of all integer bases $b>9$ for which ...", "answer": "70", "id": "0"}
AIME25 = competition_source("aime25", "math-ai/aime25", question="problem", split="test")


# AMC 2023: 40 problems with integer answers, evaluation only (as published):
# {"id": 0, "question": "Cities $A$ and $B$ are $45$ miles apart. ...", "answer": "27.0", "url": "..."}
AMC23 = competition_source("amc23", "math-ai/amc23", question="question", split="test")


# MATH-500: the held-out 500 problems of MATH (Lightman et al. 2023; MIT), evaluation only:
# {"problem": "Convert the point $(0,3)$ in rectangular coordinates to polar coordinates. ...",
#  "solution": "We have that $r = \sqrt{0^2 + 3^2} = 3.$ ...", "answer": "\left( 3, \frac{\pi}{2} \right)",
#  "subject": "Precalculus", "level": 2, "unique_id": "test/precalculus/807.json"}
MATH_500 = hub_source(
    "math_500",
    "HuggingFaceH4/MATH-500",
    question="problem",
    answer="answer",
    solution=lambda row: row.get("solution"),
    difficulty="level",
    id="unique_id",
    licence="MIT",
    uses=("eval",),
    split="test",
    revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
)


# GSM8K: grade-school word problems with worked solutions (MIT; 7473 train, 1319 test):
#     {"question": "Natalia sold clips to 48 of her friends in April, and then ...",
#      "answer": "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n... = 72 clips altogether ...\n#### 72"}
# The calculator marks `<<...>>` are taken out of the solutions. Difficulty is the number of lines of working.
CALCULATOR_MARKS = re.compile(r"<<[^<>\n]*>>")


def gsm8k_gold(row: Row) -> str:
    """The final answer after `####`. Raises BadRow without one."""
    solution = required_text(row, "answer")
    _, mark, answer = solution.rpartition("####")
    if not mark or not answer.strip():
        raise BadRow(f"answer has no `#### N` at its end, but {solution[-60:]!r}")
    return answer.strip().replace(",", "")


GSM8K = hub_source(
    "gsm8k",
    "openai/gsm8k",
    question="question",
    answer=gsm8k_gold,
    solution=lambda row: CALCULATOR_MARKS.sub("", row["answer"]),
    difficulty=lambda row: float(row["answer"].strip().count("\n")),
    licence="MIT",
    uses=("sft", "rl", "eval"),
    config="main",
    revision="cc7b047b6e5bb11b4f1af84efc572db110a51b3c",
)


# SVAMP: one-step word problems with a twist (MIT; 700 train, 300 test):
#     {"ID": "chal-777", "Body": "There are 87 oranges and 290 bananas in Philip's collection. ...",
#      "Question": "How big is each group of bananas?", "Equation": "( 290.0 / 2.0 )", "Answer": "145.0", "Type": ...}
# No worked solutions, so for RL and evaluation only. Difficulty is the number of operations in the equation.
OPERATION = re.compile(r" [-+*/] ")
SVAMP = hub_source(
    "svamp",
    "ChilleD/SVAMP",
    question=lambda row: f"{required_text(row, 'Body').rstrip('. ')}. {required_text(row, 'Question')}",
    answer=lambda row: as_text(row.get("Answer"), "Answer"),
    difficulty=lambda row: float(len(OPERATION.findall(str(row.get("Equation"))))),
    licence="MIT",
    uses=("rl", "eval"),
)
