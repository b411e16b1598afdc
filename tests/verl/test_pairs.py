"""Pairs as VeRL's engine gets them: what is learned of a row, where the two stand, and what is kept of the reference."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from posttrain_verl import base_models
from posttrain_verl.verl import reference

slow = pytest.mark.slow  # imports VeRL
ASKED = [
    {"role": "user", "content": "1+2="},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "Sure?"},
]


def said(text):
    return [{"role": "assistant", "content": text}]


def open_pairs(folder, rows):
    from transformers import AutoTokenizer

    from posttrain_verl.verl.pairs import PairData

    pq.write_table(pa.Table.from_pylist(rows), folder / "pairs.parquet")
    config = OmegaConf.create({"prompt_key": "prompt", "chosen_key": "chosen", "rejected_key": "rejected",
                               "max_length": 64, "pad_mode": "no_padding", "messages_key": "messages"})  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(base_models.ensure_model("tiny"))
    return tokenizer, PairData(str(folder / "pairs.parquet"), config, tokenizer, None, -1)


@slow
@pytest.mark.parametrize("as_text", [False, True])
def test_only_the_answer_is_learned_and_both_sides_share_the_prompt(tmp_path, as_text):
    answers = {"chosen": "No: 3", "rejected": "Yes"}
    row = {"prompt": ASKED} | {side: text if as_text else said(text) for side, text in answers.items()}
    tokenizer, rows = open_pairs(tmp_path, [row] * 2)
    assert len(rows) == 2
    for side, text in answers.items():
        found = rows[1][side]
        whole = tokenizer.apply_chat_template([*ASKED, *said(text)], tokenize=True, return_dict=True)["input_ids"]
        begun = tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, return_dict=True)["input_ids"]
        assert found["input_ids"].tolist() == list(whole)
        learned = found["input_ids"][found["loss_mask"].bool()].tolist()
        assert learned == list(whole)[len(begun) :] and tokenizer.decode(learned).startswith(text)
        assert tokenizer.eos_token_id in learned, "the answer ends"


@slow
def test_a_batch_has_chosen_and_rejected_in_turn_with_their_reference(tmp_path):
    from posttrain_verl.verl import pairs
    from posttrain_verl.verl.sft_trainer import WholeBatches

    rows = [{"prompt": [ASKED[0]], "chosen": said("3" * (number + 1)), "rejected": said("44")} for number in range(3)]
    tokenizer, data = open_pairs(tmp_path, rows)
    data.reference = np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32)
    filled = WholeBatches(data, 4, pairs.without_answers)
    batch = pairs.PairCollator("no_padding")([filled[place] for place in range(4)])
    texts = [tokenizer.decode(ids[mask.bool()]) for ids, mask in
             zip(batch["input_ids"].unbind(), batch["loss_mask"].unbind(), strict=True)]  # fmt: skip
    real = filled.places()
    assert [[texts[2 * place][: number + 1], texts[2 * place + 1][:2]] for number, place in enumerate(real)] == [
        ["3", "44"], ["33", "44"], ["333", "44"]
    ]  # fmt: skip
    (filler,) = set(range(4)) - set(real)
    assert texts[2 * filler] == texts[2 * filler + 1] == ""
    assert pairs.count_pairs(batch) == 3
    assert batch[pairs.REFERENCE].view(-1, 2)[real].tolist() == data.reference.tolist()


@slow
def test_balancing_keeps_pairs_together_and_gives_each_rank_as_many():
    import torch

    from posttrain_verl.verl.pairs import balance_pairs

    lengths = torch.tensor([100, 90, 10, 12, 95, 100, 9, 11, 50, 60, 55, 50, 8, 8, 99, 98])
    order = balance_pairs(lengths, 4)
    assert sorted(order.tolist()) == list(range(16))
    assert (order[0::2] % 2 == 0).all() and (order[1::2] == order[0::2] + 1).all()
    work = lengths[order].view(4, -1).sum(dim=1)
    assert work.max() < 1.5 * work.min(), (
        "as the rows come, the first rank would have 212 tokens and the third 215 of 855"
    )


def test_the_reference_is_kept_whole_or_not_at_all(tmp_path):
    homes = [tmp_path / "data/reference", tmp_path / "run/reference"]
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    assert reference.read_reference(homes, "key", 3) is None
    assert reference.write_reference(homes, "key", values) == homes[0] / "key.npy"
    assert (reference.read_reference(homes, "key", 3) == values).all()
    assert reference.read_reference(homes, "key", 4) is None, "of other data"
    (homes[0] / "key.npy").write_bytes((homes[0] / "key.npy").read_bytes()[:-4])
    assert reference.read_reference(homes, "key", 3) is None, "cut short"
    assert [file.name for file in homes[0].iterdir()] == ["key.npy"]


def test_where_the_data_cannot_be_written_to_the_run_keeps_the_reference(tmp_path):
    (tmp_path / "data").write_text("a file in the place of the folder")
    homes = [tmp_path / "data/reference", tmp_path / "run/reference"]
    assert reference.write_reference(homes, "key", np.zeros((1, 2), np.float32)) == homes[1] / "key.npy"
    assert reference.write_reference(homes[:1], "key", np.zeros((1, 2), np.float32)) is None


def test_the_key_follows_from_the_model_the_data_and_the_settings(tmp_path):
    for name, text in (("model.safetensors", "weights"), ("config.json", "{}"), ("README.md", "words")):
        (tmp_path / name).write_text(text)
    known = reference.digest_model(str(tmp_path))
    assert known.keys() == {"model.safetensors", "config.json"}
    (tmp_path / "README.md").write_text("other words")
    assert reference.digest_model(str(tmp_path)) == known
    (tmp_path / "model.safetensors").write_text("Weights")
    assert reference.digest_model(str(tmp_path)) != known
    facts = {"model": known, "pairs": 3}
    assert reference.reference_key(facts) == reference.reference_key(json.loads(json.dumps(facts)))
    assert reference.reference_key(facts) != reference.reference_key(facts | {"pairs": 4})
