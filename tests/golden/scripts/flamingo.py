"""OpenFlamingo, through its own code: cases of their own, because that code runs under transformers 4 alone.

    OPEN_FLAMINGO=CHECKOUT python flamingo.py OUT [case ...]

CHECKOUT: https://github.com/mlfoundations/open_flamingo at 655f693. Beside transformers 4.49.0 and what README.md names with it:
open_clip_torch einops==0.8.2 einops-exts==0.0.4 timm==1.0.31 ftfy==6.3.1. open_clip_torch is 2.16.0 for of_mpt7b, 3.3.0 for of_opt_lnpost: cases of
the other version are left out. Writes model/ and pictures, reads them back, and computes the expectations.
"""

import contextlib
import io
import json
import os
import shutil
import sys
import types
from importlib.metadata import version
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import MptConfig, MptForCausalLM, OPTConfig, OPTForCausalLM

import open_clip
from reference import HERE, STORED, Expected, constant, init_weights, load_tokenizer, round_weights, save_model, scaled, write_images, write_json, write_tokenizer

CHECKOUT = os.environ["OPEN_FLAMINGO"]
# Without the package's own __init__, which wants the training's and evaluation's dependencies.
package = types.ModuleType("open_flamingo")
package.__path__ = [f"{CHECKOUT}/open_flamingo"]
sys.modules["open_flamingo"] = package
from open_flamingo.src.factory import create_model_and_transforms

STEPS = 12
VISION = dict(image_size=42, layers=2, width=16, head_width=8, patch_size=14, mlp_ratio=4)
A, B, C = ("a.png", 1, 317, 211, "RGB"), ("b.jpg", 2, 97, 143, "RGB"), ("c.png", 3, 64, 90, "L")
SHOTS = "<image>Output:a photo of a cat.<|endofchunk|><image>Output:two dogs near the river.<|endofchunk|><image>Output:"
ANSWERS = "<image>Question:what is it? Short answer:a castle<|endofchunk|><image>Question:how many birds? Short answer:"
# `seed`: the first from 300, 400 on whose greedy answer is clear at every step, varied, and depends on the pictures.
CASES = [
    dict(name="of_mpt7b", open_clip="2.16.0", lm="mpt", tokenizer="neox", every=4, store="bf16", seed=300, all_previous=False, inputs=[("shots", ANSWERS, [B, A])],
         text=dict(d_model=32, n_heads=4, n_layers=5, expansion_ratio=4)),
    dict(name="of_opt_lnpost", open_clip="3.3.0", lm="opt", tokenizer="opt", every=2, store="f16", seed=400, all_previous=True, inputs=[("shots", SHOTS, [C, B, A])],
         text=dict(hidden_size=32, ffn_dim=66, num_hidden_layers=4, num_attention_heads=4, word_embed_proj_dim=32)),
]


def language_model(case, vocabulary):
    if case["lm"] == "mpt":
        model = MptForCausalLM(MptConfig(vocab_size=vocabulary, max_seq_len=256, no_bias=True, tie_word_embeddings=True, **case["text"]))
    else:
        model = OPTForCausalLM(OPTConfig(vocab_size=vocabulary, max_position_embeddings=256, pad_token_id=1, bos_token_id=2, eos_token_id=2, **case["text"]))
    model.tie_weights()
    init_weights(model.eval(), case["seed"], gain=1.8, emb=0.35, rules=[(r"embed_in", scaled(0.6)), (r"wte", scaled(0.4))])
    round_weights(model, case["store"])
    return model


def assemble(case, model_folder, scratch):
    """OpenFlamingo's model of the parts on disk, its picture transform, its tokenizer."""
    tower = {name: tensor.float() for name, tensor in load_file(model_folder / "vision" / "open_clip_model.safetensors").items()}
    torch.save(tower, scratch / "tower.pt")
    with contextlib.redirect_stdout(io.StringIO()):
        model, transform, tokenizer = create_model_and_transforms(f"tiny_{case['name']}", str(scratch / "tower.pt"), str(model_folder / "lm"), str(model_folder / "lm"),
                                                                  cross_attn_every_n_layers=case["every"])
    model = model.float().eval()
    for layer in model.lang_encoder.gated_cross_attn_layers:
        if layer is not None:
            layer.attn.only_attend_immediate_media = not case["all_previous"]
    model.lang_encoder.generation_config.eos_token_id = model.eoc_token_id
    model.lang_encoder.generation_config.pad_token_id = tokenizer.pad_token_id
    tokenizer.padding_side = "left"
    return model, transform, tokenizer


