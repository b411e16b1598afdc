"""Folders that stand for models of the hub: the config.json of conf/base_model and a tokenizer, without weights."""

import json
from pathlib import Path

from omegaconf import OmegaConf

from posttrain_verl.base_models.random_qwen2 import byte_level_tokenizer
from posttrain_verl.paths import conf_dir


def published() -> dict[str, dict]:
    """The files of conf/base_model that describe a model, by their names."""
    files = sorted((conf_dir() / "base_model").glob("*.yaml"))
    nodes = {file.stem: OmegaConf.to_container(OmegaConf.load(file)) for file in files}
    return {name: node for name, node in nodes.items() if node["config"]}


def folder_of(path: str, parent: Path) -> Path:
    """The folder of the model that conf/base_model knows under `path`."""
    config = next(node["config"] for node in published().values() if node["path"] == path)
    folder = parent / path.replace("/", "--")
    if not folder.is_dir():
        byte_level_tokenizer(config["max_position_embeddings"]).save_pretrained(folder)
        (folder / "config.json").write_text(json.dumps(config))
        if "dual_chunk_attention_config" in config:  # such a model is published with this file, and vLLM looks for it
            (folder / "sparse_attention_config.json").write_text(json.dumps({"0": {"0": ["vertical_and_slash", 1, 1]}}))
    return folder
