"""The shapes that every engine gets: published architectures, as in bench/models/shapes.hpp. What a model has learnt does not change its speed."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Vit:
    width: int
    ffn: int
    layers: int  # that run: LLaVA-1.5 leaves the last of 24 out
    heads: int
    image: int
    patch: int
    projector: int = 0  # LLaVA-1.5's two layers behind it, this wide

    @property
    def patches(self):
        return (self.image // self.patch) ** 2

    def bytes(self, kind):
        """Of a file of this kind."""
        numbers = self.width * (3 * self.patch**2 + self.patches + self.layers * (4 * self.width + 2 * self.ffn)) + self.projector * (self.width + self.projector)
        return numbers * row_bytes(kind, 1)

    @property
    def flops(self):
        """Of one picture; a multiplication and an addition are two."""
        tokens = self.patches + 1
        block = 2 * tokens * self.width * (4 * self.width + 2 * self.ffn) + 4 * tokens**2 * self.width
        return (2 * self.patches * self.width * 3 * self.patch**2 + self.layers * block
                + 2 * self.patches * self.projector * (self.width + self.projector))


@dataclasses.dataclass(frozen=True)
class Llm:
    width: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    head: int  # numbers of one head
    bias: bool = False  # of q, k, v: Qwen2
    tied: bool = False  # the output projection is the table of embeddings
    theta: float = 10000.0

    def matrices(self):
        """(name, outputs, inputs) of all that a token goes through, layer by layer: names of GGUF files."""
        q, kv = self.heads * self.head, self.kv_heads * self.head
        for layer in range(self.layers):
            for name, outputs, inputs in (("attn_q", q, self.width), ("attn_k", kv, self.width), ("attn_v", kv, self.width), ("attn_output", self.width, q),
                                          ("ffn_gate", self.ffn, self.width), ("ffn_up", self.ffn, self.width), ("ffn_down", self.width, self.ffn)):
                yield f"blk.{layer}.{name}", outputs, inputs
        yield "output", self.vocabulary, self.width

    def prefill_flops(self, tokens):
        """Half of the scores are masked; only the last token has logits."""
        head = self.vocabulary * self.width
        blocks = sum(outputs * inputs for _, outputs, inputs in self.matrices()) - head
        return 2 * tokens * blocks + 2 * head + 2 * tokens**2 * self.heads * self.head * self.layers

    def bytes(self, kind):
        """That a token reads of the weights, in files of this kind."""
        return sum(outputs * row_bytes(block_format(self, kind, name, inputs), inputs) for name, outputs, inputs in self.matrices())


VIT = {
    "vit_l_336": Vit(1024, 4096, 23, 16, 336, 14, projector=4096),
    "vit_b_224": Vit(768, 3072, 12, 12, 224, 16),
    "llava_1b": Vit(1024, 4096, 23, 16, 336, 14, projector=2048),
}
LLM = {
    "llama_1b": Llm(2048, 5632, 22, 32, 4, 32000, 64),  # TinyLlama-1.1B, arXiv:2401.02385
    "qwen2_0.5b": Llm(896, 4864, 24, 14, 2, 151936, 64, bias=True, tied=True, theta=1e6),
    "llama_7b": Llm(4096, 11008, 32, 32, 32, 32000, 128),
}
LLM["llava_1b"] = LLM["llama_1b"]

# LLaVA end to end: a picture, a question of so many tokens, an answer of so many.
QUESTION, ANSWER = 40, 64

# Numbers and bytes of a block.
FORMATS = {"f32": (1, 4), "f16": (1, 2), "bf16": (1, 2), "q4_0": (32, 18), "q5_0": (32, 22), "q8_0": (32, 34), "int8": (1, 1), "q4_k": (256, 144), "q6_k": (256, 210)}


def row_bytes(form, columns):
    numbers, size = FORMATS[form]
    return columns // numbers * size


def block_format(shape, kind, name, columns):
    """The format that llama.cpp's llama-quantize gives this matrix in a file of this kind."""
    if kind in ("f32", "f16", "bf16", "q8_0", "int8"):
        return kind
    form = {"q4_0": "q4_0", "q4_k_m": "q4_k"}[kind]
    layer = int(name.split(".")[1]) if name.startswith("blk.") else 0
    eighth = shape.layers // 8
    if name == "output" or (shape.tied and name == "token_embd"):
        form = "q6_k"
    elif kind == "q4_k_m" and name.endswith(("attn_v", "ffn_down")) and (layer < eighth or layer >= 7 * shape.layers // 8 or (layer - eighth) % 3 == 2):
        form = "q6_k"
    if columns % FORMATS[form][0]:  # rows that are no multiple of 256
        form = {"q4_k": "q5_0", "q6_k": "q8_0"}[form]
    return form


def prompt(length):
    """As bench/models/llama_bench.cpp has it."""
    return [1 + i * 7919 % 31000 for i in range(length)]
