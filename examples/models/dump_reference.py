"""Writes what Hugging Face transformers computes for a model folder, a picture and a prompt, stage by stage, for

    chiasm_inspect MODEL --compare OUT

    python dump_reference.py MODEL --picture cat.jpg --prompt "What is the cat doing?" --output OUT      LLaVA, LLaVA-NeXT
    python dump_reference.py MODEL --picture cat.jpg --prompt "Question: what is it? Answer:" --output OUT      BLIP-2, InstructBLIP
    python dump_reference.py MODEL --picture a.jpg --picture b.jpg --raw --prompt "<image> A cat.<image> A" --output OUT          IDEFICS
    python dump_reference.py MODEL --prompt "Once upon a time" --output OUT                              Llama, Mistral, Qwen2, OPT, MPT, GPT-NeoX, T5
    python dump_reference.py MODEL --picture cat.jpg --text "a cat" --text "a dog" --output OUT          CLIP, SigLIP, BLIP-2's retrieval

OUT gets expected.safetensors (the stages), case.json (what was asked, and the answer) and the picture as it was read. A prompt goes
through the chat template as a user's turn, unless --raw says that it is what the model reads, placeholders included.
Needs: pip install torch torchvision transformers safetensors pillow
"""

import argparse
import json
import os
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers
from PIL import Image, ImageOps
from safetensors.torch import save_file

torch.set_grad_enabled(False)


class Dump:
    def __init__(self):
        self.tensors = {}

    def add(self, name, tensor):
        tensor = tensor.detach().clone().contiguous()
        self.tensors[name] = tensor.float() if tensor.is_floating_point() else tensor.to(torch.int64)


def load(model_class, folder):
    return model_class.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def load_tokenizer(folder):
    """As transformers loads it; where its class wants a file that is not there, tokenizer.json as it says."""
    try:
        return transformers.AutoTokenizer.from_pretrained(folder)
    except (ValueError, OSError):
        config = json.loads((Path(folder) / "tokenizer_config.json").read_text())
        special = {key: config[key] for key in ("bos_token", "eos_token", "unk_token", "pad_token") if config.get(key)}
        return transformers.PreTrainedTokenizerFast(tokenizer_file=str(Path(folder) / "tokenizer.json"), **special)


def read_pictures(paths, out):
    """The pictures, upright and in RGB; OUT gets the same pixels, so that no decoder is compared."""
    pictures, names = [], []
    for i, path in enumerate(paths):
        pictures.append(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
        names.append(f"picture{i}.png")
        pictures[-1].save(out / names[-1])
    return pictures, names


def words(arguments, holder, pictures):
    """The prompt as the model reads it, before a placeholder is repeated."""
    prompt = arguments.prompt or ""
    if arguments.raw or getattr(holder, "chat_template", None) is None:
        return prompt
    content = [{"type": "image"}] * len(pictures) + [{"type": "text", "text": prompt}] if pictures else prompt
    try:
        return holder.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)
    except Exception:  # templates for plain text
        content = "<image>\n" * len(pictures) + prompt
        return holder.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)


def watch(model, modules, seen):
    """Keeps the first output of each module, as {stage: module}."""
    def keeper(stage):
        def keep(module, arguments, output):
            seen.setdefault(stage, output[0] if isinstance(output, tuple) else output)
        return keep

    return [module.register_forward_hook(keeper(stage)) for stage, module in modules.items()]


def blocks_of(tower):
    """Module path -> stage, of a vision tower of CLIP or SigLIP, whatever wraps it."""
    named = dict(tower.named_modules())
    layers = next(path for path in named if path.endswith("encoder.layers") or path == "encoder.layers")
    stages = {f"vision.layer.{i}": block for i, block in enumerate(named[layers])}
    first = next((path for path in named if path.endswith("pre_layrnorm")), None) or next(path for path in named if path.split(".")[-1] == "embeddings")
    return {"vision.embeddings": named[first], **stages}


