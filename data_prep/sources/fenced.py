"""Python programs as the answer format `code` wants them."""


def fenced(program: str) -> str:
    """A program in a Python code fence, with Unix line ends."""
    return "```python\n" + program.replace("\r\n", "\n").strip() + "\n```"
