"""Cases whose files are edited after saving, into forms that are read but not written by transformers 5, and those with options of their own."""

import json

import torch
from safetensors.torch import load_file, save_file
from transformers import (AutoImageProcessor, CLIPConfig, CLIPModel, CLIPVisionConfig, LlamaConfig, LlamaForCausalLM, LlavaConfig,
                          LlavaForConditionalGeneration, LlavaNextConfig, LlavaNextForConditionalGeneration, LlavaNextProcessor, LlavaProcessor,
                          MistralConfig, SiglipVisionConfig)

from dual_encoder import TEXTS
from language_model import SHORT
from llava import modern_name, open_images
from reference import (CLIP_MEAN, CLIP_STD, HERE, Expected, constant, init_weights, load_tokenizer, save_model, write_images, write_json,
                       write_tokenizer)

PICTURES = [("a.png", 1, 67, 51, "RGB"), ("b.png", 2, 20, 80, "L"), ("c.png", 3, 30, 30, "RGBA")]
THIN = [("flat.png", 3, 300, 1, "RGB"), ("line.png", 4, 1, 85, "L"), ("ribbon.png", 5, 900, 3, "RGB")]
PINPOINTS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
TOWER = dict(hidden_size=24, intermediate_size=50, num_hidden_layers=2, num_attention_heads=3)
DECODER = dict(intermediate_size=50, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
CONTEXT = 20  # tokens of the CLIP text model
GREEDY = {"max_new_tokens": 12, "eos_token_id": None}

CASES = [
    dict(name="clip_nested_dict", family="clip", files="5.23.0", store="bf16", seed=11,
         description="CLIP with text_config_dict and vision_config_dict, the image processor in processor_config.json, a text longer than the context",
         covers=["text_config_dict", "nested image_processor", "truncation"]),
    dict(name="llava_next_thin", family="llava_next", files="5.23.0", store="bf16", seed=7,
         description="LLaVA-NeXT on pictures of which a canvas keeps no pixel, or next to none; preprocessor_config.json without its class",
         covers=["anyres of thin pictures", "no image_processor_type"],
         config=(LlavaNextConfig, LlavaNextForConditionalGeneration, LlavaNextProcessor), size=28, patch=14, strategy="default", class_tokens=1,
         inputs=[(picture[0].removesuffix(".png"), "USER: <image>\nWhat? ASSISTANT:", [picture]) for picture in THIN],
         runs={"greedy": GREEDY | {"max_new_tokens": 8}}),
    dict(name="llava_siglip_full", family="llava", files="5.23.0", store="f16", seed=7,
         description="LLaVA with a SigLIP tower, all its tokens, two feature layers, no projector bias, tensor names of transformers 4.52",
         covers=["SigLIP tower", "full", "nested image_processor", "projector bias off", "names of 4.52"],
         config=(LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor), size=30, patch=10, strategy="full", class_tokens=0,
         inputs=[("three", "USER: <image>\n<image>\n<image>\nCompare. ASSISTANT:", PICTURES)],
         runs={"greedy": GREEDY, "beam": {"max_new_tokens": 8, "num_beams": 3, "eos_token_id": None}}),
    dict(name="llama_generation", family="lm_llama", files="5.23.0", store="bf16", seed=17,
         description="every option of generate that changes the tokens, on a Llama with dynamic rope (old spelling) that runs past max_position_embeddings",
         covers=["generation options", "rope_scaling dynamic beyond max_position_embeddings"]),
]


def make(case, folder):
    {"clip": make_clip, "lm_llama": make_llama}.get(case["family"], make_llava)(case, folder)


def reference(case, folder):
    expected = Expected()
    inputs = {"clip": reference_clip, "lm_llama": reference_llama}.get(case["family"], reference_llava)(case, folder, expected)
    expected.write(case, folder, case["description"], case["covers"], inputs, {})


def edit_config(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    write_json(path, config)


def clip_processor(size):
    return dict(crop_size={"height": size, "width": size}, do_center_crop=True, do_convert_rgb=True, do_normalize=True, do_rescale=True, do_resize=True,
                image_mean=CLIP_MEAN, image_std=CLIP_STD, image_processor_type="CLIPImageProcessor", resample=3, rescale_factor=1 / 255,
                size={"shortest_edge": size})


def siglip_processor(size):
    return dict(do_normalize=True, do_rescale=True, do_resize=True, image_mean=[0.5] * 3, image_std=[0.5] * 3,
                image_processor_type="SiglipImageProcessor", resample=3, rescale_factor=1 / 255, size={"height": size, "width": size})


# ---------------------------------------------------------------- CLIP


def make_clip(case, folder):
    tokenizer, model_folder = load_tokenizer(HERE / "tok/clip"), folder / "model"
    end, width = tokenizer.convert_tokens_to_ids("<|endoftext|>"), TOWER | dict(intermediate_size=40, projection_dim=24)
    text = dict(vocab_size=len(tokenizer), max_position_embeddings=CONTEXT, bos_token_id=end - 1, eos_token_id=end, pad_token_id=end, **width)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=dict(image_size=28, patch_size=14, **width), projection_dim=24)).eval()
    init_weights(model, case["seed"], rules=[(r"logit_scale$", constant(2.6592))])
    save_model(model, model_folder, case["store"])
    write_tokenizer("clip", model_folder, model_max_length=CONTEXT)
    write_json(model_folder / "processor_config.json", dict(processor_class="CLIPProcessor", image_processor=clip_processor(28)))

    def rename(config):
        for part in ("text_config", "vision_config"):
            config[f"{part}_dict"] = config.pop(part)

    edit_config(model_folder, rename)
    write_images(folder, PICTURES[:2])


