"""Trains a small LLaVA-1.5 (arXiv:2310.03744) on the world of shapes and on easy-VQA, and saves it in Hugging Face's format.

    torchrun --nproc-per-node 2 train_llava.py --from RUN/tower.pt --easy-vqa EASY_VQA --state RUN --out shapes-llava --steps 20000

With --resume it continues from the folder of --state. The learning rate is constant until the last quarter of the steps, then falls to
zero; a run that is resumed before that quarter, with more --steps, continues as if they had been asked for at first.

The tower comes from train_tower.py, whose tutor stays with it. Every process computes a part of each batch, on one
core; with `python` in the place of torchrun there is one process.
"""
import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

import batches
import tokenizer as words
import world
from train_tower import RANK, config as tower_config, easy_vqa_labels, heads, patch_labels, see, tutor_for, tutor_losses
from training import Optimizer, learning_rate, start_process


def build(tokenizer: Tokenizer) -> LlavaForConditionalGeneration:
    text = LlamaConfig(vocab_size=tokenizer.get_vocab_size(), hidden_size=160, intermediate_size=352, num_hidden_layers=4,
                       num_attention_heads=5, num_key_value_heads=5, max_position_embeddings=512, rms_norm_eps=1e-5,
                       bos_token_id=1, eos_token_id=2, pad_token_id=tokenizer.token_to_id("<pad>"), initializer_range=0.04,
                       tie_word_embeddings=False)
    # The features are the last layer's: LLaVA takes the last but one because CLIP's last was trained for one pooled vector.
    return LlavaForConditionalGeneration(LlavaConfig(
        vision_config=tower_config(), text_config=text, image_token_index=tokenizer.token_to_id("<image>"), vision_feature_layer=-1,
        vision_feature_select_strategy="default", image_seq_length=batches.IMAGE_TOKENS, tie_word_embeddings=False))


# --- the forward pass, arranged for training -----------------------------------------------------------------------
# It computes what the transformers classes compute (evaluate.py uses those), but the tokens up to the image once per
# picture instead of once per question, and attention as plain matrix products, which train faster than torch's
# fused kernel at these sizes.

def llama_layer(layer, x, rotary, past=None):
    """x (..., T, D), and the keys and values before x, (..., heads, P, d), that each strip of x continues.

    Returns the new x; its keys and values, or where past is given the attention (..., heads, T, P) to what came before."""
    attention, h = layer.self_attn, layer.input_layernorm(x)
    count = attention.config.num_attention_heads
    q, k, v = (heads(linear, h, count) for linear in (attention.q_proj, attention.k_proj, attention.v_proj))
    q, k = apply_rotary_pos_emb(q, k, *rotary)
    q = q * attention.scaling
    causal = torch.ones(x.shape[-2], x.shape[-2], dtype=torch.bool).triu(1)
    scores = (q @ k.mT).float().masked_fill(causal, float("-inf"))                             # (..., heads, T, T)
    if past is None:
        mixed, told = scores.softmax(-1).to(v.dtype) @ v, (k, v)
    else:
        # The strips of one picture share its keys: their queries, (B, heads, S*T, d), meet them in one product.
        pictures, strips, _, length, _ = q.shape
        together = lambda t: t.transpose(1, 2).flatten(2, 3)
        apart = lambda t: t.unflatten(2, (strips, length)).transpose(1, 2)
        before = apart(together(q) @ past[0].mT).float()                                       # (B, S, heads, T, P)
        seen = before.shape[-1]
        p = torch.cat([before, scores], -1).softmax(-1)
        told, p = p[..., :seen], p.to(v.dtype)
        mixed = apart(together(p[..., :seen]) @ past[1]) + p[..., seen:] @ v
    x = x + attention.o_proj(mixed.transpose(-2, -3).flatten(-2))
    return x + layer.mlp(layer.post_attention_layernorm(x)), told


