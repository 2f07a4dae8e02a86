"""Language models alone, of six families: hidden states, logits, generation."""

import torch
from transformers import (AutoModelForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig,
                          MistralForCausalLM, MptConfig, MptForCausalLM, OPTConfig, OPTForCausalLM, Qwen2Config, Qwen2ForCausalLM)

from reference import (HERE, Expected, add_language_model, gained, init_weights, load_tokenizer, round_weights, save_model, scaled, search_seed,
                       write_tokenizer)

STEPS = 16
SHORT = ["The small red bicycle near the old castle shows a strange picture, and the teacher explains why the",
         "Question: what is naïve 图像? Answer:"]
LONG = [f"{SHORT[0]} {SHORT[1]} Because although the farmer carries two baskets of oranges, every child in the village watches the quiet river."]
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)

# files: the version of transformers that writes model/
CASES = [
    dict(name="llama_rope_llama3", family="lm_llama", files="4.49.0", store="bf16", tokenizer="llama", texts=LONG,
         config=dict(hidden_size=64, intermediate_size=84, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                     max_position_embeddings=256, rope_theta=500000.0, rope_scaling=LLAMA3, tie_word_embeddings=True)),
    dict(name="llama_bias_headdim_v5", family="lm_llama", files="5.23.0", store="f32", tokenizer="llama", texts=SHORT,
         config=dict(hidden_size=24, intermediate_size=50, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1, head_dim=20,
                     attention_bias=True, mlp_bias=True, max_position_embeddings=128)),
    dict(name="mistral_swa", family="lm_mistral", files="4.49.0", store="f16", tokenizer="llama", texts=LONG,
         config=dict(hidden_size=40, intermediate_size=60, num_hidden_layers=2, num_attention_heads=5, num_key_value_heads=1,
                     sliding_window=11, max_position_embeddings=256)),
    dict(name="qwen2", family="lm_qwen2", files="4.49.0", store="f32", tokenizer="qwen2", texts=SHORT,
         config=dict(hidden_size=40, intermediate_size=60, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                     rope_theta=1000000.0, tie_word_embeddings=True, max_position_embeddings=256)),
    dict(name="opt_350m_style", family="lm_opt", files="4.49.0", store="f16", tokenizer="opt", texts=SHORT,
         init=dict(emb=1.0, gain=1.6, rules=[(r"embed_positions", scaled(0.8)), (r"(q_proj|k_proj).weight", gained(3.0)),
                                             (r"(v_proj|out_proj).weight", gained(2.0))]),
         config=dict(hidden_size=40, ffn_dim=66, num_hidden_layers=3, num_attention_heads=5, word_embed_proj_dim=24,
                     do_layer_norm_before=False, max_position_embeddings=96)),
    dict(name="mpt_alibi", family="lm_mpt", files="4.49.0", store="f32", tokenizer="neox", texts=SHORT,
         config=dict(d_model=24, n_heads=6, n_layers=3, expansion_ratio=4, max_seq_len=128, no_bias=True, tie_word_embeddings=True)),
    # An odd number of the 20 dimensions of a head turns: 5.
    dict(name="gpt_neox_parallel_v5", family="lm_gpt_neox", files="5.23.0", store="bf16", tokenizer="neox", texts=SHORT,
         config=dict(hidden_size=40, intermediate_size=72, num_hidden_layers=2, num_attention_heads=2, use_parallel_residual=True,
                     rope_parameters=dict(rope_type="default", rope_theta=5000.0, partial_rotary_factor=0.25), max_position_embeddings=128)),
]
KINDS = {
    "lm_llama": (LlamaConfig, LlamaForCausalLM, dict(bos_token_id=1, eos_token_id=2)),
    "lm_mistral": (MistralConfig, MistralForCausalLM, dict(bos_token_id=1, eos_token_id=2)),
    "lm_qwen2": (Qwen2Config, Qwen2ForCausalLM, dict(bos_token_id=1060, eos_token_id=1062)),
    "lm_opt": (OPTConfig, OPTForCausalLM, dict(pad_token_id=1, bos_token_id=2, eos_token_id=2)),
    "lm_mpt": (MptConfig, MptForCausalLM, dict(bos_token_id=0, eos_token_id=0)),
    "lm_gpt_neox": (GPTNeoXConfig, GPTNeoXForCausalLM, dict(bos_token_id=0, eos_token_id=0)),
}


def items_of(case, folder):
    tokenizer, items = load_tokenizer(folder / "model"), []
    for i, text in enumerate(case["texts"]):
        tokens = tokenizer(text, return_tensors="pt")
        items.append(dict(name=f"p{i}", prompt=text, inputs={k: tokens[k] for k in ("input_ids", "attention_mask")}))
    return items


def make(case, folder):
    config_class, model_class, ids = KINDS[case["family"]]
    write_tokenizer(case["tokenizer"], folder / "model")
    rows = len(load_tokenizer(HERE / "tok" / case["tokenizer"])) + 3  # released embeddings are longer than the vocabulary
    config, tied = config_class(vocab_size=rows, **ids, **case["config"]), case["config"].get("tie_word_embeddings", case["family"] == "lm_opt")
    init = case.get("init", dict(gain=1.8, emb=0.35) if tied else dict(gain=1.4, emb=0.6))

    def build(seed):
        model = model_class(config).eval()
        if tied:
            model.tie_weights()
        init_weights(model, seed, **init)
        round_weights(model, case["store"])
        return model

    inputs = [item["inputs"] for item in items_of(case, folder)]
    save_model(search_seed(build, inputs, range(10, 120), STEPS), folder / "model", case["store"])


def reference(case, folder):
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32, attn_implementation="eager").eval()
    expected, items = Expected(), items_of(case, folder)
    add_language_model(expected, model, load_tokenizer(folder / "model"), items, STEPS, modules={})
    named = ("rope_scaling", "rope_parameters", "sliding_window", "head_dim", "tie_word_embeddings", "attention_bias", "word_embed_proj_dim",
             "do_layer_norm_before", "use_parallel_residual")
    covers = [f"{key}={value}" for key, value in case["config"].items() if key in named]
    inputs = [{"name": item["name"], "prompt": item["prompt"]} for item in items]
    expected.write(case, folder, f"language model only: {case['family'].removeprefix('lm_')}", covers, inputs, {})
