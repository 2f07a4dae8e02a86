"""CLIP and SigLIP: embeddings and states of both towers, similarities of pictures and texts."""

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel, CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from reference import (CLIP_MEAN, CLIP_STD, HERE, Expected, constant, init_weights, load_tokenizer, save_model, write_images, write_json,
                       write_tokenizer)

TEXTS = ["a photo of a cat", "The small red bicycle near the old castle!", "naïve café 图 12", "two dogs"]

# files: the version of transformers that writes model/. old_eos: the ids of all released OpenAI configs, where eos_token_id 2
# means "the largest id". Pictures: (file, seed, width, height, mode).
CASES = [
    dict(name="clip_quickgelu", family="clip", files="4.49.0", store="f32", seed=11, act="quick_gelu", old_eos=True, projection=40,
         vision=dict(hidden_size=32, intermediate_size=70, num_hidden_layers=3, num_attention_heads=4, image_size=42, patch_size=14),
         text=dict(hidden_size=36, intermediate_size=78, num_hidden_layers=2, num_attention_heads=4),
         images=[("a.png", 1, 317, 211, "RGB"), ("b.jpg", 2, 97, 143, "RGB"), ("c.png", 3, 64, 90, "L")]),
    dict(name="clip_gelu", family="clip", files="5.23.0", store="bf16", seed=12, act="gelu", old_eos=False, projection=32,
         vision=dict(hidden_size=40, intermediate_size=82, num_hidden_layers=2, num_attention_heads=5, image_size=32, patch_size=8),
         text=dict(hidden_size=24, intermediate_size=50, num_hidden_layers=2, num_attention_heads=3),
         images=[("a.png", 4, 131, 77, "RGBA"), ("b.png", 5, 60, 60, "P")]),
    dict(name="siglip", family="siglip", files="4.49.0", store="f32", seed=13,
         vision=dict(hidden_size=32, intermediate_size=82, num_hidden_layers=3, num_attention_heads=4, image_size=36, patch_size=9),
         text=dict(hidden_size=32, intermediate_size=66, num_hidden_layers=2, num_attention_heads=4),
         images=[("a.png", 6, 200, 101, "RGB"), ("b.jpg", 7, 90, 33, "RGB")]),
]


def make(case, folder):
    (make_clip if case["family"] == "clip" else make_siglip)(case, folder / "model")
    write_images(folder, case["images"])


def make_clip(case, model_folder):
    tokenizer = load_tokenizer(HERE / "tok/clip")
    eot = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    if case["old_eos"]:
        ids = dict(bos_token_id=0, eos_token_id=2, pad_token_id=1)
    else:
        ids = dict(bos_token_id=eot - 1, eos_token_id=eot, pad_token_id=eot)
    size, common = case["vision"]["image_size"], dict(hidden_act=case["act"], projection_dim=case["projection"])
    text = dict(vocab_size=len(tokenizer), max_position_embeddings=33, **case["text"], **common, **ids)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=case["vision"] | common, projection_dim=case["projection"])).eval()
    init_weights(model, case["seed"], rules=[(r"logit_scale$", constant(2.6592))])
    save_model(model, model_folder, case["store"])
    write_tokenizer("clip", model_folder, model_max_length=33)

    processor = dict(crop_size={"height": size, "width": size}, do_center_crop=True, do_convert_rgb=True, do_normalize=True, do_rescale=True,
                     do_resize=True, feature_extractor_type="CLIPFeatureExtractor", image_mean=CLIP_MEAN, image_std=CLIP_STD,
                     image_processor_type="CLIPImageProcessor", resample=3, rescale_factor=1 / 255, size={"shortest_edge": size})
    if case["old_eos"]:
        # The oldest released form has plain integers, and its weights hold two buffers.
        processor |= dict(crop_size=size, size=size)
        for key in ("do_rescale", "rescale_factor", "do_convert_rgb", "image_processor_type"):
            del processor[key]
        path = model_folder / "model.safetensors"
        tensors = load_file(path)
        tensors["text_model.embeddings.position_ids"] = torch.arange(33)[None]
        tensors["vision_model.embeddings.position_ids"] = torch.arange((size // case["vision"]["patch_size"]) ** 2 + 1)[None]
        save_file(tensors, path, metadata={"format": "pt"})
    write_json(model_folder / "preprocessor_config.json", processor)


def make_siglip(case, model_folder):
    size = case["vision"]["image_size"]
    text = dict(vocab_size=len(load_tokenizer(HERE / "tok/siglip")), max_position_embeddings=24, projection_size=case["vision"]["hidden_size"], **case["text"])
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=case["vision"])).eval()
    init_weights(model, case["seed"], rules=[(r"logit_scale$", constant(2.3)), (r"logit_bias$", constant(-4.0))])
    save_model(model, model_folder, case["store"])
    write_tokenizer("siglip", model_folder, model_max_length=24)
    write_json(model_folder / "preprocessor_config.json",
               dict(do_normalize=True, do_rescale=True, do_resize=True, image_mean=[0.5] * 3, image_std=[0.5] * 3,
                    image_processor_type="SiglipImageProcessor", processor_class="SiglipProcessor", resample=3, rescale_factor=1 / 255,
                    size={"height": size, "width": size}))


