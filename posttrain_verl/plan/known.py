"""The shape of the model of a launch, if it can be known here: from its folder, or from its file in conf/base_model/."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from posttrain_verl.plan import shape as shapes
from posttrain_verl.plan.shape import Shape


def shape_of(path: str, base_model: DictConfig) -> Shape | None:
    """The shape of the model at `path`; a folder's own config.json wins. None if it is nowhere."""
    folder = Path(path).expanduser()
    try:
        if (folder / "config.json").is_file():
            return shapes.of_folder(folder)
        if base_model.config is not None and str(base_model.path) == path:
            return shapes.of_config(base_model.config)
    except (KeyError, OSError, ValueError, TypeError):  # no decoder that the memory model covers
        return None
    return None