def train(model, case):
    """Values for all that training would have changed."""
    generator = torch.Generator().manual_seed(case["seed"] + 9000)
    for name, parameter in model.named_parameters():
        new = name.startswith("perceiver") or "gated_cross_attn_layer" in name
        if not new and not ("wte" in name or "embed" in name.split(".")[-2] and "position" not in name):
            continue
        x = torch.randn(parameter.shape, generator=generator)
        if name.endswith("_gate"):
            value = 0.7 + 0.3 * x
        elif name.endswith("latents"):
            value = 0.8 * x
        elif not new:
            value = 0.4 * x
        elif parameter.ndim == 1:
            value = 1 + 0.15 * x if name.endswith("weight") else 0.1 * x
        else:
            value = 1.5 / parameter.shape[1] ** 0.5 * x
        parameter.data.copy_(value.to(STORED[case["store"]]).float())


def trained_part(model):
    """What its train_utils.filter_state_dict_to_trainable keeps."""
    state = dict(model.state_dict())
    for name, parameter in model.named_parameters():
        if not ("embed" in name or isinstance(parameter, torch.nn.Embedding)) and not parameter.requires_grad:
            state.pop(name, None)
    twice = ("lang_encoder.old_decoder_blocks", "lang_encoder.gated_cross_attn_layers", "vision_encoder")
    return {name: tensor for name, tensor in state.items() if not any(part in name for part in twice)}


class Answering:
    """Flamingo.generate() as `reference.generate` calls it."""

    def __init__(self, model):
        self.model, self.language_model = model, model.lang_encoder

    def generate(self, vision_x, input_ids, attention_mask, **arguments):
        eos = self.language_model.generation_config.eos_token_id
        return self.model.generate(vision_x, input_ids, attention_mask=attention_mask, eos_token_id=eos, **arguments)


def build(case, folder):
    model_folder, scratch = folder / "model", folder / "scratch"
    scratch.mkdir(parents=True)
    (model_folder / "lm").mkdir(parents=True)
    (model_folder / "vision").mkdir()
    for _, _, pictures in case["inputs"]:
        write_images(folder, pictures)
    write_tokenizer(case["tokenizer"], model_folder / "lm", tokenizer_class="PreTrainedTokenizerFast")
    settings = {"embed_dim": 12, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}}
    write_json(scratch / "settings" / f"tiny_{case['name']}.json", settings)
    open_clip.add_model_config(str(scratch / "settings" / f"tiny_{case['name']}.json"))
    colours = {"mean": list(open_clip.OPENAI_DATASET_MEAN), "std": list(open_clip.OPENAI_DATASET_STD)}
    write_json(model_folder / "vision" / "open_clip_config.json", {"model_cfg": settings, "preprocess_cfg": colours})

    torch.manual_seed(case["seed"])
    tower = open_clip.create_model(f"tiny_{case['name']}")
    init_weights(tower, case["seed"] + 5000,
                 rules=[(r"logit_scale$", constant(2.66)), (r"visual\.(class_embedding|positional_embedding)", scaled(0.5)), (r"visual.proj", scaled(0.2)),
                        (r"^positional_embedding", scaled(0.4))])
    round_weights(tower, case["store"])
    stored = STORED[case["store"]]
    save_file({name: tensor.to(stored).contiguous().clone() for name, tensor in tower.state_dict().items()}, model_folder / "vision" / "open_clip_model.safetensors",
              metadata={"format": "pt"})
    # More rows than the tokenizer has tokens, as released ones: they are cut off.
    save_model(language_model(case, len(load_tokenizer(HERE / "tok" / case["tokenizer"])) + 19), model_folder / "lm", case["store"])

    model, _, tokenizer = assemble(case, model_folder, scratch)
    train(model, case)
    torch.save({name: tensor.to(stored).clone().contiguous() for name, tensor in trained_part(model).items()}, model_folder / "checkpoint.pt")
    tokenizer([case["inputs"][0][1]], padding="longest")  # the file keeps it
    tokenizer.save_pretrained(model_folder / "tokenizer_with_special_tokens")
    config = dict(vision="vision", lm="lm", checkpoint="checkpoint.pt", cross_attn_every_n_layers=case["every"], media_token="<image>", media_token_id=model.media_token_id,
                  eoc_token="<|endofchunk|>", eoc_token_id=model.eoc_token_id, pad_token=tokenizer.pad_token, pad_token_id=tokenizer.pad_token_id,
                  vocab_size_after_resize=len(tokenizer), only_attend_immediate_media=not case["all_previous"], vision_tokens_ln_post=case["open_clip"] == "3.3.0",
                  checkpoint_keys_have_module_prefix=False)
    write_json(model_folder / "flamingo_config.json", config)

    model, transform, tokenizer = assemble(case, model_folder, scratch)
    model.load_state_dict(torch.load(model_folder / "checkpoint.pt"), strict=False)
    reference(case, folder, model.float().eval(), transform, tokenizer, config)
    shutil.rmtree(scratch)


