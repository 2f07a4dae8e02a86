"""T5 alone: hidden states of both stacks, logits, generation."""

import json

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from language_model import LONG, SHORT, STEPS, items_of
from reference import (Expected, add_hidden_states, add_logits, init_weights, load_tokenizer, round_weights, save_model, search_seed, write_json,
                       write_t5_tokenizer)

DECODER_IDS = [0, 5, 9, 33]  # what the decoder reads in the forward pass
COMMON = dict(pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)

CASES = [
    dict(name="t5_relu_tied", family="lm_t5", files="4.49.0", store="bf16", texts=SHORT[:1], init=dict(gain=1.8, emb=1.0),
         description="language model only: t5", covers=["feed_forward_proj=relu", "tie_word_embeddings=True"],
         config=dict(d_model=48, d_kv=16, d_ff=100, num_layers=2, num_decoder_layers=2, num_heads=3, feed_forward_proj="relu", tie_word_embeddings=True)),
    dict(name="t5_gated_head", family="lm_t5", files="5.23.0", store="f16", texts=LONG, init=dict(gain=1.6, emb=0.5),
         description="T5 v1.1 as released: a head of its own, tie_word_embeddings false, the embeddings under three names; a text beyond the farthest distance",
         covers=["feed_forward_proj=gated-silu", "separate lm_head", "copies of the embeddings", "relative_attention_max_distance=19"],
         config=dict(d_model=24, d_kv=12, d_ff=42, num_layers=3, num_decoder_layers=2, num_heads=3, relative_attention_num_buckets=14,
                     relative_attention_max_distance=19, feed_forward_proj="gated-silu", tie_word_embeddings=False)),
]


def make(case, folder):
    model_folder = folder / "model"
    write_t5_tokenizer(model_folder, whole=case["name"] == "t5_relu_tied")
    rows = len(load_tokenizer(model_folder)) + 3  # released embeddings are longer than the vocabulary
    tied = case["config"]["tie_word_embeddings"]

    def build(seed):
        model = T5ForConditionalGeneration(T5Config(vocab_size=rows, **COMMON, **case["config"])).eval()
        if not tied:  # transformers 5 makes all heads the embeddings, and reads others only from files
            model.lm_head.weight = nn.Parameter(torch.empty_like(model.shared.weight))
        init_weights(model, seed, **case["init"])
        round_weights(model, case["store"])
        return model

    model = search_seed(build, [item["inputs"] for item in items_of(case, folder)], range(10, 120), STEPS)
    save_model(model, model_folder, case["store"])
    if not tied:
        as_released(model, model_folder)


def as_released(model, folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    kind = tensors["shared.weight"].dtype
    tensors["lm_head.weight"] = model.lm_head.weight.to(kind)
    for stack in ("encoder", "decoder"):
        tensors[f"{stack}.embed_tokens.weight"] = tensors["shared.weight"].clone()
    save_file(tensors, path, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    del config["scale_decoder_outputs"]
    write_json(folder / "config.json", config | dict(tie_word_embeddings=False))


def reference(case, folder):
    model = T5ForConditionalGeneration.from_pretrained(folder / "model", dtype=torch.float32, attn_implementation="eager").eval()
    expected, items = Expected(), items_of(case, folder)
    for item in items:
        name, inputs = item["name"], item["inputs"]
        expected.add_inputs(name, inputs)
        output = model(**inputs, decoder_input_ids=torch.tensor([DECODER_IDS]), output_hidden_states=True, return_dict=True)
        if item is items[0]:
            for i, state in enumerate(output.encoder_hidden_states):
                expected.add(f"{name}.lm.encoder_hidden.{i}", state, "encoder hidden_states[i], last = after final norm")
            add_hidden_states(expected, name, output.decoder_hidden_states)
        add_logits(expected, name, output.logits)
    expected.add_runs(model, load_tokenizer(folder / "model"), items, STEPS)
    inputs = [{"name": item["name"], "prompt": item["prompt"]} for item in items]
    expected.write(case, folder, case["description"], case["covers"], inputs, {"forward_decoder_input_ids": DECODER_IDS})
