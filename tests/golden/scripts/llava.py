"""LLaVA 1.5 with Llama, Mistral and Qwen2, and LLaVA-NeXT: vision tower, projector, language model, generation."""

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (AutoImageProcessor, AutoProcessor, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration,
                          LlavaNextConfig, LlavaNextForConditionalGeneration, LlavaNextProcessor, LlavaProcessor, MistralConfig, Qwen2Config)

from reference import (CLIP_MEAN, CLIP_STD, HERE, MAJOR, Expected, add_language_model, init_weights, load_tokenizer, round_weights, save_model,
                       search_seed, write_images, write_json, write_tokenizer)

STEPS = 14
VICUNA = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}{# Render all images first #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}"
    "{% endfor %}{# Render all text next #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
MISTRAL = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ '<<SYS>>\n' + message['content'][0]['text'] + '\n<</SYS>>\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ '[INST] ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}"
    "{% endfor %}{{' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'][0]['text'] + '</s> '}}{% endif %}"
    "{% endfor %}"
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}"
    "{% endfor %}{{ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def ask(text, images=1):
    return [{"role": "user", "content": [{"type": "image"}] * images + [{"type": "text", "text": text}]}]


# files: the version of transformers that writes model/. Inputs: (name, messages, pictures); pictures: (file, seed, width, height, mode).
CASES = [
    dict(name="llava15_modern_keys", family="llava", files="5.23.0", store="bf16", seeds=range(200, 260), lm=LlamaConfig, tokenizer="llava",
         template=VICUNA, layer=-1, strategy="full", modern_names=True,
         vision=dict(hidden_size=48, intermediate_size=94, num_hidden_layers=3, num_attention_heads=4, image_size=54, patch_size=18, hidden_act="gelu"),
         text=dict(hidden_size=36, intermediate_size=82, num_hidden_layers=4, num_attention_heads=3, num_key_value_heads=1, rms_norm_eps=1e-6),
         inputs=[("one", ask("Describe the picture in detail."), [("a.png", 4, 131, 77, "RGBA")])]),
    dict(name="llava_mistral", family="llava", files="4.49.0", store="f16", seeds=range(300, 360), lm=MistralConfig, tokenizer="llava",
         template=MISTRAL, layer=-2, strategy="default",
         vision=dict(hidden_size=40, intermediate_size=84, num_hidden_layers=4, num_attention_heads=5, image_size=40, patch_size=8, hidden_act="quick_gelu"),
         text=dict(hidden_size=48, intermediate_size=74, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=20, sliding_window=24),
         inputs=[("one", ask("Is the animal on the left?"), [("a.png", 5, 80, 200, "RGB")])]),
    dict(name="llava_qwen2_multilayer", family="llava", files="4.49.0", store="f32", seeds=range(400, 480), lm=Qwen2Config, tokenizer="qwen2",
         template=CHATML, layer=[-2, 1], strategy="default",
         vision=dict(hidden_size=32, intermediate_size=74, num_hidden_layers=3, num_attention_heads=4, image_size=42, patch_size=14, hidden_act="quick_gelu"),
         text=dict(hidden_size=40, intermediate_size=60, num_hidden_layers=3, num_attention_heads=5, num_key_value_heads=5, tie_word_embeddings=True),
         inputs=[("one", ask("Is the cat happy?"), [("a.png", 6, 60, 61, "P")]),
                 ("two", ask("Count the objects.", 2), [("b.png", 7, 123, 45, "RGB"), ("c.png", 8, 45, 123, "RGB")])]),
    dict(name="llava_next_llama_v5", family="llava_next", files="5.23.0", store="bf16", seeds=range(600, 660), lm=LlamaConfig, tokenizer="llava",
         template=VICUNA, layer=-2, strategy="default", pinpoints=[[40, 80], [80, 40], [80, 80]],
         vision=dict(hidden_size=40, intermediate_size=84, num_hidden_layers=4, num_attention_heads=5, image_size=40, patch_size=8, hidden_act="quick_gelu"),
         text=dict(hidden_size=32, intermediate_size=68, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4),
         inputs=[("one", ask("Describe the picture."), [("a.png", 10, 120, 93, "RGB")])]),
]


def open_images(folder, files):
    return [Image.open(folder / file) for file in files]


def items_of(case, folder):
    """The inputs as the processor of the family gives them."""
    tokenizer = load_tokenizer(folder / "model")
    images = AutoImageProcessor.from_pretrained(folder / "model", **({"backend": "pil"} if MAJOR >= 5 else {"use_fast": False}))
    processor_class = LlavaNextProcessor if case["family"] == "llava_next" else LlavaProcessor
    processor = processor_class(images, tokenizer, patch_size=case["vision"]["patch_size"], vision_feature_select_strategy=case["strategy"],
                                num_additional_image_tokens=1)
    items = []
    for name, messages, pictures in case["inputs"]:
        prompt = tokenizer.apply_chat_template(messages, chat_template=case["template"], tokenize=False, add_generation_prompt=True)
        files = [picture[0] for picture in pictures]
        inputs = processor(images=open_images(folder, files), text=prompt, return_tensors="pt")
        inputs = {k: v for k, v in inputs.items() if k in ("input_ids", "attention_mask", "pixel_values", "image_sizes")}
        items.append(dict(name=name, messages=messages, prompt=prompt, images=files, inputs=inputs))
    return items