def dump_generator(arguments, config, out):
    sees = hasattr(config, "vision_config")
    encodes = not sees and config.is_encoder_decoder
    if sees:
        model = load(transformers.AutoModelForImageTextToText, arguments.model)
        holder = transformers.AutoProcessor.from_pretrained(arguments.model, backend="pil")
        tokenizer = holder.tokenizer
    else:
        model = load(transformers.AutoModelForSeq2SeqLM if encodes else transformers.AutoModelForCausalLM, arguments.model)
        holder = tokenizer = load_tokenizer(arguments.model)
    pictures, names = read_pictures(arguments.picture, out)
    prompt = words(arguments, holder, pictures)
    # A template that writes the first token itself must not get a second one.
    bos = tokenizer.bos_token
    if bos and prompt.startswith(bos) and tokenizer(prompt.removeprefix(bos))["input_ids"] == tokenizer(prompt, add_special_tokens=False)["input_ids"]:
        prompt = prompt.removeprefix(bos)
    text = dict(text=prompt, return_tensors="pt")
    inputs = holder(images=pictures, **text) if pictures else tokenizer(**text)
    inputs = {k: v for k, v in inputs.items() if k in ("input_ids", "attention_mask", "pixel_values", "image_sizes")}

    dump, seen, modules = Dump(), {}, {}
    if sees:
        modules = {"projector": model.model.multi_modal_projector, **blocks_of(model.model.vision_tower)}
    hooks = watch(model, modules, seen)
    start = model.generation_config.decoder_start_token_id  # of an encoder-decoder's answer
    beginning = dict(decoder_input_ids=torch.tensor([[start]])) if encodes else {}
    output = model(**inputs, **beginning, output_hidden_states=True, return_dict=True)
    for hook in hooks:
        hook.remove()
    for name, tensor in inputs.items():
        dump.add(f"input.{name}", tensor)
    for name, tensor in seen.items():
        dump.add(f"input.{name}", tensor)
    for i, state in enumerate(output.encoder_hidden_states if encodes else []):
        dump.add(f"input.lm.encoder_hidden.{i}", state)
    features = getattr(output, "image_hidden_states", None)
    if features is not None:
        dump.add("input.image_features", torch.cat(list(features)) if isinstance(features, (list, tuple)) else features)
    for i, state in enumerate(output.decoder_hidden_states if encodes else output.hidden_states):
        dump.add(f"input.lm.hidden.{i}", state)
    dump.add("input.logits", output.logits)

    runs = []
    if arguments.max_new_tokens > 0:
        eos = model.generation_config.eos_token_id
        # Nothing but the end token of the checkpoint's own generation_config: plain greedy search.
        model.generation_config = transformers.GenerationConfig(eos_token_id=eos, pad_token_id=tokenizer.pad_token_id or 0, decoder_start_token_id=start)
        answer = model.generate(**inputs, do_sample=False, max_new_tokens=arguments.max_new_tokens)
        ids = answer[0, 1 if encodes else inputs["input_ids"].shape[1]:].tolist()
        runs.append({"name": "greedy", "input": "input", "generate": {"max_new_tokens": arguments.max_new_tokens, "eos_token_id": eos},
                     "output_ids": ids, "text": tokenizer.decode(ids, skip_special_tokens=True)})
    return dump, {"name": "input", "prompt": prompt, "images": names}, runs


def last_states(seen):
    """Outputs of modules, of those that return several their last hidden state."""
    return {stage: getattr(output, "last_hidden_state", output) for stage, output in seen.items()}


