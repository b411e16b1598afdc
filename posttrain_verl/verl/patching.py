"""Replacing one foreign function, in sight and checked.

A patch is a small function that takes the original and returns its replacement, declared with `@patch(...)`. It is
applied when the foreign module is imported (wrapt's post-import hooks), so nothing heavy is loaded for its sake. A target
that is gone, or whose parameters are not those the patch was written for, raises `PatchTargetMoved`: a moved target must
stop the run, not train something else.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import wrapt


class PatchTargetMoved(ImportError):
    """The installed version no longer has the function, or the parameters, that a patch was written for."""


@dataclass(frozen=True)
class Patch:
    """One replaced function: where it lives, which parameters it must have, and the version it was seen in."""

    module: str
    attribute: str  # dotted below the module, e.g. "ReplayBuffer.__init__"
    parameters: tuple[str, ...]
    needed_by: str
    replace: Callable[[Callable[..., Any]], Callable[..., Any]]

    def apply(self, module: ModuleType) -> None:
        """Replace the function in the imported module.

        Raises:
            PatchTargetMoved: the function is missing or takes other parameters than `parameters`.
        """
        *path, name = self.attribute.split(".")
        owner: Any = module
        for part in path:
            owner = getattr(owner, part, None)
        original = getattr(owner, name, None)
        if original is None:
            raise PatchTargetMoved(
                f"{self.module}.{self.attribute} is gone; {self.replace.__name__} ({self.needed_by})"
            )
        found = tuple(inspect.signature(original).parameters)
        if found != self.parameters:
            raise PatchTargetMoved(
                f"{self.module}.{self.attribute} takes {found}, {self.replace.__name__} expects {self.parameters} "
                f"({self.needed_by})"
            )
        setattr(owner, name, self.replace(original))


def patch(module: str, attribute: str, *, parameters: tuple[str, ...], needed_by: str) -> Callable[..., Patch]:
    """Declare a patch of `module.attribute`; `needed_by` names the version and what breaks without it."""
    return lambda replace: Patch(module, attribute, parameters, needed_by, replace)


def apply_on_import(patches: list[Patch]) -> None:
    """Apply each patch as soon as its module is imported, at once where it already is."""
    for one in patches:
        wrapt.register_post_import_hook(one.apply, one.module)
