"""GGUF files with random weights: the text models in the formats that llama-quantize would choose, and LLaVA's picture half."""

import gguf
import numpy as np

import shapes

TYPES = {"f32": gguf.GGMLQuantizationType.F32, "f16": gguf.GGMLQuantizationType.F16, "bf16": gguf.GGMLQuantizationType.BF16,
         "q4_0": gguf.GGMLQuantizationType.Q4_0, "q5_0": gguf.GGMLQuantizationType.Q5_0, "q8_0": gguf.GGMLQuantizationType.Q8_0,
         "q4_k": gguf.GGMLQuantizationType.Q4_K, "q6_k": gguf.GGMLQuantizationType.Q6_K}
FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "q4_k_m": 15, "bf16": 32}


class RandomRows:
    """Views of one random buffer per format, so that a model of gigabytes costs no memory. A tensor begins at a place of its own."""

    def __init__(self, numbers):
        self.numbers, self.random, self.buffers, self.at = numbers, np.random.default_rng(1), {}, 0

    def buffer(self, form):
        if form in self.buffers:
            return self.buffers[form]
        size, width = shapes.FORMATS[form]
        blocks = self.numbers // size + 4096
        if form in ("f32", "f16", "bf16"):
            period = (self.random.standard_normal(1 << 20) * 0.02).astype(np.float32)
            if form == "f16":
                period = period.astype(np.float16)
            if form == "bf16":
                period = (period.view(np.uint32) >> 16).astype(np.uint16)
            data = np.resize(period, blocks).view(np.uint8).reshape(blocks, width)
        else:
            data = np.frombuffer(self.random.bytes(1 << 26), np.uint8)[: (1 << 26) // width * width].reshape(-1, width).copy()

            def put(at, value):
                data[:, at : at + 2] = np.frombuffer(np.float16(value).tobytes(), np.uint8)

            # Scales that make weights of about 0.02; a minimum that puts their mean near 0.
            if form in ("q4_0", "q5_0", "q8_0"):
                put(0, {"q4_0": 0.004, "q5_0": 0.002, "q8_0": 0.0003}[form])
            if form == "q4_k":
                put(0, 0.0001)
                put(2, 0.00075)
            if form == "q6_k":
                data[:, 192:208] = (data[:, 192:208] & 15) + 1
                put(208, 0.00013)
            data = np.resize(data, (blocks, width))
        self.buffers[form] = data
        return data

    def take(self, form, outputs, inputs):
        data, (size, width) = self.buffer(form), shapes.FORMATS[form]
        blocks = outputs * inputs // size
        self.at = (self.at + 977) % 4096
        part = data[self.at : self.at + blocks]
        if form in ("f32", "f16"):
            return part.reshape(-1).view(np.float32 if form == "f32" else np.float16).reshape(outputs, inputs)
        return part.reshape(outputs, inputs // size * width)


def write_llm(shape, kind, path):
    arch = "qwen2" if shape.bias else "llama"
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(2048)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.head)
    writer.add_rope_freq_base(shape.theta)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_file_type(FILE_TYPES[kind])
    # A vocabulary of SentencePiece's kind: three special tokens, the bytes, words.
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + ["\u2581", "\u2581a"]
    tokens += [f"\u2581w{i}" for i in range(shape.vocabulary - len(tokens))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 259 + [-float(i) for i in range(shape.vocabulary - 259)])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * (shape.vocabulary - 259))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)

    rows = RandomRows(max(outputs * inputs for _, outputs, inputs in shape.matrices()))
    ones = np.ones(shape.width, np.float32)

    def matrix(name, outputs, inputs):
        form = shapes.block_format(shape, kind, name, inputs)
        raw = None if form in ("f32", "f16") else TYPES[form]
        writer.add_tensor(name + ".weight", rows.take(form, outputs, inputs), raw_dtype=raw)

    matrix("token_embd", shape.vocabulary, shape.width)
    writer.add_tensor("output_norm.weight", ones)
    for name, outputs, inputs in shape.matrices():
        if name == "output" and shape.tied:
            continue
        matrix(name, outputs, inputs)
        if name.endswith("attn_q"):
            layer = name.rsplit(".", 1)[0]
            writer.add_tensor(layer + ".attn_norm.weight", ones)
            writer.add_tensor(layer + ".ffn_norm.weight", ones)
        if shape.bias and name.endswith(("attn_q", "attn_k", "attn_v")):
            writer.add_tensor(name + ".bias", rows.take("f32", 1, outputs).reshape(-1))
    finish(writer)


def write_mmproj(shape, kind, path):
    """LLaVA-1.5's layout. llama.cpp leaves the last of the blocks that the file counts out: so one more than run."""
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_bool("clip.has_text_encoder", False)
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_bool("clip.has_llava_projector", True)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_bool("clip.use_gelu", False)
    width, projector = shape.width, shape.projector or shape.width
    for key, value in (("image_size", shape.image), ("patch_size", shape.patch), ("embedding_length", width), ("feed_forward_length", shape.ffn),
                       ("projection_dim", projector), ("attention.head_count", shape.heads), ("block_count", shape.layers + 1)):
        writer.add_uint32("clip.vision." + key, value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", [0.48145466, 0.4578275, 0.40821073])
    writer.add_array("clip.vision.image_std", [0.26862954, 0.26130258, 0.27577711])
    rows = RandomRows(max(width * shape.ffn, projector * projector, width * 3 * shape.patch**2))

    def matrix(name, outputs, inputs):
        writer.add_tensor(name + ".weight", rows.take(kind, outputs, inputs), raw_dtype=None if kind in ("f32", "f16") else TYPES[kind])
        vector(name + ".bias", outputs)

    def vector(name, size, mean=0.0):
        writer.add_tensor(name, rows.take("f32", 1, size).reshape(-1) + np.float32(mean))

    def norm(name):
        vector(name + ".weight", width, 1.0)
        vector(name + ".bias", width)

    vector("v.class_embd", width)
    patch = rows.take("f32", width, 3 * shape.patch**2).astype(np.float16)
    writer.add_tensor("v.patch_embd.weight", patch.reshape(width, 3, shape.patch, shape.patch))
    writer.add_tensor("v.position_embd.weight", rows.take("f32", shape.patches + 1, width))
    norm("v.pre_ln")
    for layer in range(shape.layers + 1):
        block = f"v.blk.{layer}."
        norm(block + "ln1")
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            matrix(block + name, width, width)
        norm(block + "ln2")
        matrix(block + "ffn_up", shape.ffn, width)
        matrix(block + "ffn_down", width, shape.ffn)
    matrix("mm.0", projector, width)
    matrix("mm.2", projector, projector)
    finish(writer)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