def write_processor(case, folder):
    size, is_next = case["vision"]["image_size"], case["family"] == "llava_next"
    name = "LlavaNextProcessor" if is_next else "LlavaProcessor"
    config = dict(aspect_ratio_setting="anyres") if is_next else {}
    config |= dict(crop_size={"height": size, "width": size}, do_center_crop=True, do_convert_rgb=True, do_normalize=True, do_rescale=True, do_resize=True)
    config |= dict(image_grid_pinpoints=case["pinpoints"]) if is_next else {}
    config |= dict(image_mean=CLIP_MEAN, image_std=CLIP_STD, image_processor_type="LlavaNextImageProcessor" if is_next else "CLIPImageProcessor",
                   processor_class=name, resample=3, rescale_factor=1 / 255, size={"shortest_edge": size})
    write_json(folder / "preprocessor_config.json", config)
    write_json(folder / "processor_config.json", dict(image_token="<image>", patch_size=case["vision"]["patch_size"], num_additional_image_tokens=1,
                                                      processor_class=name, vision_feature_select_strategy=case["strategy"]))
    write_tokenizer(case["tokenizer"], folder, image_token="<image>", processor_class=name)
    if case["files"].startswith("4"):
        write_json(folder / "chat_template.json", {"chat_template": case["template"]})
    else:
        (folder / "chat_template.jinja").write_text(case["template"])


def modern_name(name):
    """The names that transformers has in memory since 4.52."""
    for old, new in (("language_model.lm_head.", "lm_head."), ("language_model.model.", "model.language_model.")):
        if name.startswith(old):
            return new + name.removeprefix(old)
    return "model." + name


def make(case, folder):
    model_folder, tokenizer = folder / "model", load_tokenizer(HERE / "tok" / case["tokenizer"])
    rows, tied = len(tokenizer) + 4, case["text"].get("tie_word_embeddings", False)  # released embeddings are longer than the vocabulary
    if case["tokenizer"] == "llava":
        ids = dict(bos_token_id=1, eos_token_id=2, pad_token_id=len(tokenizer) - 1)
    else:
        ids = dict(bos_token_id=1060, eos_token_id=1062, pad_token_id=1060)
    common = dict(vision_config=CLIPVisionConfig(projection_dim=32, **case["vision"]),
                  text_config=case["lm"](vocab_size=rows, max_position_embeddings=512, **ids, **case["text"]),
                  image_token_index=tokenizer.convert_tokens_to_ids("<image>"), projector_hidden_act="gelu", vision_feature_layer=case["layer"],
                  vision_feature_select_strategy=case["strategy"], tie_word_embeddings=tied)
    if case["family"] == "llava_next":
        config, model_class = LlavaNextConfig(**common, image_grid_pinpoints=case["pinpoints"]), LlavaNextForConditionalGeneration
    else:
        config, model_class = LlavaConfig(**common), LlavaForConditionalGeneration
    write_processor(case, model_folder)
    for _, _, pictures in case["inputs"]:
        write_images(folder, pictures)

    def build(seed):
        model = model_class(config).eval()
        if tied:
            model.tie_weights()
        init_weights(model, seed, gain=1.7 if tied else 1.3, emb=0.35 if tied else 0.6)
        round_weights(model, case["store"])
        return model

    model = search_seed(build, [item["inputs"] for item in items_of(case, folder)], case["seeds"], STEPS)
    for key, value in ids.items():
        setattr(model.generation_config, key, value)
    save_model(model, model_folder, case["store"])
    if case.get("modern_names"):
        path = model_folder / "model.safetensors"
        save_file({modern_name(k): v for k, v in load_file(path).items()}, path, metadata={"format": "pt"})


def reference(case, folder):
    model_folder = folder / "model"
    model_class = LlavaNextForConditionalGeneration if case["family"] == "llava_next" else LlavaForConditionalGeneration
    model = model_class.from_pretrained(model_folder, dtype=torch.float32, attn_implementation="eager").eval()
    items = items_of(case, folder)
    automatic = AutoProcessor.from_pretrained(model_folder)(images=open_images(folder, items[0]["images"]), text=items[0]["prompt"], return_tensors="pt")
    extra = {"auto_processor_5_ids_equal": automatic["input_ids"].tolist() == items[0]["inputs"]["input_ids"].tolist()}

    tower = "model.vision_tower"
    modules = {f"vision.layer.{i}": f"{tower}.encoder.layers.{i}" for i in range(case["vision"]["num_hidden_layers"])}
    modules |= {"projector": "model.multi_modal_projector", "vision.embeddings": f"{tower}.pre_layrnorm"}

    def features(output):
        states = output.image_hidden_states
        return torch.cat(list(states)) if isinstance(states, (list, tuple)) else states

    expected = Expected()
    add_language_model(expected, model, load_tokenizer(model_folder), items, STEPS, modules, features)
    covers = [f"feature layer {case['layer']}", case["strategy"]]
    covers += ["anyres", "unpad", "image_newline"] if case["family"] == "llava_next" else []
    description = f"{case['family']} with {case['lm'].model_type} LM"
    if case.get("modern_names"):
        covers.append("modern tensor names")
        description += "; tensors under the names of transformers 4.52+ in memory"
    inputs = [{key: value for key, value in item.items() if key != "inputs"} for item in items]
    expected.write(case, folder, description, covers, inputs, extra)
