"""The work of bench/models in ONNX Runtime: graphs of its own fused operators, as its optimiser and onnxruntime-genai's builder make them."""

import os
import shutil
import time

import numpy as np
import onnxruntime

import peer
import shapes

LENGTH = 1024  # of the buffer that holds the keys and values of past and present
BLOCK = 128  # weights under one scale in int4: a quarter faster than 32


class Graph:
    def __init__(self):
        import onnx

        self.onnx, self.nodes, self.tensors, self.inputs, self.outputs, self.made = onnx, [], [], [], [], 0
        self.normal = np.resize(np.random.default_rng(1).standard_normal(65537).astype(np.float32), 1 << 25)

    def constant(self, value, name=None):
        self.made += 1
        name = name or f"c{self.made}"
        self.tensors.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def random(self, *sizes, mean=0.0, scale=None):
        numbers = int(np.prod(sizes))
        scale = scale or (sizes[0] ** -0.5 if len(sizes) == 2 else 0.1)
        return self.constant((self.normal[: numbers].reshape(sizes) * np.float32(scale) + np.float32(mean)))

    def node(self, operator, *inputs, outputs=1, domain="", **attributes):
        self.made += 1
        names = [f"t{self.made}_{i}" for i in range(outputs)] if isinstance(outputs, int) else outputs
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, names, domain=domain, name=f"n{self.made}", **attributes))
        return names[0] if len(names) == 1 else names

    def fused(self, operator, *inputs, **more):
        return self.node(operator, *inputs, domain="com.microsoft", **more)

    def input(self, name, kind, *sizes):
        self.inputs.append(self.onnx.helper.make_tensor_value_info(name, getattr(self.onnx.TensorProto, kind), sizes))
        return name

    def output(self, name, kind, *sizes):
        self.outputs.append(self.onnx.helper.make_tensor_value_info(name, getattr(self.onnx.TensorProto, kind), sizes))

    def save(self, path):
        helper = self.onnx.helper
        graph = helper.make_graph(self.nodes, "model", self.inputs, self.outputs, self.tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)], ir_version=9)
        self.onnx.save(model, path, save_as_external_data=True, location="weights.bin")


def write_vit(shape, path):
    g, width = Graph(), shape.width
    pixels = g.input("pixels", "FLOAT", 1, 3, shape.image, shape.image)
    patches = g.node("Conv", pixels, g.constant(g.normal[: width * 3 * shape.patch**2].reshape(width, 3, shape.patch, shape.patch) * np.float32(0.04)),
                     strides=[shape.patch] * 2, kernel_shape=[shape.patch] * 2)
    patches = g.node("Transpose", g.node("Reshape", patches, g.constant(np.array([1, width, shape.patches]))), perm=[0, 2, 1])
    x = g.node("Add", g.node("Concat", g.constant(g.normal[:width].reshape(1, 1, width)), patches, axis=1), g.random(1, shape.patches + 1, width))

    def norm():
        return g.random(width, mean=1.0), g.random(width)

    def dense(x, inputs, outputs):
        return g.node("Add", g.node("MatMul", x, g.random(inputs, outputs)), g.random(outputs))

    x = g.node("LayerNormalization", x, *norm(), axis=-1, epsilon=1e-5)
    y = g.node("LayerNormalization", x, *norm(), axis=-1, epsilon=1e-5)
    for layer in range(shape.layers):
        q, k, v = g.node("Split", dense(y, width, 3 * width), outputs=3, axis=2, num_outputs=3)
        y = g.fused("MultiHeadAttention", q, k, v, num_heads=shape.heads)
        y, _, _, x = g.fused("SkipLayerNormalization", x, dense(y, width, width), *norm(), outputs=4, epsilon=1e-5)
        y = dense(g.fused("QuickGelu", dense(y, width, shape.ffn), alpha=1.702), shape.ffn, width)
        y, _, _, x = g.fused("SkipLayerNormalization", x, y, *norm(), outputs=4, epsilon=1e-5)
    if shape.projector:
        x = g.node("Slice", x, g.constant(np.array([1])), g.constant(np.array([shape.patches + 1])), g.constant(np.array([1])))
        x = dense(g.fused("Gelu", dense(x, width, shape.projector)), shape.projector, shape.projector)
    g.nodes[-1].output[0] = "image"
    g.output("image", "FLOAT", 1, None, None)
    g.save(path)