def reference_clip(case, folder, expected):
    model = CLIPModel.from_pretrained(folder / "model", dtype=torch.float32, attn_implementation="eager").eval()
    texts, files = TEXTS[:2] + [f"{TEXTS[0]} " * 20], [picture[0] for picture in PICTURES[:2]]
    pixels = AutoImageProcessor.from_pretrained(folder / "model", backend="pil")(open_images(folder, files), return_tensors="pt")["pixel_values"]
    text = load_tokenizer(folder / "model")(texts, return_tensors="pt", padding=True, truncation=True, max_length=CONTEXT)
    text.pop("token_type_ids", None)
    output = model(pixel_values=pixels, **text, output_hidden_states=True)
    expected.add("pixel_values", pixels)
    expected.add_inputs("text", text)
    for tower, states in (("vision", output.vision_model_output), ("text", output.text_model_output)):
        for i, state in enumerate(states.hidden_states):
            expected.add(f"{tower}.hidden.{i}", state)
        expected.add(f"{tower}.last_hidden_state", states.last_hidden_state)
    for name in ("image_embeds", "text_embeds", "logits_per_image", "logits_per_text"):
        expected.add(name, getattr(output, name))
    return [{"name": "text", "texts": texts, "images": files}]


# ---------------------------------------------------------------- LLaVA


