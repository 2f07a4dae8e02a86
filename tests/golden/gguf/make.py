"""Writes kinds.gguf, with values and tensors of every type, kinds.json with what gguf-py reads back from it, and iq2_xxs.gguf, with a tensor of a format that
is not read. Needs numpy and gguf 0.19. Run by hand."""
import json
from pathlib import Path

import gguf
import numpy as np

HERE, random = Path(__file__).parent, np.random.RandomState(5)

writer = gguf.GGUFWriter(HERE / "kinds.gguf", "llama")
writer.add_custom_alignment(64)
for name, value in dict(uint8=200, int8=-100, uint16=60000, int16=-30000, uint32=4000000000, int32=-2000000000, uint64=2**63 + 5, int64=-(2**63)).items():
    getattr(writer, f"add_{name}")(f"integer.{name}", value)
writer.add_float32("number.f32", 0.48145466)
writer.add_float64("number.f64", 0.1)
writer.add_bool("yes", True)
writer.add_bool("no", False)
writer.add_string("text", "naïve 图像\n\0 \"quoted\"")
writer.add_array("strings", ["<s>", "", "▁the", "x" * 200])
writer.add_array("numbers", [0.5, -1.0, 3.25])
writer.add_array("integers", list(range(-3, 20)))
writer.add_array("flags", [True, False, True])
writer.add_array("nested", [[1, 2], [3], [4, 5, 6]])
for kind in ("F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"):
    kind = gguf.GGMLQuantizationType[kind]
    size, length = gguf.GGML_QUANT_SIZES[kind]
    columns = max(size, 5 if kind.name[0] in "FBI" and size == 1 else 0)
    blocks = random.randint(0, 50, (2, 3, columns // size * length)).astype(np.uint8)
    writer.add_tensor(f"tensor.{kind.name.lower()}", blocks, raw_dtype=kind)
writer.add_tensor("scalar", np.array([7.0], np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

reader = gguf.GGUFReader(HERE / "kinds.gguf")
values = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.") and key != "nested"}
tensors = [dict(name=t.name, type=t.tensor_type.name, shape=[int(n) for n in reversed(t.shape)], offset=int(t.data_offset), bytes=int(t.n_bytes)) for t in reader.tensors]
(HERE / "kinds.json").write_text(json.dumps(dict(values=values, tensors=tensors), indent=1, ensure_ascii=False) + "\n")

writer = gguf.GGUFWriter(HERE / "iq2_xxs.gguf", "llama")
writer.add_tensor("blk.0.attn_q.weight", np.zeros((2, 66), np.uint8), raw_dtype=gguf.GGMLQuantizationType.IQ2_XXS)
writer.add_tensor("token_embd.weight", np.ones((4, 2), np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