def write_llm(shape, path):
    g, past = Graph(), "length"
    random = np.random.default_rng(1).integers(0, 256, 1 << 26, dtype=np.uint8)
    q, kv = shape.heads * shape.head, shape.kv_heads * shape.head
    x = g.input("inputs_embeds", "FLOAT", 1, "tokens", shape.width)
    seqlens, total = g.input("seqlens_k", "INT32", 1), g.input("total_sequence_length", "INT32", 1)
    angles = np.outer(np.arange(2048), shape.theta ** (-np.arange(0, shape.head, 2) / shape.head)).astype(np.float32)
    cosine, sine = g.constant(np.cos(angles)), g.constant(np.sin(angles))
    ones = g.constant(np.ones(shape.width, np.float32))

    def dense(x, inputs, outputs):
        blocks = inputs // BLOCK
        size = outputs * blocks * (BLOCK // 2)
        weights = np.resize(random, size).reshape(outputs, blocks, BLOCK // 2)
        scales = np.full(outputs * blocks, 0.2 * inputs**-0.5, np.float32)
        return g.fused("MatMulNBits", x, g.constant(weights), g.constant(scales), K=inputs, N=outputs, bits=4, block_size=BLOCK, accuracy_level=4)

    y = g.node("SimplifiedLayerNormalization", x, ones, axis=-1, epsilon=1e-5, stash_type=1)
    for layer in range(shape.layers):
        keys, values = (g.input(f"past_{layer}_{name}", "FLOAT", 1, shape.kv_heads, past, shape.head) for name in "kv")
        packed = dense(y, shape.width, q + 2 * kv)
        presents = [f"present_{layer}_{name}" for name in "kv"]
        y = f"attention_{layer}"
        g.fused("GroupQueryAttention", packed, "", "", keys, values, seqlens, total, cosine, sine, outputs=[y, *presents], num_heads=shape.heads,
                kv_num_heads=shape.kv_heads, do_rotary=1, rotary_interleaved=0, scale=shape.head**-0.5)
        for name in presents:
            g.output(name, "FLOAT", 1, shape.kv_heads, past, shape.head)
        y, _, _, x = g.fused("SkipSimplifiedLayerNormalization", x, dense(y, q, shape.width), ones, outputs=4, epsilon=1e-5)
        gate = g.fused("QuickGelu", dense(y, shape.width, shape.ffn), alpha=1.0)  # SiLU
        y = dense(g.node("Mul", gate, dense(y, shape.width, shape.ffn)), shape.ffn, shape.width)
        y, _, _, x = g.fused("SkipSimplifiedLayerNormalization", x, y, ones, outputs=4, epsilon=1e-5)
    last = g.node("Gather", y, g.constant(np.array([-1])), axis=1)
    dense(last, shape.width, shape.vocabulary)
    g.nodes[-1].output[0] = "logits"
    g.output("logits", "FLOAT", 1, 1, shape.vocabulary)
    g.save(path)


def make(model, kind, folder):
    if model in shapes.VIT:
        shape = shapes.VIT[model]

        def floats():
            return peer.cached(folder, f"onnxruntime-{model}-f32", shape.bytes("f32"), lambda at: write_vit(shape, at / "model.onnx"))

        def quantised(at):
            from onnxruntime.quantization import QuantType, quantize_dynamic

            base = floats()
            quantize_dynamic(base / "model.onnx", at / "model.onnx", weight_type=QuantType.QInt8, per_channel=False, op_types_to_quantize=["MatMul"],
                             use_external_data_format=True, extra_options={"DefaultTensorType": 1})  # float
            shutil.rmtree(base)

        if kind == "f32":
            floats()
        else:
            peer.cached(folder, f"onnxruntime-{model}-int8", shape.bytes("int8"), quantised)
    if model in shapes.LLM:
        shape = shapes.LLM[model]
        peer.cached(folder, text_name(model), shape.bytes("q4_0"), lambda at: write_llm(shape, at / "model.onnx"))


def text_name(model):
    return f"onnxruntime-{'llama_1b' if model == 'llava_1b' else model}-int4"


class TextModel:
    def __init__(self, session, shape):
        self.session, self.shape = session, shape
        self.table = (np.random.default_rng(1).standard_normal((1024, shape.width)) * 0.02).astype(np.float32)
        self.caches = {}
        for layer in range(shape.layers):
            for name in "kv":
                cache = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((1, shape.kv_heads, LENGTH, shape.head), np.float32))
                self.caches[f"{layer}_{name}"] = cache

    def embed(self, ids):
        return self.table[np.asarray(ids) % 1024]

    def forward(self, embeds, held):
        binding = self.session.io_binding()
        total = held + len(embeds)
        binding.bind_cpu_input("inputs_embeds", np.ascontiguousarray(embeds[None]))
        binding.bind_cpu_input("seqlens_k", np.array([total - 1], np.int32))
        binding.bind_cpu_input("total_sequence_length", np.array([total], np.int32))
        for name, cache in self.caches.items():  # one buffer for past and present
            binding.bind_ortvalue_input("past_" + name, cache)
            binding.bind_ortvalue_output("present_" + name, cache)
        binding.bind_output("logits")
        self.session.run_with_iobinding(binding)
        return binding.get_outputs()[-1]

    def prefill(self, length):
        self.forward(self.embed(shapes.prompt(length)), 0)

    def decode(self, length):
        self.forward(self.embed([1]), length)


def load(model, kind, folder, threads, start=False):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    work = {}

    def session(name):
        return onnxruntime.InferenceSession(os.path.join(folder, name, "model.onnx"), options, providers=["CPUExecutionProvider"])

    encode = None
    if model in shapes.VIT:
        shape = shapes.VIT[model]
        see = session(f"onnxruntime-{model}-{'f32' if kind == 'f32' else 'int8'}")
        pixels = np.random.default_rng(1).standard_normal((1, 3, shape.image, shape.image), dtype=np.float32)
        encode = lambda: see.run(None, {"pixels": pixels})[0]
        work["encode"] = encode
    if model in shapes.LLM:
        text = TextModel(session(text_name(model)), shapes.LLM[model])
        work |= {"prefill_128": lambda: text.prefill(128), "prefill_512": lambda: text.prefill(512), "decode_128": lambda: text.decode(128)}
    if encode and model in shapes.LLM:
        question = text.embed(shapes.prompt(shapes.QUESTION))

        def first_token():
            text.forward(np.concatenate([question[:1], encode()[0], question[1:]]), 0)

        def answer():
            held = shape.patches + shapes.QUESTION
            begin = time.perf_counter()
            for i in range(shapes.ANSWER):
                text.forward(text.embed([1]), held + i)
            return time.perf_counter() - begin

        work |= {"first_token": first_token, "answer": answer}
    return work


if __name__ == "__main__":
    peer.run(make, load, lambda: {"onnxruntime": onnxruntime.__version__})