def make_llava(case, folder):
    config_class, model_class, processor_class = case["config"]
    tokenizer, model_folder, is_next = load_tokenizer(HERE / "tok/llava"), folder / "model", case["family"] == "llava_next"
    text = dict(vocab_size=len(tokenizer) + 4, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=len(tokenizer) - 1,
                hidden_size=16, **DECODER)
    tower = dict(image_size=case["size"], patch_size=case["patch"], **TOWER)
    if is_next:
        parts = dict(vision_config=CLIPVisionConfig(hidden_act="quick_gelu", projection_dim=16, **tower), text_config=LlamaConfig(**text),
                     vision_feature_layer=-2, image_grid_pinpoints=PINPOINTS)
    else:
        parts = dict(vision_config=SiglipVisionConfig(hidden_act="gelu_pytorch_tanh", **tower), text_config=MistralConfig(sliding_window=6, **text),
                     vision_feature_layer=[-1, 1], multimodal_projector_bias=False, projector_hidden_act="gelu_pytorch_tanh")
    model = model_class(config_class(image_token_index=tokenizer.convert_tokens_to_ids("<image>"), vision_feature_select_strategy=case["strategy"],
                                     tie_word_embeddings=False, **parts)).eval()
    init_weights(model, case["seed"])
    save_model(model, model_folder, case["store"])
    write_tokenizer("llava", model_folder, image_token="<image>")
    processor = dict(image_token="<image>", patch_size=case["patch"], num_additional_image_tokens=case["class_tokens"],
                     vision_feature_select_strategy=case["strategy"], processor_class=processor_class.__name__)
    if is_next:
        images = clip_processor(case["size"]) | dict(image_grid_pinpoints=PINPOINTS)
        del images["image_processor_type"]
        write_json(model_folder / "preprocessor_config.json", images)
    else:
        processor |= dict(image_processor=siglip_processor(case["size"]))
        path = model_folder / "model.safetensors"
        save_file({name_of_4_52(k): v for k, v in load_file(path).items()}, path, metadata={"format": "pt"})
    write_json(model_folder / "processor_config.json", processor)
    for _, _, pictures in case["inputs"]:
        write_images(folder, pictures)


def name_of_4_52(name):
    return modern_name(name).replace("model.vision_tower.", "model.vision_tower.vision_model.")