def speak(model, prefix_ids, pixels, *strips):
    """The patches (B, 64, D), and for each group of strips, (b, S, T) with b <= B, the final hidden states, (b, S, T, D),
    the attention of the pointing heads to the prefix, (layers, b, S, heads, T, P), and the hidden states after them."""
    llama = model.model.language_model
    patches = see(model.model.vision_tower, pixels)
    opening = llama.embed_tokens(prefix_ids).expand(len(patches), -1, -1)
    prefix = torch.cat([opening, model.model.multi_modal_projector(patches).to(opening.dtype)], 1)
    seen = prefix.shape[1]
    cos, sin = llama.rotary_emb(prefix, torch.arange(seen + max(t.shape[-1] for t in strips))[None])
    rotary = lambda start, length: (cos[0, start:start + length], sin[0, start:start + length])
    texts, pointing, read = [llama.embed_tokens(t) for t in strips], [[] for _ in strips], [None for _ in strips]
    for number, layer in enumerate(llama.layers):
        prefix, (k, v) = llama_layer(layer, prefix, [t[None] for t in rotary(0, seen)])
        for i, text in enumerate(texts):
            past = k[:len(text)], v[:len(text)]
            texts[i], attention = llama_layer(layer, text, [t[None, None] for t in rotary(seen, text.shape[2])], past)
            if number in POINTING_LAYERS:
                pointing[i].append(attention[:, :, :POINTING_HEADS])
                read[i] = texts[i]
    return patches, *((llama.norm(text), torch.stack(attention), hidden) for text, attention, hidden in zip(texts, pointing, read))


def pointing_loss(attention, looks, ranks):
    """How little of the attention (layers, b, S, heads, T, P) is where the looks (b, S, T) want it, given the rank (B, 64) of
    the object that each patch shows. The patches are the prefix' last tokens; its first stands for "nowhere"."""
    picture, strip, token = looks.nonzero(as_tuple=True)
    seen, wanted = attention[:, picture, strip, :, token], looks[picture, strip, token]        # (tokens, layers, heads, P)
    shown = ranks[picture]
    hit = torch.cat([wanted[:, None] == batches.NOWHERE, torch.zeros(len(wanted), seen.shape[-1] - 1 - shown.shape[1], dtype=torch.bool),
                     (shown >= 0) & (wanted[:, None] >> shown.clamp(min=0) & 1).bool()], 1)
    return -((seen * hit[:, None, None]).sum(-1) + 1e-6).log().mean()


def reading_loss(reader, hidden, looks, labels):
    """How badly a linear head reads, from the hidden states (b, S, T, D) of words that name one object, the labels (B, 64, labels) of
    that object's patches: what the pointing heads should have brought there."""
    picture, strip, token = ((looks > 0) & (looks < batches.NOWHERE) & (looks & looks - 1 == 0)).nonzero(as_tuple=True)
    shows = labels[picture, :, RANK] == looks[picture, strip, token].float().log2().round()[:, None]
    known = shows.any(1)
    wanted = labels[picture, shows.int().argmax(1)]                                            # (words, labels)
    return tutor_losses(reader, hidden[picture, strip, token][known][None], wanted[known][None]).sum()


def predictions(model, hidden, ids, marks):
    """Logits and targets of the marked tokens."""
    before = marks[..., 1:]
    return model.lm_head(hidden[..., :-1, :][before]), ids[..., 1:][before]


# In these layers the first heads are taught where to look, for a word that names objects (see batches.py), and a second tutor, the reader, asks
# that word what has been seen there. Left to itself the language model needs very long to discover that words point at places.
POINTING_LAYERS, POINTING_HEADS = (1, 2), 2


# --- training -------------------------------------------------------------------------------------------------------

@torch.no_grad()
def check(model, tokenizer, pictures=300):
    """Greedy accuracy per kind of question and of whole captions, on pictures that are never trained on.

    A reply is greedy-decoded correctly if and only if each of its tokens is the most likely one after the right ones
    before it, so one forward pass per question is enough.
    """
    strips = batches.Strips(tokenizer)
    prefix = torch.tensor([strips.prefix])
    rng = np.random.default_rng(2**40)
    right = {kind: [] for kind in world.KINDS + ["caption"]}
    for _ in range(pictures):
        scene = world.sample_scene(rng)
        asked = list(filter(None, (world.ask(rng, scene, kind) for kind in world.KINDS)))
        asked.append(world.Asked(world.CAPTION_PROMPTS[0], world.caption(scene), "caption", [], []))
        pixels = torch.from_numpy(batches.model_size(world.draw(scene)))[None]
        turns = list(strips.turns(asked, first=True))
        ids, _, marks = (t[None] for t in strips.pad(turns, max(len(ids) for ids, _ in turns)))
        _, (hidden, *_) = speak(model, prefix, batches.normalise(pixels), ids)
        correct = model.lm_head(hidden[:, :, :-1]).argmax(-1) == ids[:, :, 1:]
        for a, ok in zip(asked, (correct | ~marks[:, :, 1:]).all(-1)[0]):
            right[a.kind].append(ok.item())
    mean = lambda kinds: float(np.mean([r for kind in kinds for r in right[kind]]))
    return mean(world.NON_RELATIONAL), mean(world.RELATIONAL), mean(["caption"]), {k: round(mean([k]), 3) for k in right}


