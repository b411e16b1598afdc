"""The grade: what every reward returns, with the same keys always.

VeRL takes the key list of `reward_extra_info` from the first sample of a batch: a missing key would shift the others.
"""

from __future__ import annotations

from dataclasses import dataclass

KEYS = ("score", "acc", "format", "answered", "verifier_error", "pred")
PRED_LIMIT = 200


@dataclass(frozen=True)
class Grade:
    """One verdict. `score` is what the policy is trained on (0 to 1 before shaping), `acc` is 1 for a right answer,
    `format` is 1 when the answer stands where the task asked for it, `answered` is 1 when an answer was found at all,
    `verifier_error` is 1 when the verifier could not decide (then `acc` is 0, and the answer may still be right),
    and `pred` is the answer as it was read, cut to 200 characters; `why` says what decided, for people."""

    score: float = 0.0
    acc: float = 0.0
    format: float = 0.0
    answered: float = 0.0
    verifier_error: float = 0.0
    pred: str = ""
    why: str = ""

    def as_dict(self) -> dict[str, float | str]:
        """The grade as VeRL logs it: floats and one string, in a fixed order."""
        return {
            "score": float(self.score),
            "acc": float(self.acc),
            "format": float(self.format),
            "answered": float(self.answered),
            "verifier_error": float(self.verifier_error),
            "pred": printable(self.pred),
        }


def printable(text: str) -> str:
    """`text` on one line, valid UTF-8 and at most 200 characters, so that any logger and Parquet accept it."""
    cut = text if len(text) <= PRED_LIMIT else text[: PRED_LIMIT - 1] + "…"
    return cut.encode("utf-8", "replace").decode().replace("\x00", "").replace("\n", "\\n")
