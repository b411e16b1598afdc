"""Which grader a `data_source` gets: exact names first, then patterns in the order of registration."""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

from reward_fns.grades import Grade

# (solution_str, ground_truth, extra_info, **options) -> Grade; blocking, thread-safe, never raises for a bad answer.
Grader = Callable[..., Grade]

_exact: dict[str, tuple[Grader, dict[str, object]]] = {}
_patterns: dict[str, tuple[Grader, dict[str, object]]] = {}


class UnknownSource(LookupError):
    """A data_source without a grader. The message lists the known ones."""

    def __init__(self, data_source: str):
        known = ", ".join(known_sources())
        super().__init__(
            f"no reward is registered for data_source {data_source!r}; known: {known}. "
            "A function of your own grades any: reward=FILE.py:NAME (docs/rewards.md)"
        )
        self.data_source = data_source


OLD_NAMES = {"limit": "timeout"}  # options that had another name in an earlier version


def under_current_names(options: Mapping[str, object]) -> dict[str, object]:
    """Options of a grader, with those of an earlier version under the names that they have now. Raises ValueError where an
    option is given under both names with different values."""
    for old, name in OLD_NAMES.items():
        if old in options and options[old] != options.get(name, options[old]):
            raise ValueError(f"{name}={options[name]} and {old}={options[old]} are two names of one option: give one")
    return {OLD_NAMES.get(name, name): value for name, value in options.items()}


def register(name_or_pattern: str, grader: Grader, **defaults: object) -> None:
    """Route a data_source, or a shell pattern in lower case such as `*math*`, to `grader` with default options.

    A later registration of the same name or pattern replaces the earlier one."""
    table = _patterns if any(c in name_or_pattern for c in "*?[") else _exact
    table[name_or_pattern] = (grader, under_current_names(defaults))


def resolve(data_source: str) -> tuple[Grader, dict[str, object]]:
    """The grader and its default options. Raises UnknownSource."""
    if data_source in _exact:
        return _exact[data_source]
    for pattern, entry in _patterns.items():
        if fnmatchcase(data_source.lower(), pattern):
            return entry
    raise UnknownSource(data_source)


def known_sources() -> list[str]:
    return [*sorted(_exact), *_patterns]
