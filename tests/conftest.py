"""Property tests draw the same examples in every run: a change is not blamed for an example of chance.

`pytest --hypothesis-profile=search` draws new ones, thirty times as many, and prints how to repeat a failure."""

from hypothesis import settings

settings.register_profile("search", settings.get_profile("ci"), derandomize=False, max_examples=3000)
settings.load_profile("ci")
