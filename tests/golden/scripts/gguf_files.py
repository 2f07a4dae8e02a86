"""Models in GGUF files, as llama.cpp's converters write them: Llama and Mistral, Qwen2, LLaVA 1.5 and 1.6 with an mmproj of the legacy kind.

The reference reads the files back with gguf-py, block formats included, and runs transformers on what it finds. Needs gguf 0.19 beside the rest.

    python gguf_files.py OUT CASE ...      # cases of other scripts (llama_*, mistral_*, qwen2, llava*, gpt_neox_*, mpt_*) with their models as GGUF files
"""

import json
import math
import re
import shutil
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from transformers import (AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaNextConfig,
                          MistralConfig, PreTrainedTokenizerFast, Qwen2Config)

from reference import CLIP_MEAN, CLIP_STD, COMMITTED, HERE, Expected, generate, init_weights, margin, new_tokens, search_seed, write_images

STEPS = 12
TEXT = ["Question: what is naïve 图像 in the old castle? Answer:"]
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
VICUNA = "USER: <image>\nDescribe the picture. ASSISTANT:"
VISION = dict(num_hidden_layers=3, num_attention_heads=4, image_size=28, patch_size=7)

# types: of the matrices, by the end of their GGUF names; the first that fits. Vectors are f32.
CASES = [
    dict(name="gguf_llama", family="lm_llama", tokenizer="llama", texts=TEXT, types=[("attn_k", "BF16"), ("attn_v", "F32"), ("ffn_up", "BF16"), ("", "F16")],
         config=LlamaConfig(hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, rope_theta=500000.0,
                            rope_scaling=LLAMA3, max_position_embeddings=256, rms_norm_eps=1e-5)),
    dict(name="gguf_llama_k", family="lm_llama", tokenizer="llama", texts=TEXT,
         types=[("attn_q", "Q4_K"), ("attn_k", "Q5_K"), ("attn_v", "Q6_K"), ("attn_output", "Q3_K"), ("ffn_gate", "Q2_K"), ("ffn_up", "IQ4_XS"),
                ("ffn_down", "IQ4_NL"), ("", "Q6_K")],
         config=LlamaConfig(hidden_size=256, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=1, tie_word_embeddings=True,
                            rope_scaling=dict(rope_type="linear", factor=2.0), max_position_embeddings=256, rms_norm_eps=1e-5)),
    # Rows that are no whole blocks, heads that do not add up to the width, one key for three queries, biases everywhere, stretched positions.
    dict(name="gguf_llama_yarn", family="lm_llama", tokenizer="llama", texts=TEXT,
         types=[("attn_q", "Q8_0"), ("attn_k", "Q5_1"), ("ffn_gate", "Q4_0"), ("ffn_up", "Q4_1"), ("", "BF16")],
         config=LlamaConfig(hidden_size=96, intermediate_size=50, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1, head_dim=10,
                            attention_bias=True, mlp_bias=True, max_position_embeddings=256, rms_norm_eps=1e-5,
                            rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64))),
    dict(name="gguf_qwen2", family="lm_qwen2", tokenizer="qwen2", texts=TEXT,
         types=[("attn_q", "Q4_0"), ("attn_k", "Q4_1"), ("attn_v", "Q5_0"), ("attn_output", "Q5_1"), ("", "Q8_0")],
         config=Qwen2Config(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
                            rope_theta=1e6, max_position_embeddings=256)),
    # As the makers of LLaVA's GGUF files have it: the vocabulary of Vicuna, which has no token for a picture.
    dict(name="gguf_llava15", family="llava", tokenizer="llama", texts=[VICUNA], types=[("", "F16")], pictures=[("a.png", 21, 61, 40, "RGB")],
         config=LlavaConfig(vision_config=CLIPVisionConfig(hidden_size=32, intermediate_size=48, **VISION), vision_feature_layer=-2,
                            text_config=LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=256))),
    dict(name="gguf_llava16", family="llava_next", tokenizer="llava", texts=[VICUNA], types=[("v.patch_embd", "F16"), ("", "Q8_0")], pictures=[("a.png", 22, 75, 40, "RGB")],
         config=LlavaNextConfig(vision_config=CLIPVisionConfig(hidden_size=32, intermediate_size=64, **VISION), vision_feature_layer=-2,
                                image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]],
                                text_config=MistralConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                                                          sliding_window=24, max_position_embeddings=256))),
]
for case in CASES:
    case |= dict(files="5.23.0", store="as the files have it")

