"""What of a completion counts: the text behind the thought, up to the end of the model's turn."""

import re

END_OF_TURN = re.compile(r"<\|(?:im_start|im_end|endoftext|eot_id|end_of_text|user|end)\|>|</s>|<end_of_turn>")


def after_thought(response: str) -> str:
    """What follows the reasoning block. A block that is opened and never closed leaves nothing."""
    _, closed, rest = response.rpartition("</think>")
    return rest if closed or "<think>" not in response else ""


def first_turn(text: str) -> str:
    """`text` up to the first end-of-turn marker that has text before it."""
    ends = (marker.start() for marker in END_OF_TURN.finditer(text))
    return next((text[:end] for end in ends if text[:end].strip()), text)
