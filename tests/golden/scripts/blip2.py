"""BLIP-2 and InstructBLIP with OPT, Flan-T5 and Llama: vision tower, Q-Former, projection, language model, generation. And BLIP-2's first stage, which
compares pictures with texts."""

import json

import torch
from PIL import Image
from transformers import (AutoImageProcessor, Blip2Config, Blip2ForConditionalGeneration, Blip2ForImageTextRetrieval, Blip2Processor, InstructBlipConfig,
                          InstructBlipForConditionalGeneration, InstructBlipProcessor, LlamaConfig, OPTConfig, T5Config)

from reference import (CLIP_MEAN, CLIP_STD, HERE, Expected, add_hidden_states, add_logits, gained, init_weights, load_tokenizer, round_weights, save_model,
                       scaled, search_seed, write_images, write_json, write_t5_tokenizer, write_tokenizer)

STEPS = 12
DECODER_IDS = [0, 5, 9, 33]  # what T5's decoder reads in the forward pass

# Inputs: (name, prompt, picture); pictures: (file, seed, width, height, mode).
CASES = [
    dict(name="blip2_opt_small", family="blip2", files="5.23.0", store="f16", seeds=range(100, 200), lm="opt", queries=7,
         vision=dict(hidden_size=40, intermediate_size=90, num_hidden_layers=2, num_attention_heads=4, image_size=42, patch_size=14),
         qformer=dict(hidden_size=36, num_hidden_layers=4, num_attention_heads=3, intermediate_size=64),
         text=dict(hidden_size=32, word_embed_proj_dim=32, ffn_dim=64, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=96),
         inputs=[("vqa", "Question: how many objects are there? Answer:", ("a.png", 1, 317, 211, "RGB")),
                 ("caption", "a photo of", ("b.png", 2, 97, 143, "L"))]),
    dict(name="blip2_flan_t5_small", family="blip2", files="5.23.0", store="bf16", seeds=range(300, 400), lm="t5", queries=5,
         vision=dict(hidden_size=32, intermediate_size=70, num_hidden_layers=3, num_attention_heads=2, image_size=40, patch_size=8, qkv_bias=False),
         qformer=dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, cross_attention_frequency=1),
         text=dict(d_model=32, d_kv=12, d_ff=48, num_layers=3, num_decoder_layers=2, num_heads=3, relative_attention_num_buckets=12,
                   relative_attention_max_distance=20, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
         inputs=[("vqa", "Question: is the cat happy? Short answer:", ("a.png", 4, 131, 77, "RGBA"))]),
    dict(name="instructblip_llama_small", family="instructblip", files="5.23.0", store="f16", seeds=range(500, 600), lm="llama", queries=6,
         vision=dict(hidden_size=32, intermediate_size=60, num_hidden_layers=2, num_attention_heads=4, image_size=42, patch_size=14),
         qformer=dict(hidden_size=36, num_hidden_layers=5, num_attention_heads=3, intermediate_size=50, cross_attention_frequency=3),
         text=dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-6),
         inputs=[("describe", "Describe the picture in detail.", ("a.png", 8, 200, 90, "RGB")),
                 ("colour", "What colour is the castle?", ("b.png", 9, 61, 80, "P"))]),
    dict(name="blip2_itm_small", family="blip2_itm", files="5.23.0", store="f16", seed=78, queries=4, projection=20,
         vision=dict(hidden_size=32, intermediate_size=60, num_hidden_layers=2, num_attention_heads=4, image_size=40, patch_size=8),
         qformer=dict(hidden_size=36, num_hidden_layers=3, num_attention_heads=3, intermediate_size=50),
         texts=["the red bicycle", "naïve café in winter", "two cats near the old bridge"], image=("a.png", 7, 77, 60, "RGB")),
]
TOKENIZERS = {"opt": "opt", "t5": "t5", "llama": "llama", None: "bert"}
RULES = [(r"qkv\.bias$", lambda p, x: 0.2 * x * (torch.arange(len(x)) // (len(x) // 3) != 1)),  # that of the keys is zero
         (r"query_tokens$", scaled(0.8))]


def add_tokenizer(name, folder, image_token):
    """A released checkpoint's tokenizer, to whose end <image> was added later."""
    if name == "t5":
        write_t5_tokenizer(folder)
    else:
        write_tokenizer(name, folder)
    if not image_token:
        return None
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    image = dict(id=1 + max([a["id"] for a in tokenizer["added_tokens"]] + [len(load_tokenizer(folder)) - 1]), content="<image>", single_word=False, lstrip=False,
                 rstrip=False, normalized=False, special=True)
    tokenizer["added_tokens"].append(image)
    path.write_text(json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")) + "\n")
    return image["id"]


def write_processors(case, folder):
    """Returns the id of <image>."""
    size, instruct = case["vision"]["image_size"], case["family"] == "instructblip"
    folder.mkdir(parents=True, exist_ok=True)
    name = "InstructBlipProcessor" if instruct else "Blip2Processor"
    write_json(folder / "preprocessor_config.json",
               dict(do_convert_rgb=True, do_normalize=True, do_rescale=True, do_resize=True, image_mean=CLIP_MEAN, image_std=CLIP_STD,
                    image_processor_type="BlipImageProcessor", processor_class=name, resample=3, rescale_factor=1 / 255, size={"height": size, "width": size}))
    write_json(folder / "processor_config.json", dict(processor_class=name, num_query_tokens=case["queries"]))
    if instruct:
        (folder / "qformer_tokenizer").mkdir(exist_ok=True)
        write_tokenizer("bert", folder / "qformer_tokenizer")
    return add_tokenizer(TOKENIZERS[case.get("lm")], folder, True)


def config_of(case, image_token):
    words = len(load_tokenizer(HERE / "tok/bert"))
    qformer = dict(vocab_size=words, max_position_embeddings=40, **case["qformer"])
    common = dict(vision_config=case["vision"], num_query_tokens=case["queries"], image_token_index=image_token)
    if case["family"] == "blip2_itm":
        text = dict(model_type="opt", vocab_size=50, hidden_size=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=1, word_embed_proj_dim=16)
        qformer |= dict(use_qformer_text_input=True, vocab_size=image_token + 1)
        return Blip2Config(qformer_config=qformer, text_config=text, image_text_hidden_size=case["projection"], **common)
    rows = image_token + 4  # released embeddings are longer than the vocabulary
    if case["lm"] == "opt":
        text = OPTConfig(vocab_size=rows, pad_token_id=1, bos_token_id=2, eos_token_id=2, **case["text"])
    elif case["lm"] == "t5":
        text = T5Config(vocab_size=rows, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, **case["text"])
    else:
        text = LlamaConfig(vocab_size=rows, pad_token_id=0, bos_token_id=1, eos_token_id=2, max_position_embeddings=128, **case["text"])
    config_class = InstructBlipConfig if case["family"] == "instructblip" else Blip2Config
    return config_class(qformer_config=qformer, text_config=text.to_dict(), **common)


def items_of(case, folder):
    """The inputs as the processor of the family gives them."""
    tokenizer, images = load_tokenizer(folder / "model"), AutoImageProcessor.from_pretrained(folder / "model", backend="pil")
    if case["family"] == "instructblip":
        processor = InstructBlipProcessor(images, tokenizer, load_tokenizer(folder / "model/qformer_tokenizer"), num_query_tokens=case["queries"])
    else:
        processor = Blip2Processor(images, tokenizer, num_query_tokens=case["queries"])
    items = []
    for name, prompt, picture in case["inputs"]:
        inputs = processor(images=Image.open(folder / picture[0]), text=prompt, return_tensors="pt")
        items.append(dict(name=name, prompt=prompt, images=[picture[0]], inputs={k: v for k, v in inputs.items() if "token_type" not in k}))
    return items


def make(case, folder):
    model_folder = folder / "model"
    config = config_of(case, write_processors(case, model_folder))
    write_images(folder, [case["image"]] if "image" in case else [picture for _, _, picture in case["inputs"]])
    if case["family"] == "blip2_itm":
        model = Blip2ForImageTextRetrieval(config).eval()
        init_weights(model, case["seed"], rules=RULES + [(r"itm_head.weight", gained(3.0))])
        return save_model(model, model_folder, case["store"])
    is_opt, is_t5 = case["lm"] == "opt", case["lm"] == "t5"
    model_class = InstructBlipForConditionalGeneration if case["family"] == "instructblip" else Blip2ForConditionalGeneration

    def build(seed):
        model = model_class(config).eval()
        if is_opt:
            model.language_model.tie_weights()
        init_weights(model, seed, gain=1.7 if is_opt else 1.4, emb=0.4 if is_opt else 0.6, rules=RULES + [(r"language_model.lm_head", gained(3.0))] * is_t5)
        round_weights(model, case["store"])
        return model

    model = search_seed(build, [item["inputs"] for item in items_of(case, folder)], case["seeds"], STEPS)
    for part in (model, model.language_model):
        for key in ("pad_token_id", "eos_token_id", "bos_token_id", "decoder_start_token_id"):
            setattr(part.generation_config, key, getattr(config.text_config, key, None))
    save_model(model, model_folder, case["store"])


class Watch:
    """Outputs of modules, {tensor name: module path}, while it is open: those of the first call."""

    def __init__(self, model, modules):
        self.seen = {}
        self.hooks = [model.get_submodule(path).register_forward_hook(self.keep(name)) for name, path in modules.items()]

    def keep(self, name):
        def hook(module, arguments, output):
            states = getattr(output, "last_hidden_state", None)
            self.seen.setdefault(name, states if states is not None else output[0] if isinstance(output, tuple) else output)
        return hook

    def __enter__(self):
        return self.seen

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()


def reference(case, folder):
    if case["family"] == "blip2_itm":
        return reference_retrieval(case, folder)
    model_class = InstructBlipForConditionalGeneration if case["family"] == "instructblip" else Blip2ForConditionalGeneration
    model = model_class.from_pretrained(folder / "model", dtype=torch.float32, attn_implementation="eager").eval()
    items, is_t5 = items_of(case, folder), case["lm"] == "t5"
    modules = {f"vision.layer.{i}": f"vision_model.encoder.layers.{i}" for i in range(case["vision"]["num_hidden_layers"])}
    modules |= {f"qformer.layer.{i}": f"qformer.encoder.layer.{i}" for i in range(case["qformer"]["num_hidden_layers"])}
    modules |= {"vision.embeddings": "vision_model.embeddings", "vision.last_hidden_state": "vision_model", "qformer.last_hidden_state": "qformer",
                "projector": "language_projection"}
    expected = Expected()
    for item in items:
        name, inputs = item["name"], item["inputs"]
        expected.add_inputs(name, inputs)
        decoder = dict(decoder_input_ids=torch.tensor([DECODER_IDS])) if is_t5 else {}
        with Watch(model, modules) as seen:
            output = model(**inputs, **decoder, output_hidden_states=True, return_dict=True)
        for tensor_name, tensor in seen.items():
            expected.add(f"{name}.{tensor_name}", tensor, f"module output: {modules[tensor_name]} (5.23 module path)")
        language = output.language_model_outputs
        if item is items[0]:
            for i, state in enumerate(language.encoder_hidden_states if is_t5 else ()):
                expected.add(f"{name}.lm.encoder_hidden.{i}", state, "encoder hidden_states[i], last = after final norm")
            add_hidden_states(expected, name, language.decoder_hidden_states if is_t5 else language.hidden_states)
        add_logits(expected, name, language.logits)
    expected.add_runs(model, load_tokenizer(folder / "model"), items, STEPS)
    inputs = [{key: value for key, value in item.items() if key != "inputs"} for item in items]
    covers = ["Q-Former", "image tokens before BOS"] + ["Q-Former text input"] * (case["family"] == "instructblip")
    extra = {"forward_decoder_input_ids": DECODER_IDS} if is_t5 else {}
    expected.write(case, folder, f"{case['family']} with {case['lm']}", covers, inputs, extra)


def reference_retrieval(case, folder):
    model = Blip2ForImageTextRetrieval.from_pretrained(folder / "model", dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer, texts = load_tokenizer(folder / "model"), len(case["texts"])
    pixels = AutoImageProcessor.from_pretrained(folder / "model", backend="pil")(Image.open(folder / case["image"][0]), return_tensors="pt")["pixel_values"]
    words, queries = tokenizer(case["texts"], padding=True, return_tensors="pt"), case["queries"]
    ids = torch.cat([torch.full((texts, queries), tokenizer.convert_tokens_to_ids("<image>")), words["input_ids"]], 1)
    mask = torch.cat([torch.ones(texts, queries, dtype=torch.long), words["attention_mask"]], 1)
    expected = Expected()
    expected.add_inputs("itm", dict(pixel_values=pixels, input_ids=ids, attention_mask=mask))
    with Watch(model, {"vision.last_hidden_state": "vision_model", "qformer.last_hidden_state": "qformer"}) as seen:
        output = model(pixel_values=pixels.repeat(texts, 1, 1, 1), input_ids=ids, attention_mask=mask, use_image_text_matching_head=True, return_dict=True)
    for name, tensor in seen.items():
        expected.add(f"itm.{name}", tensor, "batch of texts, the picture repeated")
    expected.add("itm.logits_per_image", output.logits_per_image, "[texts, 2]: column 1 = match")
    expected.add("itm.probs", output.logits_per_image.softmax(-1))
    with Watch(model, {"qformer_image.last_hidden_state": "qformer"}) as seen:
        output = model(pixel_values=pixels, input_ids=ids, attention_mask=mask, use_image_text_matching_head=False, return_dict=True)
    expected.add("itc.qformer_image.last_hidden_state", seen["qformer_image.last_hidden_state"])
    expected.add("itc.image_embeds", output.image_embeds)
    expected.add("itc.text_embeds", output.text_embeds)
    expected.add("itc.logits_per_image", output.logits_per_image, "[pictures, texts]: of a picture's queries, the nearest to the text")
    inputs = [{"name": "itm", "texts": case["texts"], "images": [case["image"][0]]}]
    expected.write(case, folder, "BLIP-2's image-text retrieval: matching and similarity", ["ITM", "ITC", "image_token_index set"], inputs, {})