# ---------------------------------------------------------------- tokenizers


def small_tokenizer(name, merges=24):
    """tok/<name> with its first merges only."""
    content = json.loads((HERE / "tok" / name / "tokenizer.json").read_text())
    model, old = content["model"], content["model"]["vocab"]
    model["merges"] = model["merges"][:merges]
    made, whole = {a + b for a, b in model["merges"]}, {a + b for a, b in json.loads((HERE / "tok" / name / "tokenizer.json").read_text())["model"]["merges"]}
    model["vocab"] = {token: i for i, token in enumerate(token for token in sorted(old, key=old.get) if token in made or token not in whole)}
    ids = dict(model["vocab"])
    for token in content["added_tokens"]:
        token["id"] = ids.setdefault(token["content"], len(ids))
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(content)), clean_up_tokenization_spaces=False,
                                   bos_token=None if name == "qwen2" else "<s>", eos_token="<|im_end|>" if name == "qwen2" else "</s>")


def tokenizer_of(case):
    tokenizer = small_tokenizer(case["tokenizer"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]} if case["family"].startswith("llava") else {})
    return tokenizer


def write_vocabulary(writer, tokenizer, known=None):
    """`known`: how many tokens the file has, where it lacks the last ones."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = {i: t for t, i in tokenizer.get_vocab().items()}
    tokens = [tokens[i] for i in range(len(tokens))][:known]
    special = {token["content"] for token in content["added_tokens"] if token["special"]}
    rank = {a + b: i for i, (a, b) in enumerate(content["model"]["merges"])}
    spm = content["model"]["byte_fallback"]
    types = [6 if spm and re.fullmatch(r"<0x..>", t) else 2 if t == "<unk>" else 3 if t in special else 1 for t in tokens]
    writer.add_tokenizer_model("llama" if spm else "gpt2")
    writer.add_tokenizer_pre("default" if spm else "qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if spm:
        writer.add_token_scores([-float(rank[t]) if t in rank else -1e4 if kind == 1 else 0.0 for t, kind in zip(tokens, types)])
    else:
        writer.add_token_merges([f"{a} {b}" for a, b in content["model"]["merges"]])
    for add, token in ((writer.add_bos_token_id, tokenizer.bos_token_id), (writer.add_eos_token_id, tokenizer.eos_token_id)):
        if token is not None:
            add(token)
    writer.add_add_bos_token(tokenizer.bos_token_id is not None)


# ---------------------------------------------------------------- tensors


TEXT_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
              "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
              "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
OTHER_NAMES = {
    "gpt_neox": {"gpt_neox.embed_in": "token_embd", "gpt_neox.final_layer_norm": "output_norm", "embed_out": "output", "lm_head": "output",
                 "input_layernorm": "attn_norm", "attention.query_key_value": "attn_qkv", "attention.dense": "attn_output",
                 "post_attention_layernorm": "ffn_norm", "mlp.dense_h_to_4h": "ffn_up", "mlp.dense_4h_to_h": "ffn_down"},
    "mpt": {"transformer.wte": "token_embd", "transformer.norm_f": "output_norm", "lm_head": "output", "norm_1": "attn_norm", "attn.Wqkv": "attn_qkv",
            "attn.out_proj": "attn_output", "norm_2": "ffn_norm", "ffn.up_proj": "ffn_up", "ffn.down_proj": "ffn_down"}}
# The legacy script has fc1 as ffn_down.
TOWER_NAMES = {"embeddings.class_embedding": "class_embd", "embeddings.patch_embedding": "patch_embd", "embeddings.position_embedding": "position_embd",
               "pre_layrnorm": "pre_ln", "post_layernorm": "post_ln", "layer_norm1": "ln1", "layer_norm2": "ln2", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
               "self_attn.v_proj": "attn_v", "self_attn.out_proj": "attn_out", "mlp.fc1": "ffn_down", "mlp.fc2": "ffn_up"}


def text_name(name):
    """The GGUF name of a language model's parameter."""
    layer = re.match(r"model\.layers\.(\d+)\.(.*)\.(weight|bias)$", name)
    if layer:
        return f"blk.{layer[1]}.{TEXT_NAMES[layer[2]]}.{layer[3]}"
    stem, _, leaf = name.rpartition(".")
    return f"{TEXT_NAMES[stem]}.{leaf}"


