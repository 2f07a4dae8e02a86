"""CLIP's tower and Llama in plain PyTorch, for converters to trace: the operations of transformers' classes in their order, so that the patterns
that engines fuse are there."""

import torch
from torch import nn
from torch.nn import functional


def fill(model):
    """Random weights from one block that repeats; no two parameters alike, of which OpenVINO would keep one."""
    block = torch.randn(65537, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for i, (name, parameter) in enumerate(model.named_parameters()):
            if "norm" in name:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
                continue
            scale = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.1
            values = (block.roll(97 * i) * scale).to(parameter.dtype).repeat(-(-parameter.numel() // block.numel()))[: parameter.numel()]
            parameter.copy_(values.view(parameter.shape))
    return model.eval()


class VitBlock(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.heads = shape.heads
        self.norm1, self.norm2 = nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)
        self.q, self.k, self.v, self.out = (nn.Linear(shape.width, shape.width) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(shape.width, shape.ffn), nn.Linear(shape.ffn, shape.width)

    def forward(self, x):
        y = self.norm1(x)
        q, k, v = (p(y).view(1, -1, self.heads, x.shape[2] // self.heads).transpose(1, 2) for p in (self.q, self.k, self.v))
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))
        y = self.fc1(self.norm2(x))
        return x + self.fc2(y * torch.sigmoid(1.702 * y))


class Vit(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.patch = nn.Conv2d(3, shape.width, shape.patch, shape.patch, bias=False)
        self.first = nn.Parameter(torch.empty(1, 1, shape.width))
        self.position = nn.Parameter(torch.empty(1, shape.patches + 1, shape.width))
        self.norm_before = nn.LayerNorm(shape.width)
        self.blocks = nn.ModuleList(VitBlock(shape) for _ in range(shape.layers))
        self.projector = None
        if shape.projector:
            self.projector = nn.Sequential(nn.Linear(shape.width, shape.projector), nn.GELU(), nn.Linear(shape.projector, shape.projector))

    def forward(self, pixels):
        x = torch.cat([self.first, self.patch(pixels).flatten(2).transpose(1, 2)], 1)
        x = self.norm_before(x + self.position)
        for block in self.blocks:
            x = block(x)
        return x if self.projector is None else self.projector(x[:, 1:])


class RmsNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))


def rotate(x, cosine, sine):
    half = x.shape[-1] // 2
    return x * cosine + torch.cat((-x[..., half:], x[..., :half]), -1) * sine


def repeat(x, times):
    if times == 1:
        return x
    batch, heads, length, head = x.shape
    return x[:, :, None].expand(batch, heads, times, length, head).reshape(batch, heads * times, length, head)


class LlamaBlock(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.norm1, self.norm2 = RmsNorm(shape.width), RmsNorm(shape.width)
        q, kv = shape.heads * shape.head, shape.kv_heads * shape.head
        self.q, self.k, self.v = (nn.Linear(shape.width, size, bias=shape.bias) for size in (q, kv, kv))
        self.out = nn.Linear(q, shape.width, bias=False)
        self.gate, self.up = (nn.Linear(shape.width, shape.ffn, bias=False) for _ in range(2))
        self.down = nn.Linear(shape.ffn, shape.width, bias=False)

    def forward(self, x, cosine, sine, mask, past_k, past_v):
        batch, length = x.shape[0], x.shape[1]
        y = self.norm1(x)
        q, k, v = (p(y).view(batch, length, heads, self.shape.head).transpose(1, 2)
                   for p, heads in ((self.q, self.shape.heads), (self.k, self.shape.kv_heads), (self.v, self.shape.kv_heads)))
        q, k = rotate(q, cosine, sine), rotate(k, cosine, sine)
        k, v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
        times = self.shape.heads // self.shape.kv_heads
        y = functional.scaled_dot_product_attention(q, repeat(k, times), repeat(v, times), attn_mask=mask)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, self.shape.heads * self.shape.head))
        y = self.norm2(x)
        return x + self.down(functional.silu(self.gate(y)) * self.up(y)), k, v


class Llama(nn.Module):
    """From embeddings to the last token's logits; keys and values of the past go in and come out."""

    def __init__(self, shape):
        super().__init__()
        self.blocks = nn.ModuleList(LlamaBlock(shape) for _ in range(shape.layers))
        self.norm = RmsNorm(shape.width)
        self.head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        self.register_buffer("frequencies", shape.theta ** (-torch.arange(0, shape.head, 2, dtype=torch.float32) / shape.head), persistent=False)

    def forward(self, inputs_embeds, position_ids, *past):
        x, presents = inputs_embeds, []
        angles = (self.frequencies[None, :, None].float().expand(position_ids.shape[0], -1, 1) @ position_ids[:, None, :].float()).transpose(1, 2)
        angles = torch.cat((angles, angles), -1)
        cosine, sine = angles.cos()[:, None], angles.sin()[:, None]
        keys = torch.arange(past[0].shape[2] + x.shape[1])
        mask = torch.where(keys[None, None, None] <= position_ids[:, None, :, None], 0.0, torch.finfo(torch.float32).min)
        for i, block in enumerate(self.blocks):
            x, k, v = block(x, cosine, sine, mask, past[2 * i], past[2 * i + 1])
            presents += [k, v]
        return (self.head(self.norm(x[:, -1:])), *presents)