RELEASED_NAMES = [                     # transformers 5 writes the names on the left; released checkpoints have those on the right
    ("model.language_model.", "language_model.model."), ("lm_head.", "language_model.lm_head."),
    ("model.vision_tower.vision_model.", "vision_tower.vision_model."), ("model.vision_tower.", "vision_tower.vision_model."),
    ("vision_tower.vision_model.", "vision_tower.vision_model."), ("vision_tower.", "vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
]


def export(model, tokenizer, weights, folder: Path):
    """Writes a folder like llava-hf/llava-1.5-7b-hf's, in bfloat16."""
    words.save(tokenizer, folder)
    tensors = {}
    for name, tensor in weights.items():
        for ours, released in RELEASED_NAMES:
            if name.startswith(ours):
                name = released + name[len(ours):]
                break
        tensors[name] = tensor.detach().to(torch.bfloat16).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    write = lambda name, content: (folder / name).write_text(json.dumps(content, indent=1) + "\n")
    keep = lambda part, keys: {key: getattr(part, key) for key in keys.split()}
    vision, text = model.config.vision_config, model.config.text_config
    write("config.json", {
        "architectures": ["LlavaForConditionalGeneration"], "model_type": "llava",
        "image_token_index": tokenizer.token_to_id("<image>"), "image_seq_length": batches.IMAGE_TOKENS,
        "projector_hidden_act": "gelu", "multimodal_projector_bias": True, "tie_word_embeddings": False,
        "vision_feature_layer": -1, "vision_feature_select_strategy": "default",
        "text_config": {"architectures": ["LlamaForCausalLM"], "rope_theta": 10000.0, "torch_dtype": "bfloat16", **keep(
            text, "model_type vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads "
            "head_dim hidden_act max_position_embeddings rms_norm_eps bos_token_id eos_token_id pad_token_id attention_bias mlp_bias "
            "tie_word_embeddings")},
        "vision_config": {"torch_dtype": "bfloat16", **keep(
            vision, "model_type hidden_size intermediate_size num_hidden_layers num_attention_heads image_size patch_size "
            "num_channels projection_dim hidden_act layer_norm_eps")},
        "torch_dtype": "bfloat16", "transformers_version": "4.49.0"})
    write("generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": text.pad_token_id})
    write("preprocessor_config.json", {
        "image_processor_type": "CLIPImageProcessor", "processor_class": "LlavaProcessor", "do_convert_rgb": True,
        "do_resize": True, "size": {"shortest_edge": batches.IMAGE_SIZE}, "resample": 3,
        "do_center_crop": True, "crop_size": {"height": batches.IMAGE_SIZE, "width": batches.IMAGE_SIZE},
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]})
    write("processor_config.json", {
        "image_token": "<image>", "patch_size": batches.PATCH_SIZE, "num_additional_image_tokens": 1,
        "processor_class": "LlavaProcessor", "vision_feature_select_strategy": "default"})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="origin", type=Path, help="what to begin with: train_tower.py's result, or a model folder to train further")
    parser.add_argument("--easy-vqa", type=Path, required=True, help="easy-VQA's data folder, with train/ inside")
    parser.add_argument("--state", type=Path, required=True, help="folder for the training state")
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write")
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--batch", type=int, default=16, help="pictures per step and process; an eighth of them easy-VQA's")
    parser.add_argument("--simple-steps", type=int, default=1000, help="steps that ask the simple questions alone: see batches.SIMPLE")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()

    rank, processes = start_process()
    args.state.mkdir(parents=True, exist_ok=True)
    easy_vqa = batches.EasyVqa(args.easy_vqa / "train")
    tokenizer_file = args.state / "tokenizer.json"
    further = args.origin and args.origin.is_dir()
    if rank == 0 and further:
        tokenizer_file.write_bytes((args.origin / "tokenizer.json").read_bytes())
    elif rank == 0 and not tokenizer_file.exists():
        words.train(sorted({qa for asked in easy_vqa.questions.values() for qa in asked})).save(str(tokenizer_file))
    if processes > 1:
        dist.barrier()
    tokenizer = Tokenizer.from_file(str(tokenizer_file))

    model = LlavaForConditionalGeneration.from_pretrained(args.origin, dtype=torch.float32) if further else build(tokenizer)
    tutor, reader, start = tutor_for(model.model.vision_tower), tutor_for(model.model.language_model), 0
    if args.origin and not further:
        state = torch.load(args.origin)
        model.model.vision_tower.load_state_dict(state["averaged"])
        tutor.load_state_dict(state["tutor"])
    optimizer = Optimizer([model, tutor, reader], unused=["post_layernorm"])
    if args.resume:
        state = torch.load(args.state / "state.pt")
        model.load_state_dict(state["model"])
        tutor.load_state_dict(state["tutor"])
        reader.load_state_dict(state["reader"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]

    easy = args.batch // 8
    data = batches.Batches(tokenizer, easy_vqa, seed=(1, rank), pictures=args.batch - easy, easy_pictures=easy,
                           captioned=args.batch // 2, simple_steps=args.simple_steps, label=patch_labels,
                           easy_label=easy_vqa_labels)
    loader = DataLoader(data, batch_size=None, sampler=range(start, args.steps), num_workers=1, prefetch_factor=16)
    prefix = torch.tensor([data.strips.prefix])
    compiled = torch.compile(speak)
    judge = build(tokenizer).eval()

    losses, clock = [], time.time()
    for step, (labels, pixels, *strips) in enumerate(loader, start):
        with torch.autocast("cpu", torch.bfloat16):
            patches, *spoken = compiled(model, prefix, batches.normalise(pixels), *(ids for ids, _, _ in strips))
            pairs = [predictions(model, hidden, ids, marks) for (hidden, *_), (ids, _, marks) in zip(spoken, strips)]
            patch_loss = tutor_losses(tutor, patches, labels).sum()
            read = sum(reading_loss(reader, hidden, looks, labels) for (_, _, hidden), (_, looks, _) in zip(spoken, strips))
        told = [F.cross_entropy(logits.float(), targets) for logits, targets in pairs]
        pointed = [pointing_loss(attention, looks, labels[..., RANK]) for (_, attention, _), (_, looks, _) in zip(spoken, strips)]
        optimizer.step(sum(told) + sum(pointed) + 0.3 * read + patch_loss, learning_rate(step, args.steps, args.lr), step)
        losses.append([loss.item() for loss in (*told, *pointed, read / len(strips), patch_loss)])

        if rank == 0 and (step + 1) % 100 == 0:
            answers, captions_, *pointed, read, seen = np.mean(losses, 0)
            print(f"step {step + 1}  answers {answers:.4f}  captions {captions_:.4f}  pointing {pointed[0]:.3f} {pointed[1]:.3f}  "
                  f"reading {read:.3f}  patches {seen:.3f}  {(time.time() - clock) * 10:.0f} ms/step", flush=True)
            losses, clock = [], time.time()
        if rank == 0 and ((step + 1) % 500 == 0 or step + 1 == args.steps):
            averaged = optimizer.averaged()
            judge.load_state_dict({name: tensor.to(torch.bfloat16).float() for name, tensor in averaged.items()})
            simple, relational, captions_right, kinds = check(judge, tokenizer)
            print(f"step {step + 1}  non-relational {simple:.4f}  relational {relational:.4f}  captions {captions_right:.4f}  {kinds}",
                  flush=True)
            export(judge, tokenizer, averaged, args.out)
            torch.save({"model": model.state_dict(), "tutor": tutor.state_dict(), "reader": reader.state_dict(), "optimizer": optimizer.state_dict(),
                        "step": step + 1}, args.state / "state.part")
            (args.state / "state.part").replace(args.state / "state.pt")
            clock = time.time()


if __name__ == "__main__":
    main()