def dump_blip2(arguments, config, out):
    if config.image_token_index is None:
        raise SystemExit("this checkpoint has no token for pictures (image_token_index): transformers 5 does not run it")
    instruct, encodes = config.model_type == "instructblip", config.text_config.is_encoder_decoder
    model = load(transformers.InstructBlipForConditionalGeneration if instruct else transformers.Blip2ForConditionalGeneration, arguments.model)
    tokenizer = load_tokenizer(arguments.model)
    pictures, names = read_pictures(arguments.picture, out)
    prompt = words(arguments, tokenizer, pictures).removeprefix("<image>")
    if tokenizer.bos_token and not arguments.raw:
        prompt = prompt.removeprefix(tokenizer.bos_token)
    ids = torch.tensor([[config.image_token_index] * config.num_query_tokens + tokenizer(prompt)["input_ids"]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs["pixel_values"] = transformers.AutoImageProcessor.from_pretrained(arguments.model, backend="pil")(pictures, return_tensors="pt")["pixel_values"]
    if instruct:
        instruction = load_tokenizer(str(Path(arguments.model) / "qformer_tokenizer"))(prompt, return_tensors="pt")
        inputs |= {f"qformer_{key}": instruction[key] for key in ("input_ids", "attention_mask")}

    dump, seen = Dump(), {}
    modules = {**blocks_of(model.vision_model), "vision.last_hidden_state": model.vision_model, "qformer.last_hidden_state": model.qformer,
               "projector": model.language_projection}
    modules |= {f"qformer.layer.{i}": layer for i, layer in enumerate(model.qformer.encoder.layer)}
    hooks = watch(model, modules, seen)
    start = getattr(config.text_config, "decoder_start_token_id", None)
    output = model(**inputs, **(dict(decoder_input_ids=torch.tensor([[start]])) if encodes else {}), output_hidden_states=True, return_dict=True)
    for hook in hooks:
        hook.remove()
    for name, tensor in (inputs | last_states(seen)).items():
        dump.add(f"input.{name}", tensor)
    language = output.language_model_outputs
    for i, state in enumerate(language.encoder_hidden_states if encodes else []):
        dump.add(f"input.lm.encoder_hidden.{i}", state)
    for i, state in enumerate(language.decoder_hidden_states if encodes else language.hidden_states):
        dump.add(f"input.lm.hidden.{i}", state)
    dump.add("input.logits", language.logits)
    runs = []
    if arguments.max_new_tokens > 0:
        eos = model.generation_config.eos_token_id
        plain = transformers.GenerationConfig(eos_token_id=eos, pad_token_id=tokenizer.pad_token_id or 0, decoder_start_token_id=start)
        model.generation_config = model.language_model.generation_config = plain
        answer = model.generate(**inputs, do_sample=False, max_new_tokens=arguments.max_new_tokens)[0].tolist()
        answer = answer[1:] if encodes else answer[ids.shape[1]:] if answer[: ids.shape[1]] == ids[0].tolist() else answer
        runs.append({"name": "greedy", "input": "input", "generate": {"max_new_tokens": arguments.max_new_tokens, "eos_token_id": eos},
                     "output_ids": answer, "text": tokenizer.decode(answer, skip_special_tokens=True)})
    return dump, {"name": "input", "prompt": prompt, "images": names}, runs


def dump_retrieval(arguments, config, out):
    model = load(transformers.Blip2ForImageTextRetrieval, arguments.model)
    pictures, names = read_pictures(arguments.picture[:1], out)
    texts = arguments.text or ["a photo of a cat", "a photo of a dog"]
    words_of = load_tokenizer(arguments.model)(texts, padding=True, return_tensors="pt")
    ids, mask = words_of["input_ids"], words_of["attention_mask"]
    if config.image_token_index is not None:  # the model cuts off again what its processor puts before the text
        shape = (len(texts), config.num_query_tokens)
        ids, mask = torch.cat([torch.full(shape, config.image_token_index), ids], 1), torch.cat([torch.ones(shape, dtype=torch.long), mask], 1)
    pixels = transformers.AutoImageProcessor.from_pretrained(arguments.model, backend="pil")(pictures, return_tensors="pt")["pixel_values"]

    dump, seen = Dump(), {}
    for name, tensor in dict(input_ids=ids, attention_mask=mask, pixel_values=pixels).items():
        dump.add(f"input.{name}", tensor)
    hooks = watch(model, {"input.vision.last_hidden_state": model.vision_model, "input.qformer.last_hidden_state": model.qformer}, seen)
    output = model(pixel_values=pixels.repeat(len(texts), 1, 1, 1), input_ids=ids, attention_mask=mask, use_image_text_matching_head=True, return_dict=True)
    for hook in hooks:
        hook.remove()
    for name, tensor in last_states(seen).items():
        dump.add(name, tensor)
    dump.add("input.logits_per_image", output.logits_per_image)
    dump.add("input.probs", output.logits_per_image.softmax(-1))
    output = model(pixel_values=pixels, input_ids=ids, attention_mask=mask, use_image_text_matching_head=False, return_dict=True)
    for name in ("image_embeds", "text_embeds", "logits_per_image"):
        dump.add(f"itc.{name}", getattr(output, name))
    return dump, {"name": "input", "texts": texts, "images": names}, []


def dump_idefics(arguments, config, out):
    from transformers.models.idefics import processing_idefics

    image, fake = "<image>", "<fake_token_around_image>"
    model = load(transformers.IdeficsForVisionText2Text, arguments.model)
    settings = json.loads((Path(arguments.model) / "tokenizer_config.json").read_text())
    special = {key: settings[key] for key in ("bos_token", "eos_token", "unk_token", "pad_token") if settings.get(key)}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(Path(arguments.model) / "tokenizer.json"), **special)
    template = Path(arguments.model) / "chat_template.jinja"
    tokenizer.chat_template = template.read_text() if template.exists() else settings.get("chat_template")
    pictures, names = read_pictures(arguments.picture, out)
    prompt = words(arguments, tokenizer, pictures).removeprefix(tokenizer.bos_token)
    if not arguments.raw and tokenizer.chat_template is None:
        prompt = image * len(pictures) + prompt
    if fake not in prompt:  # as the processor puts pictures between texts
        texts = [text.strip(" ") for text in prompt.split(image)]
        whole = texts[0]
        for i, text in enumerate(texts[1:]):
            whole += (image if i > 0 and not texts[i] else fake + image) + fake + text
    else:
        whole = prompt
    ids = tokenizer(tokenizer.bos_token + whole, add_special_tokens=False, return_tensors="pt")["input_ids"]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    processor = transformers.AutoImageProcessor.from_pretrained(arguments.model, backend="pil")
    if pictures:
        pixels = processor(pictures, return_tensors="pt")
        inputs["pixel_values"] = (pixels if torch.is_tensor(pixels) else pixels["pixel_values"])[None]
        count, _ = processing_idefics.image_attention_mask_for_packed_input_ids(ids, tokenizer, "pt")
        inputs["image_attention_mask"] = processing_idefics.incremental_to_binary_attention_mask(count, "pt", num_classes=len(pictures))
    else:  # the model wants some; no position sees it
        size = config.vision_config.image_size
        inputs |= {"pixel_values": torch.zeros(1, 1, 3, size, size), "image_attention_mask": torch.zeros(1, ids.shape[1], 1, dtype=torch.long)}

    dump, seen = Dump(), {}
    modules = {**blocks_of(model.model.vision_model)} if pictures else {}
    if pictures and config.use_resampler:
        modules["resampler"] = model.model.perceiver_resampler
    modules |= {f"xattn.{i}": block for i, block in enumerate(model.model.gated_cross_attn_layers)}
    hooks = watch(model, modules, seen)
    output = model(**inputs, output_hidden_states=True, return_dict=True)
    for hook in hooks:
        hook.remove()
    for name, tensor in inputs.items():
        if pictures or name in ("input_ids", "attention_mask"):
            dump.add(f"input.{name}", tensor)
    for name, tensor in seen.items():
        dump.add(f"input.{name}", tensor)
    for i, state in enumerate(output.hidden_states):
        dump.add(f"input.lm.hidden.{i}", state)
    dump.add("input.logits", output.logits)
    runs = []
    if arguments.max_new_tokens > 0:
        eos = model.generation_config.eos_token_id
        model.generation_config = transformers.GenerationConfig(eos_token_id=eos, pad_token_id=tokenizer.pad_token_id or 0)
        answer = model.generate(**inputs, do_sample=False, max_new_tokens=arguments.max_new_tokens)[0, ids.shape[1]:].tolist()
        runs.append({"name": "greedy", "input": "input", "generate": {"max_new_tokens": arguments.max_new_tokens, "eos_token_id": eos},
                     "output_ids": answer, "text": tokenizer.decode(answer, skip_special_tokens=True)})
    return dump, {"name": "input", "prompt": prompt, "images": names}, runs


def dump_dual_encoder(arguments, config, out):
    model = load(transformers.AutoModel, arguments.model)
    tokenizer = load_tokenizer(arguments.model)
    processor = transformers.AutoImageProcessor.from_pretrained(arguments.model, backend="pil")
    pictures, names = read_pictures(arguments.picture, out)
    texts = arguments.text or ["a photo of a cat", "a photo of a dog"]
    longest = config.text_config.max_position_embeddings
    siglip = config.model_type == "siglip"
    padding = dict(padding="max_length", max_length=longest, truncation=True) if siglip else dict(padding=True, max_length=longest, truncation=True)
    text = tokenizer(texts, return_tensors="pt", **padding)
    text = {k: text[k] for k in (("input_ids",) if siglip else ("input_ids", "attention_mask"))}
    pixels = processor(pictures, return_tensors="pt")["pixel_values"]
    output = model(pixel_values=pixels, **text, output_hidden_states=True)

    dump = Dump()
    dump.add("pixel_values", pixels)
    for name, tensor in text.items():
        dump.add(f"text.{name}", tensor)
    for tower, states in (("vision", output.vision_model_output), ("text", output.text_model_output)):
        for i, state in enumerate(states.hidden_states):
            dump.add(f"{tower}.hidden.{i}", state)
        dump.add(f"{tower}.last_hidden_state", states.last_hidden_state)
        dump.add(f"{tower}.pooler_output", states.pooler_output)
    for name in ("image_embeds", "text_embeds", "logits_per_image", "logits_per_text"):
        dump.add(name, getattr(output, name))
    return dump, {"name": "text", "texts": texts, "images": names}, []


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a checkpoint")
    parser.add_argument("--picture", action="append", default=[], help="a picture (may be given several times)")
    parser.add_argument("--prompt", help="what a user says")
    parser.add_argument("--raw", action="store_true", help="the prompt is what the model reads: no chat template")
    parser.add_argument("--text", action="append", default=[], help="a text for CLIP, SigLIP or BLIP-2's retrieval (may be given several times)")
    parser.add_argument("--max-new-tokens", type=int, default=16, help="length of the greedy answer that is recorded, too (0: none)")
    parser.add_argument("--output", required=True, type=Path, help="folder to be written")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    config = transformers.AutoConfig.from_pretrained(arguments.model)
    retrieval = config.model_type == "blip-2" and "Blip2ForImageTextRetrieval" in (config.architectures or [])
    speaks = config.model_type in ("blip-2", "instructblip") and not retrieval
    dual = config.model_type in ("clip", "siglip") or retrieval
    if dual and not arguments.picture:
        parser.error("a dual encoder wants --picture")
    if not dual and arguments.prompt is None:
        parser.error("--prompt is missing")
    if speaks and len(arguments.picture) != 1:
        parser.error("BLIP-2 wants one --picture")
    write = dump_retrieval if retrieval else dump_blip2 if speaks else dump_dual_encoder if dual else dump_idefics if config.model_type == "idefics" else dump_generator
    dump, asked, runs = write(arguments, config, arguments.output)
    save_file(dump.tensors, arguments.output / "expected.safetensors")
    case = {"format": 1, "family": "blip2_itm" if retrieval else config.model_type, "model": str(Path(arguments.model).resolve()), "inputs": [asked], "runs": runs,
            "reference": {"transformers": transformers.__version__, "torch": torch.__version__}}
    (arguments.output / "case.json").write_text(json.dumps(case, indent=1, ensure_ascii=False))
    print(f"{arguments.output}: {len(dump.tensors)} tensors" + "".join(f"; answer: {run['text']!r}" for run in runs))


if __name__ == "__main__":
    main()
