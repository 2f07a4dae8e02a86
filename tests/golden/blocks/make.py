"""Writes blocks.safetensors: of each block format, blocks of random bytes, and their values as gguf-py has them. Scales are random finite halves, the
extreme ones among them. Needs numpy, safetensors and gguf 0.19. Run by hand."""
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file

EXTREME = np.array([0.0, -0.0, 65504, -65504, 2**-24, -(2**-24), 2**-14, 1023 * 2**-24, 1.0, 0.333251953125], np.float16)
# Where the halves of a block lie: scale, minimum.
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
          "IQ4_NL": [0], "IQ4_XS": [0]}

random, tensors = np.random.RandomState(7), {}
for name, halves in HALVES.items():
    kind = gguf.GGMLQuantizationType[name]
    size, length = gguf.GGML_QUANT_SIZES[kind]
    count = 14 if size == 32 else 11
    blocks = random.randint(0, 256, (count, length)).astype(np.uint8)
    blocks[1, :], blocks[2, :] = 0, 255
    for at in halves:
        bits = random.randint(0, 1 << 16, count).astype(np.uint16)
        bits[(bits & 0x7C00) == 0x7C00] &= 0xBFFF  # neither infinite nor NaN
        bits[: len(EXTREME)] = random.permutation(EXTREME).view(np.uint16)
        blocks[:, at : at + 2] = bits.view(np.uint8).reshape(count, 2)
    values = gguf.quants.dequantize(blocks, kind).astype(np.float32)
    assert np.isfinite(values).all(), name
    tensors[name.lower() + ".blocks"], tensors[name.lower() + ".values"] = blocks, values.reshape(count, size)
save_file(tensors, str(Path(__file__).parent / "blocks.safetensors"))
