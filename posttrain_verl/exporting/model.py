"""The trained model of a checkpoint as transformers and peft know it, and the folders they write of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain_verl import vllm_models
from posttrain_verl.exporting import shards

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

PREFIX = "base_model.model."  # of peft's names
LARGEST_FILE = "5GB"


def load(checkpoint: Path, base: str) -> PreTrainedModel:
    """The model in `checkpoint` (the folder with the shards), in fp32 on the CPU; of a LoRA run with its adapter beside.

    `base` gives the weights that an adapter-only checkpoint (`save_lora_only`) leaves out.
    """
    import torch
    import transformers

    state = shards.read(checkpoint)
    adapter = {name: tensor for name, tensor in state.items() if ".lora_" in name}
    rest = {_plain(name): tensor for name, tensor in state.items() if name not in adapter}
    if not rest:
        model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    else:
        config = transformers.AutoConfig.from_pretrained(checkpoint / "huggingface")
        kind = getattr(transformers, config.architectures[0])  # the Auto classes take no state dict
        model = kind.from_pretrained(None, config=config, state_dict=rest, dtype=torch.float32)
    return _with_adapter(model, adapter, checkpoint, base).eval() if adapter else model.eval()


def _plain(name: str) -> str:
    return name.removeprefix(PREFIX).replace(".base_layer.", ".")


def _with_adapter(model: Any, adapter: dict[str, torch.Tensor], checkpoint: Path, base: str) -> Any:
    """Put the trained adapter on the model, by peft.

    Raises:
        RuntimeError: the adapter does not fit the model.
    """
    from peft import LoraConfig, get_peft_model

    trained = json.loads((checkpoint / "lora_train_meta.json").read_text())
    modules = sorted({name.split(".lora_")[0].rsplit(".", 1)[1] for name in adapter})
    config = LoraConfig(r=trained["r"], lora_alpha=trained["lora_alpha"], task_type=trained["task_type"],
                        target_modules=modules, base_model_name_or_path=base)  # fmt: skip
    whole = get_peft_model(model, config)
    found = whole.load_state_dict(adapter, strict=False)
    lost = [name for name in found.missing_keys if ".lora_" in name]
    if lost or found.unexpected_keys:
        raise RuntimeError(
            f"the adapter does not fit {base}: missing {lost[:3]}, unexpected {found.unexpected_keys[:3]}"
        )
    return whole


def is_lora(model: Any) -> bool:
    return hasattr(model, "peft_config")


def write(model: Any, form: str, dtype: str, checkpoint: Path, out: Path) -> str:
    """Write the model into `out` as safetensors; `form` is "merged", or "adapter" for the adapter of a LoRA run alone.

    Tokenizer, chat template and generation config are those of the checkpoint. Merging changes `model`. Returns what had to be
    changed in the config of a merged model, or "".
    """
    import torch
    from transformers import AutoTokenizer, GenerationConfig

    if form == "merged" and is_lora(model):
        model = model.merge_and_unload()
    changed = vllm_models.as_plain(model.config) if form == "merged" else ""
    model.to(getattr(torch, dtype)).save_pretrained(out, max_shard_size=LARGEST_FILE)
    saved = checkpoint / "huggingface"
    AutoTokenizer.from_pretrained(saved).save_pretrained(out)
    if form == "merged" and (saved / "generation_config.json").is_file():
        GenerationConfig.from_pretrained(saved).save_pretrained(out)
    return changed


def read_written(out: Path, form: str, base: str) -> PreTrainedModel:
    """What was written, read back from its files alone (an adapter: from its files and the base), in fp32.

    Raises:
        RuntimeError: a weight is missing, or one has no place in the model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if form == "adapter":
        from peft import PeftModel

        return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), out).eval()
    model, facts = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, output_loading_info=True)
    strange = {kind: sorted(names)[:3] for kind, names in facts.items() if names}
    if strange:
        raise RuntimeError(f"transformers does not take the export as it is: {strange}")
    return model.eval()
