"""Angles of rotary embeddings from transformers, for tests/nn/rope_test.cpp.

python make.py > rope.json        (transformers 5.23.0, torch 2.15.0)

Each case: a decoder configuration as config.json has it, and cos/sin (the first half: the second repeats it) at some positions of one forward
call over positions 0 .. length - 1.
"""
import json
import sys

import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

torch.set_grad_enabled(False)
base = dict(hidden_size=96, num_attention_heads=4, num_key_value_heads=2, head_dim=24, num_hidden_layers=1, intermediate_size=32, vocab_size=8)
cases = [
    ("default", dict(max_position_embeddings=64, rope_theta=10000.0), 50),
    ("theta_1e6", dict(max_position_embeddings=4096, rope_theta=1000000.0), 3000),
    ("linear", dict(max_position_embeddings=64, rope_theta=10000.0, rope_scaling=dict(rope_type="linear", factor=4.0)), 200),
    ("linear_old_spelling", dict(max_position_embeddings=64, rope_theta=10000.0, rope_scaling=dict(type="linear", factor=2.5)), 200),
    ("dynamic_short", dict(max_position_embeddings=64, rope_theta=10000.0, rope_scaling=dict(rope_type="dynamic", factor=2.0)), 40),
    ("dynamic_long", dict(max_position_embeddings=64, rope_theta=10000.0, rope_scaling=dict(rope_type="dynamic", factor=2.0)), 150),
    ("yarn", dict(max_position_embeddings=256, rope_theta=10000.0, rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)), 250),
    ("yarn_attention_factor", dict(max_position_embeddings=256, rope_theta=5000.0, rope_scaling=dict(rope_type="yarn", factor=8.0, original_max_position_embeddings=32, attention_factor=0.9, beta_fast=16, beta_slow=2)), 250),
    ("yarn_mscale", dict(max_position_embeddings=256, rope_theta=10000.0, rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64, mscale=0.707, mscale_all_dim=1.2)), 250),
    ("llama3", dict(max_position_embeddings=512, rope_theta=500000.0, rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)), 400),
]
result = []
for name, settings, length in cases:
    written = {**base, **settings}
    config = LlamaConfig(**json.loads(json.dumps(written)))
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1, length, 1), torch.arange(length)[None])
    positions = sorted({0, 1, 2, 7, length // 3, length // 2, length - 1})
    half = cos.shape[-1] // 2
    result.append(dict(name=name, config=written, length=length, positions=positions,
                       cos=[cos[0, p, :half].tolist() for p in positions], sin=[sin[0, p, :half].tolist() for p in positions]))
json.dump(result, sys.stdout)
