"""A small CLIP vision tower on pictures of another size than its own, from transformers (interpolate_pos_encoding=True), for tests/modules/vit_test.cpp.

python make.py FOLDER        writes FOLDER/model.safetensors (tower, pixels and hidden states) and FOLDER/config.json   (transformers 5.23.0, torch 2.15.0)
"""
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModel

torch.manual_seed(5)
torch.set_grad_enabled(False)
folder = Path(sys.argv[1])
config = CLIPVisionConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=40, patch_size=8, hidden_act="quick_gelu")
model = CLIPVisionModel(config).eval()
for parameter in model.parameters():
    parameter.copy_(torch.randn(parameter.shape) * 0.3 + (1 if parameter.ndim == 1 else 0) * 0.5)
tensors = {name if name.startswith("vision_model.") else "vision_model." + name: value.clone() for name, value in model.state_dict().items()
           if "position_ids" not in name}
for name, (height, width) in {"same": (40, 40), "larger": (64, 48), "smaller": (24, 32)}.items():
    pixels = torch.randn(1, 3, height, width)
    out = model(pixels, interpolate_pos_encoding=(height, width) != (40, 40), output_hidden_states=True)
    tensors[f"{name}.pixels"] = pixels
    tensors[f"{name}.embeddings"] = out.hidden_states[0].clone()
    tensors[f"{name}.last"] = out.hidden_states[-1].clone()
save_file(tensors, folder / "model.safetensors")
(folder / "config.json").write_text(json.dumps(json.loads(config.to_json_string(use_diff=False)), indent=1) + "\n")
