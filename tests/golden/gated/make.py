"""Perceiver Resamplers and gated cross-attention blocks, small and with random weights, from OpenFlamingo's and IDEFICS's own code, for
tests/modules/{perceiver_resampler,gated_cross_attention}_test.cpp.

python make.py FOLDER HELPERS    HELPERS: open_flamingo/src/helpers.py of github.com/mlfoundations/open_flamingo (commit 655f693); writes FOLDER/model.safetensors
                                 (transformers 5.23.0, torch 2.15.0, einops 0.8.2, einops-exts 0.0.4)
"""
import importlib.util
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import IdeficsConfig
from transformers.models.idefics.modeling_idefics import IdeficsGatedCrossAttentionLayer
from transformers.models.idefics.perceiver import IdeficsPerceiverResampler

torch.manual_seed(11)
torch.set_grad_enabled(False)
spec = importlib.util.spec_from_file_location("helpers", sys.argv[2])
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)

SEEN, TEXT, LATENTS, HEADS, HEAD = 20, 24, 5, 3, 8
IMAGE, END = 7, 2
IDS = [1, 9, 7, 4, 4, 7, 7, 5, 2, 6, 7, 3, 2, 2, 8]  # two before the first picture, two pictures side by side, ends
tensors = {"ids": torch.tensor(IDS, dtype=torch.int32)}


def random(name, module):
    for key, parameter in module.named_parameters():
        norm = "norm" in key or ".ln." in key or key.endswith(("1.0.weight", "1.0.bias", "ff.0.weight", "ff.0.bias"))
        gate = "gate" in key or "alpha" in key
        scale = 0.2 if norm else 0.5 if gate else parameter.shape[-1] ** -0.5 * 1.3
        parameter.copy_(torch.randn(parameter.shape) * scale + (1.0 if norm and key.endswith("weight") else 0.6 if gate else 0.0))
        tensors[f"{name}.{key}"] = parameter.clone()
    return module.eval()


# OpenFlamingo: several frames and media with positions, and pictures as the released models take them.
sizes = dict(dim=SEEN, depth=2, dim_head=HEAD, heads=HEADS, num_latents=LATENTS)
video = random("flamingo.video", helpers.PerceiverResampler(max_num_media=4, max_num_frames=3, **sizes))
tensors["flamingo.video.x"] = torch.randn(3, 2, 7, SEEN)
tensors["flamingo.video.y"] = video(tensors["flamingo.video.x"][None])[0].clone()
pictures = random("flamingo.perceiver", helpers.PerceiverResampler(**sizes))
tensors["flamingo.perceiver.x"] = torch.randn(4, 9, SEEN)
media = pictures(tensors["flamingo.perceiver.x"][None, :, None])[0].clone()
tensors["flamingo.perceiver.y"] = media
text = torch.randn(len(IDS), TEXT)
tensors["text"] = text
for name, immediate in (("immediate", True), ("all", False)):
    torch.manual_seed(12)
    block = random(f"flamingo.{name}", helpers.GatedCrossAttentionBlock(dim=TEXT, dim_visual=SEEN, dim_head=HEAD, heads=HEADS, only_attend_immediate_media=immediate))
    extra = {"use_cached_media": False} if "use_cached_media" in helpers.GatedCrossAttentionBlock.forward.__code__.co_varnames else {}
    tensors[f"flamingo.{name}.y"] = block(text[None], media[None], media_locations=tensors["ids"][None] == IMAGE, **extra)[0].clone()

# IDEFICS, with and without norms of queries and keys; one gate for all columns, or one for each.
mask = torch.zeros(len(IDS), IDS.count(IMAGE), dtype=torch.bool)
seen, ended = 0, False
for t, token in enumerate(IDS):
    if token == IMAGE:
        seen, ended = seen + 1, False
    if seen and not ended:
        mask[t, seen - 1] = True
    ended = ended or token == END
tensors["idefics.mask"] = mask.to(torch.int32)
for name, norms, alpha in (("plain", False, "float"), ("normed", True, "vector")):
    config = IdeficsConfig(hidden_size=TEXT, intermediate_size=40, num_attention_heads=HEADS, hidden_act="silu", rms_norm_eps=1e-6, qk_layer_norms=norms, alpha_type=alpha,
                           alpha_initializer="ones", vision_config=dict(embed_dim=SEEN), use_resampler=True,
                           perceiver_config=dict(use_resampler=True, qk_layer_norms_perceiver=norms))
    config._attn_implementation = "eager"
    perceiver = random(f"idefics.{name}.perceiver", IdeficsPerceiverResampler(config, SEEN, 2, HEADS, HEAD, LATENTS))
    tensors[f"idefics.{name}.perceiver.x"] = torch.randn(4, 9, SEEN)
    media = perceiver(tensors[f"idefics.{name}.perceiver.x"]).clone()
    tensors[f"idefics.{name}.perceiver.y"] = media
    block = random(f"idefics.{name}.block", IdeficsGatedCrossAttentionLayer(config, layer_idx=0))
    wide = torch.where(mask.repeat_interleave(LATENTS, 1), 0.0, torch.finfo(torch.float32).min)[None, None]
    tensors[f"idefics.{name}.block.y"] = block(text[None], image_hidden_states=media.reshape(1, -1, SEEN), image_attention_mask=wide,
                                               cross_attention_gate=mask.any(-1)[None].float())[0].clone()
save_file({key: value.contiguous() for key, value in tensors.items()}, Path(sys.argv[1]) / "model.safetensors")