def reference(case, folder):
    model_folder, is_clip = folder / "model", case["family"] == "clip"
    model = AutoModel.from_pretrained(model_folder, dtype=torch.float32, attn_implementation="eager").eval()
    images = [Image.open(folder / image[0]) for image in case["images"]]
    if not is_clip:
        images = [image.convert("RGB") for image in images]
    import torchvision  # noqa: F401: without it, transformers would give Pillow's pixels under torchvision's name

    pil, tensor = (AutoImageProcessor.from_pretrained(model_folder, backend=backend)(images, return_tensors="pt")["pixel_values"]
                   for backend in ("pil", "torchvision"))
    padding = dict(padding=True) if is_clip else dict(padding="max_length", max_length=24, truncation=True)
    text = load_tokenizer(model_folder)(TEXTS, return_tensors="pt", **padding)
    text.pop("token_type_ids", None)
    if not is_clip:
        del text["attention_mask"]  # SigLIP attends to the padding

    output = model(pixel_values=pil, **text, output_hidden_states=True)
    expected = Expected()
    expected.add("pixel_values", pil, "PIL backend (the one the model was run on)")
    expected.add("pixel_values_torchvision", tensor, "torchvision backend (default of transformers 5)")
    expected.add_inputs("text", text)
    vision, words = output.vision_model_output, output.text_model_output
    for i, state in enumerate(vision.hidden_states):
        expected.add(f"vision.hidden.{i}", state, "hidden_states[i] of the vision encoder (0 = after embeddings and pre-layernorm)")
    for i, state in enumerate(words.hidden_states):
        expected.add(f"text.hidden.{i}", state)
    expected.add("vision.last_hidden_state", vision.last_hidden_state, "CLIP: NOT post-layernormed; SigLIP: after post_layernorm")
    expected.add("vision.pooler_output", vision.pooler_output)
    expected.add("text.last_hidden_state", words.last_hidden_state, "after final_layer_norm")
    expected.add("text.pooler_output", words.pooler_output)
    expected.add("image_embeds", output.image_embeds, "normalised")
    expected.add("text_embeds", output.text_embeds, "normalised")
    expected.add("logits_per_image", output.logits_per_image)
    expected.add("logits_per_text", output.logits_per_text)
    difference = int((pil - tensor).abs().max().item() * 1e6) / 1e6
    inputs = [{"name": "text", "texts": TEXTS, "images": [image[0] for image in case["images"]], "padding": "longest" if is_clip else "max_length"}]
    expected.write(case, folder, f"{case['family']} dual encoder", [], inputs, {"pil_vs_torchvision_max_abs": difference})
