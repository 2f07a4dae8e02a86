"""BLIP-2, OpenFlamingo and IDEFICS in PyTorch, as bench/models/family_bench.cpp has them: published widths, of the deep parts the first layers."""
import torch
import transformers
from torch import nn
from torch.nn import functional


def prompt(tokens, pictures, media_token):
    ids = 2 + torch.arange(tokens) * 7919 % 31000
    if media_token is not None:
        ids[[n * tokens // pictures for n in range(pictures)]] = media_token
    return ids.unsqueeze(0)


class Blip2:
    """transformers' Blip2ForConditionalGeneration over OPT-2.7B: 4 of 39 layers of the tower, 8 of 32 of the language model."""

    def __init__(self, fill, without_initialisation):
        config = transformers.Blip2Config(
            vision_config={"num_hidden_layers": 4}, num_query_tokens=32, image_token_index=31999,
            text_config={"model_type": "opt", "hidden_size": 2560, "word_embed_proj_dim": 2560, "ffn_dim": 10240, "num_hidden_layers": 8,
                         "num_attention_heads": 32})
        self.model = fill(without_initialisation(transformers.Blip2ForConditionalGeneration)(config))
        self.pixels = torch.randn(1, 3, 224, 224).to(torch.get_default_dtype())
        self.ids = torch.cat([torch.full((1, 32), 31999), prompt(16, 1, None)], 1)
        self.past = None

    def forward(self):
        return self.model(pixel_values=self.pixels, input_ids=self.ids, use_cache=True, logits_to_keep=1)

    def decode(self):
        if self.past is None:
            self.past = self.forward().language_model_outputs.past_key_values
        output = self.model.language_model(input_ids=torch.tensor([[7]]), past_key_values=self.past, use_cache=True)
        self.past.crop(-1)
        return output


class Idefics:
    """transformers' IdeficsForVisionText2Text of 9B's widths: 8 of 32 layers of the tower, 4 of 32 of the language model, a gated block before the first."""

    def __init__(self, fill, without_initialisation):
        config = transformers.IdeficsConfig(
            num_hidden_layers=4, cross_layer_interval=4, qk_layer_norms=True, use_resampler=True, additional_vocab_size=0, alpha_initializer="ones",
            vision_config={"embed_dim": 1280, "num_hidden_layers": 8, "num_attention_heads": 16, "intermediate_size": 5120, "patch_size": 14, "image_size": 224},
            perceiver_config={"qk_layer_norms_perceiver": True, "resampler_depth": 6, "resampler_n_heads": 16, "resampler_head_dim": 96, "resampler_n_latents": 64})
        self.model = fill(without_initialisation(transformers.IdeficsForVisionText2Text)(config))
        self.pixels = torch.randn(1, 2, 3, 224, 224).to(torch.get_default_dtype())
        self.ids = prompt(96, 2, 1)
        self.mask = functional.one_hot((self.ids == 1).cumsum(1) - 1, 2)
        self.past = self.seen = None

    def forward(self):
        return self.model(input_ids=self.ids, pixel_values=self.pixels, image_attention_mask=self.mask, use_cache=True)

    def decode(self):
        if self.past is None:
            output = self.forward()
            self.past, self.seen = output.past_key_values, output.image_hidden_states
        output = self.model(input_ids=torch.tensor([[7]]), perceiver_embeddings=self.seen, image_attention_mask=self.mask[:, -1:], past_key_values=self.past,
                            use_cache=True)
        self.past.crop(-1)
        return output


class Perceiver(nn.Module):
    """OpenFlamingo's equations (arXiv:2308.01390), with PyTorch's fused attention."""

    def __init__(self, width, heads=8, head_dim=64, latents=64, depth=6):
        super().__init__()
        self.heads, inner = heads, heads * head_dim
        self.latents = nn.Parameter(torch.randn(latents, width))
        self.layers = nn.ModuleList(
            nn.ModuleDict({"norm_media": nn.LayerNorm(width), "norm_latents": nn.LayerNorm(width), "to_q": nn.Linear(width, inner, bias=False),
                           "to_kv": nn.Linear(width, 2 * inner, bias=False), "to_out": nn.Linear(inner, width, bias=False), "ff": feed_forward(width)})
            for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x):  # (N, V, D) -> (N, L, D)
        latents = self.latents.expand(x.shape[0], -1, -1)
        for layer in self.layers:
            media, asking = layer["norm_media"](x), layer["norm_latents"](latents)
            k, v = layer["to_kv"](torch.cat([media, asking], 1)).chunk(2, -1)
            latents = layer["to_out"](attend(self.heads, layer["to_q"](asking), k, v)) + latents
            latents = layer["ff"](latents) + latents
        return self.norm(latents)


class GatedCrossAttention(nn.Module):
    def __init__(self, width, media_width, heads=8, head_dim=64):
        super().__init__()
        self.heads, inner = heads, heads * head_dim
        self.norm = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(media_width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)
        self.ff = feed_forward(width)
        self.attn_gate, self.ff_gate = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

    def forward(self, x, media, mask):  # (1, T, D), (1, N L, Dv), (T, N L)
        k, v = self.to_kv(media).chunk(2, -1)
        x = x + self.attn_gate.tanh() * self.to_out(attend(self.heads, self.to_q(self.norm(x)), k, v, mask))
        return x + self.ff_gate.tanh() * self.ff(x)


def feed_forward(width):
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width, bias=False), nn.GELU(), nn.Linear(4 * width, width, bias=False))


def attend(heads, q, k, v, mask=None):
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


class OpenFlamingo:
    """OpenFlamingo-3B: transformers' CLIP and MPT, and between MPT's layers (6 of 24) gated blocks. Its own code wants another version of transformers."""

    def __init__(self, fill, without_initialisation):
        vision = transformers.CLIPVisionConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=224, patch_size=14)
        self.vit = fill(without_initialisation(transformers.CLIPVisionModel)(vision))
        self.perceiver = fill(Perceiver(1024))
        self.lm = fill(without_initialisation(transformers.MptForCausalLM)(transformers.MptConfig(n_layers=6)))
        self.blocks = fill(nn.ModuleList(GatedCrossAttention(2048, 1024) for _ in range(6)))
        self.pixels = torch.randn(3, 3, 224, 224).to(torch.get_default_dtype())
        self.ids = prompt(96, 3, 1)
        self.text_time = (self.ids == 1).cumsum(1)[0]
        self.media = self.mask = self.past = None
        for block, layer in zip(self.blocks, self.lm.transformer.blocks):
            layer.register_forward_pre_hook(lambda module, arguments, block=block: (block(arguments[0], self.media, self.mask), *arguments[1:]))

    def forward(self):
        self.media = self.perceiver(self.vit(pixel_values=self.pixels).last_hidden_state[:, 1:]).flatten(0, 1).unsqueeze(0)
        self.mask = self.text_time[:, None] == 1 + torch.arange(3 * 64) // 64
        return self.lm(input_ids=self.ids, use_cache=True, logits_to_keep=1)

    def decode(self):
        if self.past is None:
            self.past = self.forward().past_key_values
        self.mask = self.mask[-1:]  # forward() leaves all its rows
        output = self.lm(input_ids=torch.tensor([[7]]), past_key_values=self.past, use_cache=True)
        self.past.crop(-1)
        return output
