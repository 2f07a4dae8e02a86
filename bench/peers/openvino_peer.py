"""The work of bench/models in OpenVINO: IR made from PyTorch modules, weights compressed or activations quantised by NNCF."""

import os
import time

import numpy as np
import openvino

import peer
import shapes

# Kind: precision of the arithmetic. The weights: f16 in the first two, compressed or quantised in the others. bf16 reads prompts and pictures fastest, f32 decodes
# fastest: the plugin's kernels for one row and compressed weights are those of f32.
PRECISION = {"f32": "f32", "bf16": "bf16", "int8": "bf16", "int4": "bf16", "int8-f32": "f32", "int4-f32": "f32"}


def names(model, kind):
    """Folders of the picture half and of the language model."""
    base = {"f32": "f16", "bf16": "f16"}.get(kind, kind.removesuffix("-f32"))
    sight = f"openvino-{model}-{'int8' if base == 'int4' else base}" if model in shapes.VIT else None
    text = f"openvino-{'llama_1b' if model == 'llava_1b' else model}-{base}" if model in shapes.LLM else None
    return sight, text


def make(model, kind, folder):
    sight, text = names(model, kind)
    if sight:
        make_vit(shapes.VIT[model], sight, folder)
    if text:
        make_llm(shapes.LLM[model], text, folder)


def make_vit(shape, name, folder):
    def float_model(at):
        import torch
        import torch_models

        module = torch_models.fill(torch_models.Vit(shape))
        model = openvino.convert_model(module, example_input=torch.zeros(1, 3, shape.image, shape.image), input=[(1, 3, shape.image, shape.image)])
        openvino.save_model(model, at / "model.xml", compress_to_fp16=True)

    def quantised(at):
        import nncf

        random = np.random.default_rng(1)
        pictures = nncf.Dataset([random.standard_normal((1, 3, shape.image, shape.image), dtype=np.float32) for _ in range(2)])
        model = openvino.Core().read_model(base / "model.xml")
        model = nncf.quantize(model, pictures, model_type=nncf.ModelType.TRANSFORMER, preset=nncf.QuantizationPreset.MIXED, subset_size=2)
        openvino.save_model(model, at / "model.xml")

    stem = name.rsplit("-", 1)[0]
    base = peer.cached(folder, stem + "-f16", shape.bytes("f16"), float_model)
    if name.endswith("int8"):
        peer.cached(folder, name, shape.bytes("int8"), quantised)


def make_llm(shape, name, folder):
    def float_model(at):
        import torch
        import torch_models
        from openvino.frontend.pytorch.patch_model import __make_16bit_traceable as make_16bit_traceable

        torch.set_default_dtype(torch.float16)
        module = torch_models.fill(torch_models.Llama(shape))
        torch.set_default_dtype(torch.float32)
        module.frequencies = module.frequencies.float()
        make_16bit_traceable(module)
        past = [torch.zeros(1, shape.kv_heads, 2, shape.head) for _ in range(2 * shape.layers)]
        model = openvino.convert_model(module, example_input=(torch.zeros(1, 3, shape.width), torch.tensor([[2, 3, 4]]), *past))
        stateful(model, shape)
        openvino.save_model(model, at / "model.xml", compress_to_fp16=True)

    def compressed(at):
        import nncf

        model = openvino.Core().read_model(base / "model.xml")
        if name.endswith("int8"):
            model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
        else:
            model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT4_SYM, group_size=128, ratio=1.0)
        openvino.save_model(model, at / "model.xml")

    stem = name.rsplit("-", 1)[0]
    base = peer.cached(folder, stem + "-f16", shape.bytes("f16"), float_model)
    if not name.endswith("f16"):
        peer.cached(folder, name, shape.bytes("int8" if name.endswith("int8") else "q4_0"), compressed)


