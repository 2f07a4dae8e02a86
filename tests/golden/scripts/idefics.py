"""IDEFICS: vision tower, Perceiver Resampler, gated cross-attention, and which position of a prompt sees which picture."""

import torch
from PIL import Image
from transformers import AutoImageProcessor, IdeficsConfig, IdeficsForVisionText2Text

from reference import (CLIP_MEAN, CLIP_STD, HERE, MAJOR, Expected, add_language_model, gained, init_weights, load_tokenizer, round_weights, save_model, search_seed,
                       write_images, write_json, write_tokenizer)

STEPS = 14
IMAGE, FAKE = "<image>", "<fake_token_around_image>"

# A prompt's parts: texts, and pictures as (file, seed, width, height, mode).
CASES = [
    dict(name="idefics_qknorm_v5", family="idefics", files="5.23.0", store="bf16", seeds=range(200, 300), resampler=True,
         vision=dict(embed_dim=40, intermediate_size=84, num_hidden_layers=3, num_attention_heads=5, image_size=40, patch_size=8, hidden_act="gelu"),
         text=dict(hidden_size=36, intermediate_size=68, num_hidden_layers=3, num_attention_heads=3, cross_layer_interval=1, qk_layer_norms=True, alpha_type="vector"),
         perceiver=dict(resampler_n_latents=7, resampler_depth=1, resampler_n_heads=2, resampler_head_dim=20, qk_layer_norms_perceiver=True),
         inputs=[("two", ["The assistant compares", ("a.png", 1, 317, 211, "RGB"), ("c.png", 3, 64, 90, "L"), "and then answers:"])]),
    dict(name="idefics_noresampler", family="idefics", files="4.49.0", store="f16", seeds=range(300, 400), resampler=False,
         vision=dict(embed_dim=32, intermediate_size=66, num_hidden_layers=2, num_attention_heads=4, image_size=42, patch_size=14, hidden_act="gelu"),
         text=dict(hidden_size=32, intermediate_size=66, num_hidden_layers=3, num_attention_heads=2, cross_layer_interval=3, qk_layer_norms=True, alpha_type="float"),
         perceiver={}, inputs=[("one", ["User:", ("b.jpg", 2, 97, 143, "RGB"), "What colour is the sky?\nAssistant:"])]),
]


def pictures_of(parts):
    return [part for part in parts if not isinstance(part, str)]


def inputs_of(parts, pictures, tokenizer, processor):
    """What IdeficsProcessor makes of a prompt: texts without blanks at their ends, each picture between two tokens that neighbours share, and a mask by which a
    position sees the last picture before it; behind </s>, none."""
    text, after_picture = "<s>", False
    for part in parts:
        text += part.strip(" ") if isinstance(part, str) else IMAGE + FAKE if after_picture else FAKE + IMAGE + FAKE
        after_picture = not isinstance(part, str)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    mask = torch.zeros(1, len(ids), max(1, len(pictures)), dtype=torch.long)
    seen, ended = -1, False
    for t, token in enumerate(ids):
        if token == tokenizer.convert_tokens_to_ids(IMAGE):
            seen, ended = seen + 1, False
        if seen >= 0 and not ended:
            mask[0, t, seen] = 1
        ended = ended or token == tokenizer.eos_token_id
    pixels = processor(pictures, return_tensors="pt")
    pixels = pixels if torch.is_tensor(pixels) else pixels["pixel_values"]
    return {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long), "pixel_values": pixels[None], "image_attention_mask": mask}


def items_of(case, folder):
    tokenizer = load_tokenizer(folder / "model")
    processor = AutoImageProcessor.from_pretrained(folder / "model", **({"backend": "pil"} if MAJOR >= 5 else {"use_fast": False}))
    items = []
    for name, parts in case["inputs"]:
        pictures = [Image.open(folder / part[0]).convert("RGB") for part in pictures_of(parts)]
        inputs = inputs_of(parts, pictures, tokenizer, processor)
        items.append(dict(name=name, prompt_parts=[part if isinstance(part, str) else {"image": part[0]} for part in parts],
                          images=[part[0] for part in pictures_of(parts)], prompt_decoded=tokenizer.decode(inputs["input_ids"][0]), inputs=inputs))
    return items


def make(case, folder):
    model_folder = folder / "model"
    write_tokenizer("idefics", model_folder, padding_side="left", processor_class="IdeficsProcessor", additional_special_tokens=[FAKE, IMAGE], pad_token="<unk>")
    write_json(model_folder / "preprocessor_config.json",
               dict(image_mean=CLIP_MEAN, image_std=CLIP_STD, image_num_channels=3, image_size=case["vision"]["image_size"],
                    image_processor_type="IdeficsImageProcessor", processor_class="IdeficsProcessor"))
    config = IdeficsConfig(vocab_size=len(load_tokenizer(HERE / "tok" / "idefics")) - 2, additional_vocab_size=2, vision_config=case["vision"],
                           perceiver_config=dict(use_resampler=case["resampler"], **case["perceiver"]), use_resampler=case["resampler"], alpha_initializer="ones",
                           pad_token_id=0, bos_token_id=1, eos_token_id=2, max_position_embeddings=256, rms_norm_eps=1e-6, **case["text"])
    for _, parts in case["inputs"]:
        write_images(folder, pictures_of(parts))

    def build(seed):
        torch.manual_seed(0)
        model = IdeficsForVisionText2Text(config).eval()
        init_weights(model, seed, rules=[(r"alpha_", lambda parameter, x: 0.8 + 0.4 * x), (r"additional_fc", gained(3.0))])
        round_weights(model, case["store"])
        return model

    model = search_seed(build, [item["inputs"] for item in items_of(case, folder)], case["seeds"], STEPS)
    ids = model.generation_config
    ids.pad_token_id, ids.bos_token_id, ids.eos_token_id = 0, 1, 2
    save_model(model, model_folder, case["store"])


def reference(case, folder):
    model = IdeficsForVisionText2Text.from_pretrained(folder / "model", dtype=torch.float32, attn_implementation="eager").eval()
    modules = {f"vision.layer.{i}": f"model.vision_model.encoder.layers.{i}" for i in range(case["vision"]["num_hidden_layers"])}
    modules |= {"vision.embeddings": "model.vision_model.pre_layrnorm"}
    modules |= {"resampler": "model.perceiver_resampler"} if case["resampler"] else {}
    modules |= {f"xattn.{i}": f"model.gated_cross_attn_layers.{i}" for i in range(len(model.model.gated_cross_attn_layers))}
    items, expected = items_of(case, folder), Expected()
    add_language_model(expected, model, load_tokenizer(folder / "model"), items, STEPS, modules)
    for item in items:  # the tower's output is no tensor, but it is what its last layer gives
        expected.add(f"{item['name']}.vision.last_hidden_state", expected.tensors[f"{item['name']}.vision.layer.{case['vision']['num_hidden_layers'] - 1}"],
                     "module output: model.vision_model (5.23 module path)")
    covers = ["image_attention_mask", f"qk_layer_norms {case['text']['qk_layer_norms']}", f"resampler {case['resampler']}", f"alpha {case['text']['alpha_type']}"]
    expected.write(case, folder, "IDEFICS v1", covers, [{key: value for key, value in item.items() if key != "inputs"} for item in items], {})
