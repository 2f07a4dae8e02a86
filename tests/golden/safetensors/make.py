"""Writes dtypes.safetensors: one tensor per dtype with its values as the reference (torch) converts them to f32, and f32 values with
their roundings to f16 and bf16. Needs torch and safetensors. Run by hand."""
import struct
import torch
from safetensors.torch import save_file

torch.manual_seed(3)
every_byte = torch.arange(256).to(torch.uint8)
bits = torch.randint(0, 2**32, (2000,), dtype=torch.int64)
rounded = torch.cat([
    torch.tensor(struct.unpack("<2000f", struct.pack("<2000I", *bits.tolist()))),   # any bits
    torch.randn(500) * 3, torch.randn(500) * 1e-6, torch.randn(500) * 6e-8, torch.randn(200) * 4e4,
    torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan"), 65504, 65519.996, 65520, -65520, 2**-24, 2**-25, 2**-25 * 1.0001,
                  3 * 2**-25, 1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-8, 1 + 2**-9, 1 + 3 * 2**-9, 3.3895314e38, 3.4028235e38, 2**-14, 2**-14 - 2**-25])])
tensors = {}
for name in ["float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"]:
    tensors[name] = every_byte.clone().view(getattr(torch, name))
for name in ["float32", "float64", "float16", "bfloat16"]:
    tensors[name] = (torch.randn(3, 5) * 100).to(getattr(torch, name))
for name, size in [("int8", 8), ("int16", 16), ("int32", 32), ("int64", 64)]:
    tensors[name] = torch.tensor([0, 1, -1, 100, 2**(size - 1) - 1, -2**(size - 1)], dtype=getattr(torch, name))
for name, size in [("uint8", 8), ("uint16", 16), ("uint32", 32), ("uint64", 64)]:
    tensors[name] = torch.tensor([0, 1, 100, 2**size - 1], dtype=getattr(torch, name))
out = {}
for name, tensor in tensors.items():
    out[name], out[name + ".as_f32"] = tensor, tensor.to(torch.float32, copy=True)
out["bool"] = torch.tensor([True, False, True])
out["rounded.f32"], out["rounded.f16"], out["rounded.bf16"] = rounded, rounded.half(), rounded.bfloat16()
save_file(out, "dtypes.safetensors", metadata={"format": "pt"})