def reference_llava(case, folder, expected):
    _, model_class, processor_class = case["config"]
    model = model_class.from_pretrained(folder / "model", dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer, images = load_tokenizer(folder / "model"), AutoImageProcessor.from_pretrained(folder / "model", backend="pil")
    processor = processor_class(images, tokenizer, patch_size=case["patch"], vision_feature_select_strategy=case["strategy"],
                                num_additional_image_tokens=case["class_tokens"])
    described = []
    for name, prompt, pictures in case["inputs"]:
        files = [picture[0] for picture in pictures]
        inputs = processor(images=open_images(folder, files), text=prompt, return_tensors="pt")
        inputs = {k: v for k, v in inputs.items() if k in ("input_ids", "attention_mask", "pixel_values", "image_sizes")}
        # The pixels of the ribbon would be half of the file.
        expected.add_inputs(name, {k: v for k, v in inputs.items() if (name, k) != ("ribbon", "pixel_values")})
        if case["family"] == "llava":
            add_tower(expected, name, model, inputs)
        features = model(**inputs).image_hidden_states
        expected.add(f"{name}.image_features", torch.cat(list(features)) if isinstance(features, (list, tuple)) else features)
        add_runs(expected, model, tokenizer, inputs, name, case["runs"])
        described.append({"name": name, "prompt": prompt, "images": files})
    return described


def add_tower(expected, name, model, inputs):
    tower = model.model.vision_tower
    states = tower(inputs["pixel_values"], output_hidden_states=True).hidden_states
    for what, state in zip(["embeddings"] + [f"layer.{i}" for i in range(len(states) - 1)], states):
        expected.add(f"{name}.vision.{what}", state)
    picked = torch.cat([states[i] for i in model.config.vision_feature_layer], dim=-1)
    expected.add(f"{name}.projector", model.model.multi_modal_projector(picked))


# ---------------------------------------------------------------- generation


def add_runs(expected, model, tokenizer, inputs, name, runs):
    """Only the tokens are kept, so the logits of the steps are dropped again."""
    for run, arguments in runs.items():
        expected.runs.append(expected.run(model, tokenizer, inputs, name, run, arguments, varied=False))
    expected.tensors.pop(f"{name}.greedy.step_logits", None)
    expected.docs.pop(f"{name}.greedy.step_logits", None)


def make_llama(case, folder):
    rope = dict(rope_theta=10000.0, rope_type="dynamic", factor=3.0)
    rows = len(load_tokenizer(HERE / "tok/llama")) + 3
    config = LlamaConfig(vocab_size=rows, bos_token_id=1, eos_token_id=2, hidden_size=24, max_position_embeddings=22, rope_parameters=rope, **DECODER)
    model = LlamaForCausalLM(config).eval()
    init_weights(model, case["seed"], gain=1.4)
    save_model(model, folder / "model", case["store"])
    write_tokenizer("llama", folder / "model")

    def old_spelling(config):
        rope = config.pop("rope_parameters")
        config |= {"rope_theta": rope["rope_theta"], "rope_scaling": {"type": rope["rope_type"], "factor": rope["factor"]}}

    edit_config(folder / "model", old_spelling)


def option_runs():
    every_third, every_ninth = list(range(0, 900, 3)), list(range(0, 900, 9))
    single = [dict(repetition_penalty=0.8), dict(no_repeat_ngram_size=1), dict(suppress_tokens=list(range(3, 300))),
              dict(begin_suppress_tokens=list(range(3, 600))), dict(max_new_tokens=5, eos_token_id=[2], forced_eos_token_id=2),
              dict(max_new_tokens=None, max_length=44, min_length=43, eos_token_id=list(range(900))),
              dict(max_new_tokens=10, eos_token_id=every_third, exponential_decay_length_penalty=[2, 1.5]),
              dict(max_new_tokens=10, renormalize_logits=True, remove_invalid_values=True),
              dict(max_new_tokens=10, sequence_bias=[[[5], 4.0], [[300], -5.0], [[5, 6], 3.0]])]
    beam = [dict(num_beams=5, no_repeat_ngram_size=2), dict(num_beams=6, eos_token_id=every_third, length_penalty=-1.0),
            dict(num_beams=6, eos_token_id=every_third, length_penalty=0.0),
            dict(num_beams=4, eos_token_id=every_ninth, length_penalty=2.0, early_stopping=True),
            dict(num_beams=4, eos_token_id=every_ninth, length_penalty=2.0, early_stopping="never"),
            dict(num_beams=4, eos_token_id=every_ninth, length_penalty=-2.0, early_stopping="never"),
            dict(num_beams=3, eos_token_id=every_ninth, min_new_tokens=6, early_stopping=True), dict(num_beams=3, eos_token_id=[2], forced_eos_token_id=2),
            dict(num_beams=3, eos_token_id=every_ninth, exponential_decay_length_penalty=[2, 1.5]),
            dict(num_beams=3, renormalize_logits=True, repetition_penalty=1.7), dict(num_beams=3, sequence_bias=[[[5], 4.0], [[5, 6], 3.0]]),
            dict(num_beams=2)]
    runs = {"greedy": GREEDY} | {f"options_{i}": GREEDY | options for i, options in enumerate(single)}
    runs |= {f"beam_{i}": GREEDY | {"max_new_tokens": 10} | options for i, options in enumerate(beam)}
    return {name: {k: v for k, v in run.items() if k == "eos_token_id" or v is not None} for name, run in runs.items()}


def reference_llama(case, folder, expected):
    model = LlamaForCausalLM.from_pretrained(folder / "model", dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = load_tokenizer(folder / "model")
    tokens = tokenizer(SHORT[0], return_tensors="pt")
    inputs = {k: tokens[k] for k in ("input_ids", "attention_mask")}
    expected.add_inputs("p0", inputs)
    add_runs(expected, model, tokenizer, inputs, "p0", option_runs())
    ids = expected.runs[0]["output_ids"]
    add_runs(expected, model, tokenizer, inputs, "p0", {
        "bad_words": GREEDY | {"bad_words_ids": [ids[:2], ids[4:5], ids[5:8]]},
        "bad_words_eos": GREEDY | {"eos_token_id": ids[5:6], "bad_words_ids": [ids[5:6], ids[1:2]]},
        "bad_words_beam": GREEDY | {"max_new_tokens": 8, "num_beams": 4, "bad_words_ids": [ids[:2], ids[4:5]]}})
    return [{"name": "p0", "prompt": SHORT[0]}]
