"""The work of bench/models in PyTorch, with the classes of transformers and random weights."""

import functools
import time

import torch
import transformers

import peer
import pytorch_families
import shapes


def fill(model):
    """Random weights from one block that repeats: initialising a billion numbers one by one takes longer than measuring."""
    block = torch.randn(65537, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in model.parameters():
            scale = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.1
            repeats = -(-parameter.numel() // block.numel())
            values = (block * scale).to(parameter.dtype).repeat(repeats)[: parameter.numel()]
            parameter.copy_(values.view(parameter.shape))
    return model.eval()


def without_initialisation(cls):
    cls._init_weights = lambda self, module: None
    return cls


class Encoder:
    """A CLIP vision tower; with `projector`, the two layers of LLaVA-1.5 behind it."""

    def __init__(self, projector, **config):
        size = config["image_size"]
        self.vit = fill(without_initialisation(transformers.CLIPVisionModel)(transformers.CLIPVisionConfig(**config)))
        self.projector = None
        if projector:
            self.projector = fill(torch.nn.Sequential(torch.nn.Linear(config["hidden_size"], projector), torch.nn.GELU(),
                                                      torch.nn.Linear(projector, projector)))
        self.pixels = torch.randn(1, 3, size, size).to(torch.get_default_dtype())

    def encode(self):
        seen = self.vit(pixel_values=self.pixels).last_hidden_state
        return seen if self.projector is None else self.projector(seen[:, 1:])


class Blip2Encoder:
    """The first blocks of BLIP-2's vision tower."""

    def __init__(self, blocks):
        self.vit = fill(without_initialisation(transformers.Blip2VisionModel)(transformers.Blip2VisionConfig(num_hidden_layers=blocks)))
        self.pixels = torch.randn(1, 3, 224, 224).to(torch.get_default_dtype())

    def encode(self):
        return self.vit(pixel_values=self.pixels).last_hidden_state


class QFormer:
    """BLIP-2's, on the 257 states of its vision tower."""

    def __init__(self):
        self.config = transformers.Blip2QFormerConfig()
        self.qformer = fill(without_initialisation(transformers.Blip2QFormerModel)(self.config))
        self.queries = torch.randn(1, 32, self.config.hidden_size).to(torch.get_default_dtype())
        self.states = torch.randn(1, 257, self.config.encoder_hidden_size).to(torch.get_default_dtype())

    def read(self):
        return self.qformer(query_embeds=self.queries, encoder_hidden_states=self.states)


def idefics_9b():
    config = transformers.IdeficsConfig(cross_layer_interval=4, qk_layer_norms=True, use_resampler=True, vision_config={"embed_dim": 1280, "num_attention_heads": 16},
                                        perceiver_config={"use_resampler": True, "qk_layer_norms_perceiver": True})
    config._attn_implementation = "sdpa"
    return config


class PerceiverResampler:
    """IDEFICS's, on the 257 states of its vision tower."""

    def __init__(self):
        from transformers.models.idefics.perceiver import IdeficsPerceiverResampler

        self.resampler = fill(IdeficsPerceiverResampler(idefics_9b(), 1280, 6, 16, 96, 64))
        self.states = torch.randn(1, 257, 1280).to(torch.get_default_dtype())

    def read(self):
        return self.resampler(self.states)


class GatedBlock:
    """One of IDEFICS's, as transformers runs it: with the keys and values of all pictures, and a mask, each time."""

    def __init__(self):
        from transformers.models.idefics.modeling_idefics import IdeficsGatedCrossAttentionLayer

        self.block = fill(IdeficsGatedCrossAttentionLayer(idefics_9b(), layer_idx=0))
        self.pictures = torch.randn(1, 4 * 64, 1280).to(torch.get_default_dtype())

    def look(self, rows):
        dtype = torch.get_default_dtype()
        seen = torch.arange(rows) * 4 // rows if rows > 1 else torch.tensor([3])  # the picture of each row
        mask = torch.where(seen[:, None] == torch.arange(4)[None], 0.0, torch.finfo(dtype).min).to(dtype).repeat_interleave(64, 1)[None, None]
        return self.block(torch.ones(1, rows, 4096, dtype=dtype), image_hidden_states=self.pictures, image_attention_mask=mask,
                          cross_attention_gate=torch.ones(1, rows, dtype=dtype))


class Llama:
    def __init__(self, shape):
        config = transformers.LlamaConfig(vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.ffn, num_hidden_layers=shape.layers,
                                          num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, max_position_embeddings=2048)
        self.lm = fill(without_initialisation(transformers.LlamaForCausalLM)(config))
        self.past = None

    def prefill(self, length):
        return self.lm(input_ids=torch.tensor([shapes.prompt(length)]), use_cache=True, logits_to_keep=1)

    def next(self):
        return self.lm(input_ids=torch.tensor([[1]]), past_key_values=self.past, use_cache=True)

    def decode(self, length):
        if self.past is None:
            self.past = self.prefill(length).past_key_values
        self.next()
        self.past.crop(-1)


class Llava:
    """LLaVA-1.5's parts: what the tower and the projector see stands between the words of the question."""

    def __init__(self, vit, llm):
        self.sight, self.text = clip(vit), Llama(llm)

    def first_token(self):
        words = self.text.lm.get_input_embeddings()(torch.tensor([shapes.prompt(shapes.QUESTION)]))
        seen = self.sight.encode()
        self.text.past = self.text.lm(inputs_embeds=torch.cat([words[:, :1], seen, words[:, 1:]], 1), use_cache=True, logits_to_keep=1).past_key_values

    def answer(self):
        self.first_token()
        begin = time.perf_counter()
        for _ in range(shapes.ANSWER):
            self.text.next()
        return time.perf_counter() - begin


def clip(shape):
    return Encoder(shape.projector, hidden_size=shape.width, intermediate_size=shape.ffn, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
                   image_size=shape.image, patch_size=shape.patch)


MODELS = {
    "vit_l_336": lambda: clip(shapes.VIT["vit_l_336"]),
    "vit_b_224": lambda: clip(shapes.VIT["vit_b_224"]),
    "vit_g_224_4_blocks": lambda: Blip2Encoder(4),
    "qformer": QFormer,
    "perceiver_idefics_9b": PerceiverResampler,
    "cross_attention_idefics_9b": GatedBlock,
    "llama_1b": lambda: Llama(shapes.LLM["llama_1b"]),
    "llava_1b": lambda: Llava(shapes.VIT["llava_1b"], shapes.LLM["llava_1b"]),
    "blip2_opt_2.7b": lambda: pytorch_families.Blip2(fill, without_initialisation),
    "open_flamingo_3b": lambda: pytorch_families.OpenFlamingo(fill, without_initialisation),
    "idefics_9b": lambda: pytorch_families.Idefics(fill, without_initialisation),
}
WORK = {
    "encode": lambda model: model.encode(),
    "read": lambda model: model.read(),
    "prompt_256": lambda model: model.look(256),
    "token": lambda model: model.look(1),
    "prefill_128": lambda model: model.prefill(128),
    "prefill_512": lambda model: model.prefill(512),
    "decode_128": lambda model: model.decode(128),
    "first_token": lambda model: model.first_token(),
    "answer": lambda model: model.answer(),
    "forward": lambda model: model.forward(),
    "decode": lambda model: model.decode(),
}


def load(model, kind, folder, threads, start=False):
    torch.set_num_threads(threads)
    torch.set_default_dtype({"f32": torch.float32, "bf16": torch.bfloat16}[kind])
    for layer in (torch.nn.Linear, torch.nn.Embedding, torch.nn.Conv2d, torch.nn.LayerNorm):
        layer.reset_parameters = lambda self: None
    torch.inference_mode().__enter__()
    made = MODELS[model]()
    return {work: functools.partial(call, made) for work, call in WORK.items()}


if __name__ == "__main__":
    peer.run(lambda *_: None, load, lambda: {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__})