def tower_name(name):
    """The GGUF name of a parameter of a vision tower, or of the projector or the newline beside it."""
    if name == "image_newline":
        return "model.image_newline"
    if name.startswith("multi_modal_projector."):
        return name.replace("multi_modal_projector.linear_1", "mm.0").replace("multi_modal_projector.linear_2", "mm.2")
    name = re.sub(r"^vision_tower\.(vision_model\.)?", "", name)
    layer = re.match(r"encoder\.layers\.(\d+)\.(.*)\.(weight|bias)$", name)
    if layer:
        return f"v.blk.{layer[1]}.{TOWER_NAMES[layer[2]]}.{layer[3]}"
    if name in TOWER_NAMES:
        return "v." + TOWER_NAMES[name]
    stem, _, leaf = name.rpartition(".")
    return f"v.{TOWER_NAMES[stem]}.{leaf}"


def interleaved(x, heads):
    """Rows of queries or keys in llama.cpp's order: what transformers turns together lies side by side."""
    halves = x.reshape(heads, 2, x.shape[0] // heads // 2, *x.shape[1:])
    return np.ascontiguousarray(np.swapaxes(halves, 1, 2).reshape(x.shape))


def apart(x, heads):
    """interleaved(), backwards."""
    pairs = x.reshape(heads, x.shape[0] // heads // 2, 2, *x.shape[1:])
    return np.ascontiguousarray(np.swapaxes(pairs, 1, 2).reshape(x.shape))


def encode(x, kind):
    """The bytes of a matrix in a format. gguf-py writes no k-quants: there the blocks are random ones, scaled to the matrix's deviation."""
    kind = gguf.GGMLQuantizationType[kind]
    if kind.name[0] in "FBQ" and not kind.name.endswith("_K"):
        return gguf.quants.quantize(x.astype(np.float32), kind), kind
    size, length = gguf.GGML_QUANT_SIZES[kind]
    random = np.random.RandomState(int(np.abs(x).sum() * 1000) % (1 << 31))
    blocks = random.randint(0, 256, (x.size // size, length)).astype(np.uint8)
    scales = {"Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0]}[kind.name]
    for at in scales:
        blocks[:, at : at + 2] = np.full((len(blocks), 1), 0.01, np.float16).view(np.uint8)
    shrink = x.std() / gguf.quants.dequantize(blocks, kind).std()
    for i, at in enumerate(scales):
        # A minimum that takes the mean away: products of numbers of one sign would drown all else.
        mean = {"Q2_K": 1.5, "Q4_K": 7.5, "Q5_K": 15.5}.get(kind.name, 1) if i else 1
        blocks[:, at : at + 2] = (0.01 * shrink * mean * random.uniform(0.7, 1.3, (len(blocks), 1))).astype(np.float16).view(np.uint8)
    return blocks.reshape(*x.shape[:-1], -1), kind


def decode(tensor):
    """A tensor of a GGUF file in f32, in PyTorch's shape."""
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    return np.asarray(values, np.float32).reshape(tuple(int(n) for n in reversed(tensor.shape)))


def add_tensor(writer, name, x, types):
    kind = next(kind for end, kind in types if name.rpartition(".")[0].endswith(end) or name.startswith(end)) if x.ndim > 1 else "F32"
    if name.startswith("v.position_embd"):
        kind = "F32"
    if x.ndim == 4 and kind not in ("F32", "F16"):
        kind = "F16"
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0]
    if x.shape[-1] % size:
        kind = "F16"
    data, kind = encode(x, kind)
    writer.add_tensor(name, data, raw_dtype=kind)


# ---------------------------------------------------------------- files


def rope_freqs(config, scaling):
    """The file's way to say Llama 3's scaling: by how much each pair turns slower."""
    dim = config.head_dim
    factors = []
    for i in range(0, dim, 2):
        length = 2 * math.pi * scaling["rope_theta"] ** (i / dim)
        low, high = (scaling["original_max_position_embeddings"] / scaling[k] for k in ("low_freq_factor", "high_freq_factor"))
        smooth = (scaling["original_max_position_embeddings"] / length - scaling["low_freq_factor"]) / (scaling["high_freq_factor"] - scaling["low_freq_factor"])
        factors.append(1.0 if length < high else scaling["factor"] if length > low else 1 / ((1 - smooth) / scaling["factor"] + smooth))
    return np.array(factors, np.float32)


def write_text(path, config, weights, tokenizer, types, known=None):
    arch = "qwen2" if config.model_type == "qwen2" else "llama"
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if arch == "llama":
        writer.add_rope_dimension_count(head_dim)
        writer.add_vocab_size(known or config.vocab_size)
    if head_dim * config.num_attention_heads != config.hidden_size:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if config.model_type == "mistral" and config.sliding_window:
        writer.add_sliding_window(config.sliding_window)
    write_vocabulary(writer, tokenizer, known)
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", rope_freqs(config, rope))
    for name, tensor in weights.items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        x = tensor.float().numpy()
        if known and name in ("model.embed_tokens.weight", "lm_head.weight"):
            x = x[:known]
        if arch == "llama" and ".self_attn.q_proj." in name:
            x = interleaved(x, config.num_attention_heads)
        if arch == "llama" and ".self_attn.k_proj." in name:
            x = interleaved(x, config.num_key_value_heads)
        add_tensor(writer, text_name(name), x, types)
    close(writer)


def write_other(path, config, weights, tokenizer, types):
    """GPT-NeoX, whose queries, keys and values are sorted, and MPT."""
    neox = config.model_type == "gpt_neox"
    writer = gguf.GGUFWriter(path, "gptneox" if neox else "mpt")
    heads, width = (config.num_attention_heads, config.hidden_size) if neox else (config.n_heads, config.d_model)
    writer.add_context_length(config.max_position_embeddings if neox else config.max_seq_len)
    writer.add_embedding_length(width)
    writer.add_block_count(config.num_hidden_layers if neox else config.n_layers)
    writer.add_feed_forward_length(config.intermediate_size if neox else config.expansion_ratio * width)
    writer.add_head_count(heads)
    writer.add_layer_norm_eps(config.layer_norm_eps if neox else 1e-5)
    if neox:
        writer.add_rope_dimension_count(int(config.rope_parameters["partial_rotary_factor"] * (width // heads)))
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        writer.add_parallel_residual(config.use_parallel_residual)
    else:
        writer.add_max_alibi_bias(config.attn_config.alibi_bias_max)
    write_vocabulary(writer, tokenizer)
    names = OTHER_NAMES[config.model_type]
    for name, tensor in weights.items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        layer, x = re.match(r"(?:gpt_neox\.layers|transformer\.blocks)\.(\d+)\.(.*)\.(weight|bias)$", name), tensor.float().numpy()
        if neox and "query_key_value" in name:
            x = np.concatenate([part.reshape(-1, *x.shape[1:]) for part in np.moveaxis(x.reshape(heads, 3, width // heads, *x.shape[1:]), 1, 0)])
        stem, _, leaf = name.rpartition(".")
        add_tensor(writer, f"blk.{layer[1]}.{names[layer[2]]}.{layer[3]}" if layer else f"{names[stem]}.{leaf}", x, types)
    close(writer)


def write_mmproj(path, config, weights, types):
    vision = config.vision_config
    layers = config.vision_feature_layer if isinstance(config.vision_feature_layer, list) else [config.vision_feature_layer]
    wanted = [layer if layer >= 0 else vision.num_hidden_layers + 1 + layer for layer in layers]
    clip = vision.model_type == "clip_vision_model"
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_bool("clip.has_text_encoder", False)
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_bool("clip.has_llava_projector", True)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_bool("clip.use_gelu", vision.hidden_act.startswith("gelu"))
    for key, value in (("image_size", vision.image_size), ("patch_size", vision.patch_size), ("embedding_length", vision.hidden_size),
                       ("feed_forward_length", vision.intermediate_size), ("projection_dim", 0), ("attention.head_count", vision.num_attention_heads),
                       ("block_count", max(wanted))):
        writer.add_uint32("clip.vision." + key, value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", vision.layer_norm_eps)
    writer.add_array("clip.vision.image_mean", CLIP_MEAN)
    writer.add_array("clip.vision.image_std", CLIP_STD)
    if len(wanted) > 1:
        writer.add_array("clip.vision.feature_layer", wanted)
    if config.model_type == "llava_next":
        # Width first; transformers' pairs have the height first.
        writer.add_array("clip.vision.image_grid_pinpoints", [extent for height, width in config.image_grid_pinpoints for extent in (width, height)])
        writer.add_string("clip.vision.image_aspect_ratio", "anyres")
        writer.add_string("clip.vision.mm_patch_merge_type", "spatial_unpad")
    for name, tensor in weights.items():
        block = re.search(r"encoder\.layers\.(\d+)\.", name)
        if (block and int(block[1]) >= max(wanted)) or "post_layernorm" in name or ".head." in name or (name == "image_newline" and config.model_type == "llava"):
            continue
        add_tensor(writer, tower_name(name), tensor.float().numpy(), types)
    close(writer)


def close(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def parts_of(model):
    """The parameters of the language model and those of all else, under the names of released checkpoints."""
    text, rest = {}, {}
    for name, tensor in model.state_dict().items():
        name = name.removeprefix("model.") if "language_model" in name or "vision_tower" in name or "multi_modal" in name or "image_newline" in name else name
        if name.endswith("position_ids"):
            continue
        if name.startswith("language_model."):
            text["model." + name.removeprefix("language_model.").removeprefix("model.")] = tensor
        elif name.startswith(("vision_tower.", "multi_modal_projector.", "image_newline")):
            rest[name] = tensor
        else:
            text[name] = tensor
    return text, rest


def write_files(folder, model, tokenizer, types, known=None):
    text, rest = parts_of(model)
    config = model.config
    if config.model_type in OTHER_NAMES:
        return write_other(folder / "tiny.gguf", config, text, tokenizer, types)
    write_text(folder / "tiny.gguf", getattr(config, "text_config", config), text, tokenizer, types, known)
    if rest:
        write_mmproj(folder / "mmproj-tiny.gguf", config, rest, types)


def read_files(folder, model):
    """The files' values into the model's parameters. What they leave out, a tower's last block and norm, stays."""
    config = model.config
    text_config = getattr(config, "text_config", config)
    found = {t.name: t for t in gguf.GGUFReader(folder / "tiny.gguf").tensors}
    tower = {t.name: t for t in gguf.GGUFReader(folder / "mmproj-tiny.gguf").tensors} if (folder / "mmproj-tiny.gguf").exists() else {}
    text, rest = parts_of(model)
    for name, parameter in text.items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = decode(found.pop(text_name(name)))
        if text_config.model_type != "qwen2" and ".self_attn.q_proj." in name:
            values = apart(values, text_config.num_attention_heads)
        if text_config.model_type != "qwen2" and ".self_attn.k_proj." in name:
            values = apart(values, text_config.num_key_value_heads)
        parameter[: len(values)].copy_(torch.from_numpy(values))
    for name, parameter in rest.items():
        if tower_name(name) in tower:
            parameter.copy_(torch.from_numpy(decode(tower.pop(tower_name(name)))))
    assert not tower and set(found) <= {"rope_freqs.weight"}, (found, tower)


# ---------------------------------------------------------------- cases


def empty_model(case, rows, tokenizer):
    config = case["config"]
    text = getattr(config, "text_config", config)
    text.vocab_size, text.bos_token_id, text.eos_token_id, text.pad_token_id = rows, tokenizer.bos_token_id, tokenizer.eos_token_id, None
    if text is not config:
        config.image_token_index = config.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
        config.tie_word_embeddings = False
    maker = AutoModelForCausalLM if text is config else AutoModelForImageTextToText
    return maker.from_config(config, attn_implementation="eager").eval()


def image_processor(case):
    from transformers import LlavaImageProcessorPil, LlavaNextImageProcessorPil  # of version 5

    vision = case["config"].vision_config
    sizes = dict(size={"shortest_edge": vision.image_size}, crop_size={"height": vision.image_size, "width": vision.image_size}, image_mean=CLIP_MEAN, image_std=CLIP_STD)
    if case["family"] == "llava_next":
        return LlavaNextImageProcessorPil(image_grid_pinpoints=case["config"].image_grid_pinpoints, **sizes)
    return LlavaImageProcessorPil(do_pad=True, **sizes)


def items_of(case, folder, model, tokenizer):
    items = []
    for i, text in enumerate(case["texts"]):
        item = dict(name=f"p{i}", prompt=text)
        ids = tokenizer(text)["input_ids"]
        inputs = {}
        if "pictures" in case:
            pictures = [Image.open(folder / picture[0]) for picture in case["pictures"]]
            inputs = dict(image_processor(case)(images=pictures, return_tensors="pt"))
            item["images"] = [picture[0] for picture in case["pictures"]]
            images = {k: v for k, v in inputs.items() if k in ("pixel_values", "image_sizes")}
            states = model.get_image_features(**images, return_dict=True).pooler_output
            count, image = sum(len(x) for x in states), tokenizer.convert_tokens_to_ids("<image>")
            at = ids.index(image)
            ids[at : at + 1] = [image] * count
            inputs = images
        inputs["input_ids"] = torch.tensor([ids])
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        items.append(item | dict(inputs=inputs))
    return items


def make(case, folder):
    tokenizer = tokenizer_of(case)
    rows = len(tokenizer)
    known = rows - 1 if case["name"] == "gguf_llava15" else None
    if "pictures" in case:
        write_images(folder, case["pictures"])

    def build(seed):
        model = empty_model(case, rows, tokenizer)
        init_weights(model, seed, gain=1.8 if case["config"].tie_word_embeddings else 1.4, emb=0.35 if case["config"].tie_word_embeddings else 0.6)
        if known:
            model.lm_head.weight.data[known:] = 0
        write_files(folder / "model", model, tokenizer, case["types"], known)
        read_files(folder / "model", model)
        return model

    first = build(1)
    inputs = [item["inputs"] for item in items_of(case, folder, first, tokenizer)]
    search_seed(build, inputs, range(1, 80), STEPS)


def reference(case, folder):
    tokenizer = tokenizer_of(case)
    model = empty_model(case, len(tokenizer), tokenizer)
    read_files(folder / "model", model)
    known = len(tokenizer) - 1 if case["name"] == "gguf_llava15" else None
    if known:
        model.lm_head.weight.data[known:] = 0
    items, expected = items_of(case, folder, model, tokenizer), Expected()
    for item in items:
        name, inputs = item["name"], item["inputs"]
        expected.add_inputs(name, inputs)
        output = model(**inputs, return_dict=True)
        if "pixel_values" in inputs:
            states = output.image_hidden_states
            expected.add(f"{name}.image_features", torch.cat(list(states)) if isinstance(states, (list, tuple)) else states, "features in the <image> positions, in order")
        expected.add(f"{name}.logits_last8", output.logits[:, -8:, :known], "logits of the last 8 prompt positions")
        output = generate(model, inputs, None, max_new_tokens=STEPS)
        assert margin(output) > 1e-2
        ids = new_tokens(output, inputs)
        expected.add(f"{name}.greedy.step_logits", torch.stack(output.logits)[:, 0, :known], "raw logits of each generated step [steps, vocab]")
        texts = {key: tokenizer.decode(ids, skip_special_tokens=skip) for key, skip in (("text", True), ("text_with_special", False))}
        expected.runs.append({"name": "greedy", "input": name, "generate": {"max_new_tokens": STEPS, "eos_token_id": None}, "output_ids": ids} | texts)
    inputs = [{key: value for key, value in item.items() if key != "inputs"} for item in items]
    types = sorted({kind for _, kind in case["types"]})
    expected.write(case, folder, f"a GGUF model, {case['family']}", ["gguf", *types], inputs, {})


# ---------------------------------------------------------------- other cases


def convert(out, name, types):
    """A case of transformers' files as GGUF: the same expectations have to be met, but for pixels where LLaVA 1.5 crops and its GGUF pads."""
    source, folder = COMMITTED / name, Path(out) / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("model"))
    (folder / "model").mkdir()
    config = AutoConfig.from_pretrained(source / "model")
    maker = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    model = maker.from_pretrained(source / "model", dtype=torch.float32).eval()
    text = getattr(config, "text_config", config)
    special = {k: v for k, v in json.loads((source / "model" / "tokenizer_config.json").read_text()).items() if k in ("bos_token", "eos_token") and v}
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(source / "model" / "tokenizer.json"), clean_up_tokenization_spaces=False, **special)
    tokenizer.add_special_tokens({"additional_special_tokens": [f"[PAD{i}]" for i in range(len(tokenizer), text.vocab_size)]})
    write_files(folder / "model", model, tokenizer, types)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    for one in sys.argv[2:]:
        convert(sys.argv[1], one, [("", "F32")])