def stateful(model, shape):
    """The cache inside the model, reordered by beam_idx: the form that optimum-intel gives and the CPU plugin fuses with attention."""
    from openvino import opset13
    from openvino._offline_transformations import apply_make_stateful_transformation

    past = [f"past_{i}" for i in range(2 * shape.layers)]
    present = [f"present_{i}" for i in range(2 * shape.layers)]
    for port, name in zip(model.inputs, ["inputs_embeds", "position_ids", *past]):
        port.get_tensor().set_names({name})
    for port, name in zip(model.outputs, ["logits", *present]):
        port.get_tensor().set_names({name})
    parts = {"inputs_embeds": [-1, -1, shape.width], "position_ids": [-1, -1], **{name: [-1, shape.kv_heads, -1, shape.head] for name in past}}
    for port in model.inputs:
        port.get_node().set_partial_shape(openvino.PartialShape(parts[port.any_name]))
    model.validate_nodes_and_infer_types()

    beams = opset13.parameter(name="beam_idx", dtype=openvino.Type.i32, shape=openvino.PartialShape([-1]))
    beams.output(0).get_tensor().add_names({"beam_idx"})
    model.add_parameters([beams])
    for name in past:
        port = model.input(name)
        users = port.get_target_inputs()
        reordered = opset13.gather(port, beams, opset13.constant(0))
        for user in users:
            user.replace_source_output(reordered.output(0))
    model.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(model, dict(zip(past, present)))
    batch = opset13.gather(opset13.shape_of(model.input("inputs_embeds"), output_type="i64"), opset13.constant([0]), opset13.constant(0))
    for op in model.get_ops():
        if op.get_type_name() == "ReadValue":
            sizes = [dimension.get_min_length() for dimension in op.get_output_partial_shape(0)]
            sizes = [batch] + [opset13.constant(np.array([size], dtype=np.int64)) for size in sizes[1:]]
            empty = opset13.broadcast(opset13.constant(0.0, dtype=op.get_output_element_type(0)), opset13.concat(sizes, axis=0))
            op.set_arguments([empty])
    model.validate_nodes_and_infer_types()


class TextModel:
    def __init__(self, request, shape):
        self.request, self.shape, self.held = request, shape, 0
        self.table = (np.random.default_rng(1).standard_normal((1024, shape.width)) * 0.02).astype(np.float16)
        self.beams = np.zeros(1, np.int32)

    def embed(self, ids):
        return self.table[np.asarray(ids) % 1024].astype(np.float32)

    def forward(self, embeds):
        positions = np.arange(self.held, self.held + len(embeds), dtype=np.int64)[None]
        self.request.infer({"inputs_embeds": embeds[None], "position_ids": positions, "beam_idx": self.beams}, share_inputs=True, share_outputs=True)
        self.held += len(embeds)
        return self.request.get_output_tensor(0).data

    def forget(self):
        self.request.reset_state()
        self.held = 0

    def prefill(self, length):
        self.forget()
        self.forward(self.embed(shapes.prompt(length)))

    def decode(self, length):
        """The state does not shrink by one: so the next token after `length` and a few more."""
        if not length <= self.held < length + 64:
            self.prefill(length)
            self.forward(self.embed([1]))
        begin = time.perf_counter()
        self.forward(self.embed([1]))
        return time.perf_counter() - begin


def load(model, kind, folder, threads, start=False):
    core = openvino.Core()
    options = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": PRECISION[kind]}
    sight_name, text_name = names(model, kind)

    def request(name):
        compiled = core.compile_model(os.path.join(folder, name, "model.xml"), "CPU", options)
        if os.environ.get("PEER_VERBOSE"):
            print({(op.get_rt_info()["layerType"].astype(str), op.get_rt_info()["runtimePrecision"].astype(str)) for op in compiled.get_runtime_model().get_ops()})
        return compiled.create_infer_request()

    work = {}
    if sight_name:
        shape, see = shapes.VIT[model], request(sight_name)
        pixels = np.random.default_rng(1).standard_normal((1, 3, shape.image, shape.image), dtype=np.float32)

        def encode():
            see.infer([pixels], share_inputs=True, share_outputs=True)
            return see.get_output_tensor(0).data

        work["encode"] = encode
    if text_name:
        text = TextModel(request(text_name), shapes.LLM[model])
        work |= {"prefill_128": lambda: text.prefill(128), "prefill_512": lambda: text.prefill(512), "decode_128": lambda: text.decode(128)}
    if sight_name and text_name:
        question = text.embed(shapes.prompt(shapes.QUESTION))

        def first_token():
            text.forget()
            text.forward(np.concatenate([question[:1], encode()[0], question[1:]]))

        def answer():
            first_token()
            begin = time.perf_counter()
            for _ in range(shapes.ANSWER):
                text.forward(text.embed([1]))
            return time.perf_counter() - begin

        work |= {"first_token": first_token, "answer": answer}
    return work


def versions():
    import nncf

    return {"openvino": openvino.__version__.split("-")[0], "nncf": nncf.__version__}


if __name__ == "__main__":
    peer.run(make, load, versions)