def reference(case, folder, model, transform, tokenizer, config):
    expected, items = Expected(), []
    layers = model.lang_encoder._get_decoder_layers()
    modules = {f"vision.layer.{i}": model.vision_encoder.transformer.resblocks[i] for i in range(VISION["layers"])}
    modules |= {"vision.tokens": model.vision_encoder, "perceiver": model.perceiver}
    for i, layer in enumerate(layers):
        modules[f"lm.layer.{i}"] = layer
        if layer.gated_cross_attn_layer is not None:
            modules[f"xattn.{i}"] = layer.gated_cross_attn_layer
    for name, prompt, pictures in case["inputs"]:
        vision_x = torch.stack([transform(Image.open(folder / picture[0])) for picture in pictures])[None, :, None]
        inputs = dict(vision_x=vision_x, **tokenizer([prompt], padding="longest", return_tensors="pt"))
        inputs["attention_mask"] = inputs["attention_mask"].bool()
        inputs.pop("token_type_ids", None)
        expected.add_inputs(name, inputs)
        seen, hooks = {}, []
        for tensor_name, module in modules.items():
            def keep(module, arguments, output, key=tensor_name):
                seen.setdefault(key, output[1] if key == "vision.tokens" else output[0] if isinstance(output, tuple) else output)
            hooks.append(module.register_forward_hook(keep))
        output = model(inputs["vision_x"], inputs["input_ids"], attention_mask=inputs["attention_mask"])
        for hook in hooks:
            hook.remove()
        for tensor_name, tensor in seen.items():
            if tensor_name.startswith("vision.layer") and case["open_clip"] == "2.16.0":
                tensor = tensor.transpose(0, 1)  # (tokens, pictures, width) inside
            expected.add(f"{name}.{tensor_name}", tensor, "module output")
        expected.add(f"{name}.logits", output.logits, "logits of the prompt")
        items.append(dict(name=name, prompts=[prompt], images=[[picture[0] for picture in pictures]], inputs=inputs))
    answering = Answering(model)
    expected.add_runs(answering, tokenizer, items, STEPS)
    first = (answering, tokenizer, items[0]["inputs"], items[0]["name"])
    end = {"eos_token_id": [model.eoc_token_id]}
    for record in (expected.first_robust(*first, "default_eoc", [dict(max_new_tokens=STEPS, **end)], varied=False),
                   expected.first_robust(*first, "beam_length_penalty", [dict(max_new_tokens=8, num_beams=3, length_penalty=-2.0, **end)])):
        if record:
            record["generate"]["eos_token_id"] = "config"  # what a pipeline ends at by itself
    inputs = [{key: value for key, value in item.items() if key != "inputs"} for item in items]
    covers = ["media_locations", "few-shot", f"only_attend_immediate_media={not case['all_previous']}"]
    expected.write(dict(case, family="open_flamingo", files="4.49.0"), folder, f"OpenFlamingo, {case['lm']} LM, cross attention every {case['every']} layers", covers, inputs,
                   {"open_clip": case["open_clip"], "flamingo": config})


def main(out, *names):
    torch.set_num_threads(1)
    for case in CASES:
        if names and case["name"] not in names or version("open_clip_torch") != case["open_clip"]:
            continue
        shutil.rmtree(Path(out) / case["name"], ignore_errors=True)
        build(case, Path(out) / case["name"])
        print(case["name"], flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
