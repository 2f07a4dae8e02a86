"""The work of bench/models in llama.cpp, by llama-cpp-python's bindings of its C interface. README.md says how it is built."""

import ctypes
import os
import time

import llama_cpp
from llama_cpp import mtmd_cpp

import peer
import shapes


def files(model, kind, folder):
    """The picture half, if there is one, and the text model, each in a folder of its own."""
    sight = os.path.join(folder, f"llama.cpp-{model}-f16") if model in shapes.VIT else None
    text = os.path.join(folder, f"llama.cpp-{'llama_1b' if model == 'llava_1b' else model}-{kind}")
    return sight and os.path.join(sight, "mmproj.gguf"), os.path.join(text, "text.gguf")


def make(model, kind, folder):
    import gguf_files

    sight, text = files(model, kind, folder)

    def pictures(at):
        gguf_files.write_mmproj(shapes.VIT[model], "f16", at / "mmproj.gguf")
        if model not in shapes.LLM:  # a text model as wide as what the picture becomes; it never runs
            width = shapes.VIT[model].projector or shapes.VIT[model].width
            gguf_files.write_llm(shapes.Llm(width, 256, 1, width // 64, width // 64, 1000, 64), "f16", at / "text.gguf")

    if sight:
        peer.cached(folder, os.path.basename(os.path.dirname(sight)), shapes.VIT[model].bytes("f16"), pictures)
    if model in shapes.LLM:
        shape = shapes.LLM[model]
        peer.cached(folder, os.path.basename(os.path.dirname(text)), shape.bytes(kind), lambda at: gguf_files.write_llm(shape, kind, at / "text.gguf"))


class TextModel:
    def __init__(self, path, threads, length):
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = length
        options.n_batch = min(length, options.n_batch)
        options.n_threads = options.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        self.memory = llama_cpp.llama_get_memory(self.context)

    def forward(self, ids, first):
        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, first + i, 1, 0, i + 1 == len(ids)
        if llama_cpp.llama_decode(self.context, batch):
            raise SystemExit("llama_decode failed")
        llama_cpp.llama_batch_free(batch)
        return llama_cpp.llama_get_logits_ith(self.context, -1)

    def forget(self, first):
        llama_cpp.llama_memory_seq_rm(self.memory, 0, first, -1)

    def prefill(self, length):
        self.forget(0)
        self.forward(shapes.prompt(length), 0)

    def decode(self, length):
        held = llama_cpp.llama_memory_seq_pos_max(self.memory, 0) + 1
        if held not in (length, length + 1):
            self.prefill(length)
        self.forget(length)
        self.forward([1], length)


class Sight:
    """mtmd: the picture half, and pictures between text."""

    def __init__(self, path, text, threads, question):
        options = mtmd_cpp.mtmd_context_params_default()
        options.use_gpu, options.n_threads, options.print_timings = False, threads, False
        self.text, self.context = text, mtmd_cpp.mtmd_init_from_file(str(path).encode(), text.model, options)
        self.question = question

    def tokenize(self, size):
        pixels = bytes(i * 7919 % 1009 % 256 for i in range(3 * size)) * size
        bitmap = mtmd_cpp.mtmd_bitmap_init(size, size, (ctypes.c_uint8 * len(pixels)).from_buffer_copy(pixels))
        words = mtmd_cpp.mtmd_default_marker() + b" a" * (self.question - 1)  # and the token at the beginning
        text = mtmd_cpp.mtmd_input_text(words, len(words), True, True)
        chunks = mtmd_cpp.mtmd_input_chunks_init()
        if mtmd_cpp.mtmd_tokenize(self.context, chunks, ctypes.byref(text), (mtmd_cpp.mtmd_bitmap_p_ctypes * 1)(bitmap), 1):
            raise SystemExit("mtmd_tokenize failed")
        mtmd_cpp.mtmd_bitmap_free(bitmap)
        return chunks

    def encode(self, chunks):
        for i in range(mtmd_cpp.mtmd_input_chunks_size(chunks)):
            chunk = mtmd_cpp.mtmd_input_chunks_get(chunks, i)
            if mtmd_cpp.mtmd_input_chunk_get_type(chunk) == mtmd_cpp.MTMD_INPUT_CHUNK_TYPE_IMAGE and mtmd_cpp.mtmd_encode_chunk(self.context, chunk):
                raise SystemExit("mtmd_encode_chunk failed")

    def first_token(self, size):
        """From a picture and a question to the first token; how many tokens are in the cache then."""
        self.text.forget(0)
        chunks, held = self.tokenize(size), llama_cpp.llama_pos()
        if mtmd_cpp.mtmd_helper_eval_chunks(self.context, self.text.context, chunks, 0, 0, 2048, True, ctypes.byref(held)):
            raise SystemExit("mtmd_helper_eval_chunks failed")
        mtmd_cpp.mtmd_input_chunks_free(chunks)
        llama_cpp.llama_get_logits_ith(self.text.context, -1)
        return held.value


def load(model, kind, folder, threads, start=False):
    sight_file, text_file = files(model, kind, folder)
    before, begin = peer.memory("VmRSS"), time.perf_counter()
    llama_cpp.llama_backend_init()
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p())
    mtmd_cpp._libmtmd.mtmd_log_set(quiet, ctypes.c_void_p())
    mtmd_cpp._libmtmd.mtmd_helper_log_set(quiet, ctypes.c_void_p())
    text = TextModel(text_file, threads, 1024)
    if start:
        text.forward(shapes.prompt(16), 0)
        size = os.path.getsize(text_file)
        return {"seconds": time.perf_counter() - begin, "memory": peer.memory("VmHWM") - before, "file": size}
    work = {}
    if model in shapes.VIT:
        shape = shapes.VIT[model]
        sight = Sight(sight_file, text, threads, shapes.QUESTION)
        chunks = sight.tokenize(shape.image)
        work["encode"] = lambda: sight.encode(chunks)

        def answer():
            held = sight.first_token(shape.image)
            begin = time.perf_counter()
            for i in range(shapes.ANSWER):
                text.forward([1], held + i)
            return time.perf_counter() - begin

        work["first_token"] = lambda: sight.first_token(shape.image)
        work["answer"] = answer
    else:
        work = {"prefill_128": lambda: text.prefill(128), "prefill_512": lambda: text.prefill(512), "decode_128": lambda: text.decode(128)}
    return work


@llama_cpp.llama_log_callback
def quiet(level, text, _):
    if level >= 4 or os.environ.get("PEER_VERBOSE"):
        os.write(2, text)


if __name__ == "__main__":
    peer.run(make, load, lambda: {"llama-cpp-python": llama_cpp.__version__, "llama.cpp": llama_cpp.llama_print_system_info().decode()})
