"""What all families share: pictures, weights, tokenizer files, recorded generations, and the two files that hold the expectations."""

import copy
import json
import math
import os
import re
import shutil
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
import torch
import transformers
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from torch import nn
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerFast

HERE = Path(__file__).parent
COMMITTED = HERE.parent / "cases"
MAJOR = int(transformers.__version__.split(".")[0])
STORED = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token", "mask_token")
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]

torch.set_grad_enabled(False)
transformers.utils.logging.disable_progress_bar()


def write_json(path, value):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(value, indent=1, ensure_ascii=False))


# ---------------------------------------------------------------- pictures


def draw(seed, width, height, mode="RGB"):
    """Waves, shapes, letters and a patch of noise."""
    r = np.random.RandomState(seed)
    yy, xx = np.mgrid[0:height, 0:width].astype(np.float64)
    pixels = np.zeros((height, width, 3))
    for c in range(3):
        p = r.rand(5)
        wave = np.sin(2 * np.pi * (p[0] * 1.5 * xx / width + p[1] * 1.5 * yy / height + p[2]))
        pixels[..., c] = 127 + 90 * wave + 60 * (p[3] - 0.5) * xx / width
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for i in range(6):
        colour = tuple(int(v) for v in r.randint(0, 256, 3))
        x0, y0 = r.randint(0, max(width - 8, 1)), r.randint(0, max(height - 8, 1))
        x1, y1 = x0 + r.randint(5, max(6, width // 2)), y0 + r.randint(5, max(6, height // 2))
        shape = [pen.ellipse, pen.rectangle, pen.line][i % 3]
        shape([int(x0), int(y0), int(x1), int(y1)], fill=colour, **({"width": 3} if i % 3 == 2 else {}))
    pen.text((width // 8, height // 3), f"golden {seed}", fill=(255, 255, 255))
    pen.text((width // 3, 2 * height // 3), "A7?", fill=(0, 0, 0))
    pixels = np.array(image)
    n = min(width, height) // 4
    if n:
        pixels[height - n :, width - n :] = r.randint(0, 256, (n, n, 3))
    image = Image.fromarray(pixels)
    if mode == "L":
        return image.convert("L")
    if mode == "RGBA":
        alpha = np.clip(255 * (xx / width + 0.3 * np.sin(yy / 7)), 0, 255).astype(np.uint8)
        return Image.fromarray(np.dstack([pixels, alpha]), "RGBA")
    return image.quantize(32) if mode == "P" else image


def write_images(folder, specs):
    """`specs`: (file, seed, width, height, mode). A JPEG gets x.decoded.png beside it: what Pillow decodes."""
    for file, seed, width, height, mode in specs:
        image, path = draw(seed, width, height, mode), folder / file
        if path.suffix == ".jpg":
            image.save(path, quality=90, subsampling=seed % 3)
            Image.open(path).save(path.with_suffix(".decoded.png"), optimize=True)
        else:
            image.save(path, optimize=True)


# ---------------------------------------------------------------- weights


def init_weights(model, seed, emb=0.6, gain=1.3, rules=()):
    """Weights that keep activations near 1, drawn in the order of the sorted names. `rules`: (regex, function(parameter, normal values))
    for the parameters that want something else."""
    generator = torch.Generator().manual_seed(seed)
    modules = dict(model.named_modules())
    norm_name = re.compile(r"(norm|ln_|layernorm|layer_norm|\.ln|norm_)", re.I)
    for name, parameter in sorted(model.named_parameters(remove_duplicate=True)):
        x = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
        parent, _, leaf = name.rpartition(".")
        module = modules.get(parent)
        kind = type(module).__name__
        rule = next((make for pattern, make in rules if re.search(pattern, name)), None)
        if rule:
            value = rule(parameter, x)
        elif "norm" in kind.lower() or (parameter.ndim == 1 and norm_name.search(parent) and leaf in ("weight", "bias")):
            value = 1 + 0.15 * x if leaf == "weight" else 0.1 * x
        elif isinstance(module, nn.Embedding) or kind.endswith("Embedding") and leaf == "weight":
            value = (0.4 if "pos" in name.lower() else emb) * x
        elif leaf == "bias" or leaf.endswith("_bias"):
            value = 0.15 * x
        elif "lm_head" in name or "embed_out" in name:
            value = 3.0 / math.sqrt(parameter.shape[-1]) * x
        elif isinstance(module, (nn.Linear, nn.Conv2d)) or leaf in ("in_proj_weight", "weight"):
            value = gain / math.sqrt(max(1, parameter[0].numel())) * x
        else:
            value = 0.6 * x
        parameter.data.copy_(value)


def constant(value):
    """A rule of init_weights: the whole parameter is `value`."""
    return lambda parameter, x: torch.full(parameter.shape, value)


def scaled(value):
    """A rule of init_weights: normal values of this deviation."""
    return lambda parameter, x: value * x


def gained(gain):
    """A rule of init_weights for matrices: such values that what they multiply grows by `gain`."""
    return lambda parameter, x: gain / math.sqrt(parameter.shape[1]) * x


def round_weights(model, store):
    """Rounds in place, so that a search for a seed sees what will be stored."""
    for parameter in model.parameters():
        parameter.data.copy_(parameter.data.to(STORED[store]).float())


def save_model(model, folder, store):
    model.to(STORED[store]).save_pretrained(folder)
    model.float()


# ---------------------------------------------------------------- tokenizers


def load_tokenizer(folder):
    """The tokenizer as tokenizer.json says it; AutoTokenizer of transformers 5 rebuilds some classes from their vocabulary."""
    config = json.loads((folder / "tokenizer_config.json").read_text())
    special = {k: config[k] for k in SPECIAL if config.get(k)}
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), clean_up_tokenization_spaces=False, **special)


def write_tokenizer(name, folder, **changes):
    """tok/<name> in the files of a released checkpoint."""
    shutil.copy(HERE / "tok" / name / "tokenizer.json", folder)
    config = json.loads((HERE / "tok" / name / "tokenizer_config.json").read_text()) | changes
    fields = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    config["added_tokens_decoder"] = {str(a["id"]): {k: a[k] for k in fields} for a in added}
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", {k: config[k] for k in SPECIAL if config.get(k)})


def write_t5_tokenizer(folder, whole=False):
    """The T5 of the tokenizers' own tests; its table of characters to replace, 320 kB, only if `whole`: no prompt here has one of them."""
    content = json.loads((HERE.parent / "tokenizer/t5/tokenizer.json").read_text())
    if not whole:
        content["normalizer"] = None
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n")
    special = dict(eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
    write_json(folder / "tokenizer_config.json", special | dict(tokenizer_class="T5Tokenizer", model_max_length=512, extra_ids=10))
    write_json(folder / "special_tokens_map.json", special)


# ---------------------------------------------------------------- generation


def generate(model, inputs, eos_token_id, **arguments):
    """`eos_token_id=None` never stops: generate() would take None for "as generation_config says", so it is set there."""
    model = copy.deepcopy(model)  # dynamic rope remembers the longest sequence of earlier calls
    for part in (model, getattr(model, "language_model", None)):  # BLIP-2 goes by its language model's
        config = getattr(part, "generation_config", None)
        if config is None:
            continue
        config.eos_token_id = eos_token_id
        if config.pad_token_id is None:
            config.pad_token_id = 0
    return model.generate(**inputs, do_sample=False, return_dict_in_generate=True, output_logits=True, output_scores=True, **arguments)


def new_tokens(output, inputs):
    ids, prompt = output.sequences[0].tolist(), inputs["input_ids"][0].tolist()
    return ids[len(prompt) :] if ids[: len(prompt)] == prompt else ids[1:]  # an encoder-decoder's begin with its start token


def margin(output):
    """The smallest distance between the best and the second-best score of a step."""
    scores = torch.nan_to_num(torch.stack(output.scores)[:, 0].float(), neginf=-1e9)  # of forbidden tokens
    best = torch.topk(scores, 2, dim=-1).values
    return float((best[..., 0] - best[..., 1]).min())


def is_telling(model, inputs, steps):
    """Whether greedy decoding is clear at every step, varied, and depends on the picture."""
    output = generate(model, inputs, None, max_new_tokens=steps)
    ids = new_tokens(output, inputs)
    if margin(output) <= 1.2e-2 or len(set(ids)) / len(ids) < 0.55:
        return False
    if "pixel_values" not in inputs:
        return True
    mirrored = dict(inputs, pixel_values=torch.flip(inputs["pixel_values"], [-1]))
    other = generate(model, mirrored, None, max_new_tokens=1)
    return float((other.logits[0] - output.logits[0]).abs().max()) >= 0.05


def search_seed(build, inputs, seeds, steps):
    """The model of the first seed whose answers to all inputs tell right from wrong."""
    for seed in seeds:
        model = build(seed)
        if all(is_telling(model, x, steps) for x in inputs):
            return model
    raise SystemExit("no seed gives a telling model")


class Noise(LogitsProcessor):
    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, input_ids, scores):
        return scores + 1e-3 * torch.randn(scores.shape, generator=self.generator)


class NotRobust(Exception):
    """Rounding could change the result of this run."""


class Expected:
    """The tensors and runs of a case."""

    def __init__(self):
        self.tensors, self.docs, self.runs = {}, {}, []

    def add(self, name, tensor, doc=None):
        tensor = tensor.detach().clone().contiguous()
        self.tensors[name] = tensor.float() if tensor.is_floating_point() else tensor.to(torch.int64)
        if doc:
            self.docs[name] = doc

    def add_inputs(self, prefix, inputs):
        for name, tensor in inputs.items():
            self.add(f"{prefix}.{name}", tensor, "model input")

    def run(self, model, tokenizer, inputs, prefix, name, arguments, varied=True):
        """Records one generation. Throws NotRobust."""
        output = generate(model, inputs, **arguments)
        ids = new_tokens(output, inputs)
        record = {"name": name, "input": prefix, "generate": dict(arguments), "output_ids": ids}
        record["text"] = tokenizer.decode(ids, skip_special_tokens=True)
        record["text_with_special"] = tokenizer.decode(ids, skip_special_tokens=False)
        if "num_beams" in arguments:
            record["sequence_score"] = float(output.sequences_scores[0])
            for seed in range(3):
                noisy = generate(model, inputs, logits_processor=LogitsProcessorList([Noise(seed)]), **arguments)
                if new_tokens(noisy, inputs) != ids:
                    raise NotRobust
        else:
            record["min_margin"] = margin(output)
            if record["min_margin"] <= 1e-2 or varied and len(set(ids)) < 0.5 * len(ids):
                raise NotRobust
            if name == "greedy":
                self.add(f"{prefix}.greedy.step_logits", torch.stack(output.logits)[:, 0], "raw logits of each generated step [steps, vocab]")
        return record

    def first_robust(self, model, tokenizer, inputs, prefix, name, options, varied=True):
        """Records the first of `options` (arguments of generate) that is robust. Returns its record or None."""
        for arguments in options:
            try:
                self.runs.append(self.run(model, tokenizer, inputs, prefix, name, arguments, varied))
                return self.runs[-1]
            except NotRobust:
                pass
        return None

    def add_runs(self, model, tokenizer, items, steps):
        """Greedy search on every item; penalties, stops and beams on the first."""
        for item in items:
            self.runs.append(self.run(model, tokenizer, item["inputs"], item["name"], "greedy", {"max_new_tokens": steps, "eos_token_id": None}))
        first = (model, tokenizer, items[0]["inputs"], items[0]["name"])
        ids = self.runs[0]["output_ids"]
        never = {"max_new_tokens": steps, "eos_token_id": None}
        self.first_robust(*first, "repetition_penalty", [never | {"repetition_penalty": p} for p in (1.3, 1.25, 1.4, 1.5, 1.15)])
        self.first_robust(*first, "no_repeat_ngram", [never | {"no_repeat_ngram_size": 2}])
        stop = next((ids[i] for i in range(4, len(ids)) if ids[i] not in ids[:i]), None)
        if stop is not None:
            eos = [1, stop] if stop != 1 else [stop]
            self.first_robust(*first, "eos_stop", [{"max_new_tokens": steps, "eos_token_id": eos}], varied=False)
            least = {"max_new_tokens": steps, "min_new_tokens": steps - 3, "eos_token_id": [stop]}
            self.first_robust(*first, "min_new_tokens", [least], varied=False)
        widths = [(8, 3), (6, 3), (10, 3), (12, 2)]
        beam = self.first_robust(*first, "beam", [{"max_new_tokens": n, "num_beams": b, "eos_token_id": None} for n, b in widths])
        if beam is not None:
            found = sorted(set(beam["output_ids"][3:] + ids[3:]) - set(beam["output_ids"][:3]), key=(beam["output_ids"] + ids).index)
            self.add_beam_with_eos(first, found)

    def add_beam_with_eos(self, first, candidates):
        """Beam search that stops in the middle; where no candidate brings that about, the first robust one."""
        fallback = None
        for token in candidates:
            arguments = {"max_new_tokens": 9, "num_beams": 3, "eos_token_id": [token], "length_penalty": 0.6, "early_stopping": False}
            try:
                record = self.run(*first, "beam_eos", arguments, varied=False)
            except NotRobust:
                continue
            fallback = fallback or record
            if 3 < len(record["output_ids"]) < 9:
                fallback = record
                break
        if fallback:
            self.runs.append(fallback)

    def write(self, case, folder, description, covers, inputs, extra):
        save_file(self.tensors, folder / "expected.safetensors")
        tensors = {}
        for name, tensor in sorted(self.tensors.items()):
            tensors[name] = {"shape": list(tensor.shape), "dtype": str(tensor.dtype).replace("torch.", "")}
            if name in self.docs:
                tensors[name]["doc"] = self.docs[name]
        reference = {"transformers": transformers.__version__, "torch": torch.__version__, "attn_implementation": "eager", "dtype": "float32", "image_backend": "pil"}
        content = {"format": 1, "name": case["name"], "family": case["family"], "description": description, "covers": covers, "model": "model"}
        content |= {"inputs": inputs, "runs": self.runs, "tolerances": {"rel_to_max": 1e-4, "pixel_values_abs": 1e-5}}
        content |= {"made_with": {"transformers": case["files"]}, "reference": reference, "tensors": tensors, "stored_dtype": case["store"]}
        write_json(folder / "case.json", content | extra)


def add_language_model(expected, model, tokenizer, items, steps, modules, features=None):
    """The forward pass of every item with the outputs of `modules` ({tensor name: module path}), then the runs.
    `features(output)`: picture features of a forward pass, or None."""
    for item in items:
        name, inputs = item["name"], item["inputs"]
        expected.add_inputs(name, inputs)
        seen, hooks = {}, []
        for tensor_name, path in modules.items():
            def keep(module, arguments, output, key=tensor_name):
                seen.setdefault(key, output[0] if isinstance(output, tuple) else output)
            hooks.append(model.get_submodule(path).register_forward_hook(keep))
        output = model(**inputs, output_hidden_states=True, return_dict=True)
        for hook in hooks:
            hook.remove()
        for tensor_name, tensor in seen.items():
            expected.add(f"{name}.{tensor_name}", tensor, f"module output: {modules[tensor_name]} (5.23 module path)")
        if features is not None and features(output) is not None:
            expected.add(f"{name}.image_features", features(output), "features scattered into the <image> positions, in order")
        if item is items[0]:
            add_hidden_states(expected, name, output.hidden_states)
        add_logits(expected, name, output.logits)
    expected.add_runs(model, tokenizer, items, steps)


def add_hidden_states(expected, name, states, limit=700_000):
    """All hidden states, or where they take more than `limit` bytes only the last positions."""
    total = sum(x.numel() * 4 for x in states)
    for i, x in enumerate(states):
        if total <= limit:
            expected.add(f"{name}.lm.hidden.{i}", x, "HF hidden_states[i]: 0 = embeddings, last = after final norm")
        else:
            last = max(8, int(x.shape[1] * limit / total))
            expected.add(f"{name}.lm.hidden.{i}.last{last}", x[:, -last:], f"HF hidden_states[i], last {last} positions")


def add_logits(expected, name, logits, limit=40_000):
    """All logits of the prompt, or where they take more than `limit` bytes only the last positions."""
    if logits.numel() * 4 <= limit:
        expected.add(f"{name}.logits", logits, "logits of the prompt")
    else:
        last = max(4, int(limit / 4 / logits.shape[-1] / logits.shape[0]))
        expected.add(f"{name}.logits_last{last}", logits[:, -last:], f"logits of the last {last} prompt positions")
