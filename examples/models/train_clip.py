"""Trains a small CLIP (arXiv:2103.00020) on the world of shapes: pictures, their captions, and shorter words that a search would use.

    python train_clip.py --llava shapes-llava --state RUN1 --out first --steps 300 --searches softmax --inventory 0
    python train_clip.py --llava shapes-llava --from first --state RUN2 --out second --steps 100 --inventory 0
    python train_clip.py --llava shapes-llava --from second --state RUN3 --out shapes-clip --steps 740 --tutor 0

The vision tower begins with shapes-llava's, the text tower with nothing. A batch holds pictures and, for each second one, a sibling that differs in
one object, so that a caption has to be told from one that is nearly right. The losses:
  captions   CLIP's: which caption of the batch belongs to a picture, and which picture to a caption
  searches   "two red stars", "a small circle at the left": the pictures of the batch that show it, and those alone, are to come first;
             by a softmax with several right ones, or by their order alone
  inventory  the same without words: for each thing that can be said of one object a tutor has a direction of its own
  objects    a linear tutor, the same for pictures and captions, reads the objects from left to right from the embedding

One process on one core; with --resume it continues from the folder of --state.
"""
import argparse
import json
import time
from dataclasses import replace
from itertools import product
from math import hypot, log
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPConfig, CLIPModel, LlavaForConditionalGeneration

import batches
import world
from train_tower import UNKNOWN, blocks
from training import Optimizer, learning_rate, start_process

START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
LENGTH = 77


# --- the world ------------------------------------------------------------------------------------------------------

def sibling(rng, scene: world.Scene) -> world.Scene:
    """The same picture, but for one object: another shape, another colour, another size, elsewhere, or gone."""
    for _ in range(20):
        objects = list(scene.objects)
        i = rng.integers(len(objects))
        o, change = objects.pop(i), rng.random()
        if change < 0.25:
            new = replace(o, shape=world.SHAPES[rng.integers(len(world.SHAPES))])
        elif change < 0.75:
            new = world.place(rng, objects)
            if new is not None and change < 0.5:                                               # another colour, in its old place
                new = replace(o, colour=new.colour, rgb=new.rgb)
            elif new is not None:                                                              # another place, and the old look
                new = replace(new, shape=o.shape, colour=o.colour, rgb=o.rgb)
        elif change < 0.9:
            size = "small" if o.size == "large" else "large"
            new = replace(o, size=size, radius=float(rng.uniform(*world.SIZES[size])))
            margin = new.radius + 3
            if not (margin <= o.x <= world.CANVAS - margin and margin <= o.y <= world.CANVAS - margin):
                continue
            if any(hypot(o.x - p.x, o.y - p.y) < new.radius + p.radius + world.GAP for p in objects):
                continue
        elif objects:
            return replace(scene, objects=objects)
        else:
            continue
        if new is not None:
            return replace(scene, objects=sorted(objects + [new], key=lambda o: o.x))
    return scene


# --- the tokenizer --------------------------------------------------------------------------------------------------

def train_tokenizer() -> Tokenizer:
    """CLIP's: lower case, byte-level BPE in which the last symbol of a word is another one. Every word of the world is one token."""
    tokenizer = Tokenizer(models.BPE(unk_token=END, continuing_subword_prefix="", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(WORDS), "removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    rng = np.random.default_rng(0)
    scenes = [world.sample_scene(rng) for _ in range(2000)]
    texts = [world.caption(scene) for scene in scenes] + [world.search(rng, scene).text for scene in scenes for _ in range(4)]
    texts += ["grey color colour center centre image picture photo drawing object objects shape shapes rectangle side half"] * 10
    trainer = trainers.BpeTrainer(vocab_size=2000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in json.loads(tokenizer.to_str())["model"]["merges"]]

    # CLIP's order: the bytes, the bytes that end a word, the merges, the two special tokens.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    bytes_ = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    vocabulary = bytes_ + [b + "</w>" for b in bytes_] + ["".join(m) for m in merges]
    tokenizer.model = models.BPE(vocab={token: i for i, token in enumerate(vocabulary + [START, END])}, merges=merges, unk_token=END,
                                 continuing_subword_prefix="", end_of_word_suffix="</w>")
    tokenizer.add_special_tokens([START, END])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing((END, tokenizer.token_to_id(END)), (START, tokenizer.token_to_id(START)), False, False)
    return tokenizer


# --- batches --------------------------------------------------------------------------------------------------------

# What can be said of one object, each part or nothing of it.
PLACES = [None, "top", "bottom", "left", "right", "top left", "top right", "bottom left", "bottom right"]
INVENTORY = [(size, colour, shape, place) for size in [None, *world.SIZES] for colour in [None, *world.COLOURS] for shape in [None, *world.SHAPES]
             for place in PLACES]
INVENTORY_INDEX = {entry: i for i, entry in enumerate(INVENTORY)}


def inventory(scene: world.Scene) -> np.ndarray:
    """(len(INVENTORY),): what is true of some object of the scene."""
    shown = np.zeros(len(INVENTORY), bool)
    for o in scene.objects:
        for entry in product((None, o.size), (None, o.colour), (None, o.shape), (None, o.side, *o.side.split())):
            shown[INVENTORY_INDEX[entry]] = True
    return shown


OBJECTS, SIDES = 6, ["top left", "top right", "bottom left", "bottom right"]
SCENE_LABELS = {"count": OBJECTS + 1} | {f"{attribute} {i}": n for i in range(OBJECTS) for attribute, n in
                                         (("shape", len(world.SHAPES)), ("colour", len(world.COLOURS)), ("size", 2), ("side", len(SIDES)))}


def scene_labels(scene: world.Scene) -> np.ndarray:
    labels = np.full(len(SCENE_LABELS), UNKNOWN)
    labels[0] = len(scene.objects)
    for i, o in enumerate(scene.objects):
        labels[1 + 4 * i:5 + 4 * i] = (world.SHAPES.index(o.shape), list(world.COLOURS).index(o.colour), int(o.size == "large"), SIDES.index(o.side))
    return labels


class Pairs(Dataset):
    """(pixels, caption ids of either half, which captions are the same (B, B), search ids, what is found (searches, B), object labels, inventories).

    Batch number i depends on (seed, i) alone.
    """

    def __init__(self, tokenizer, seed, pictures):
        self.tokenizer, self.seed, self.pictures = tokenizer, seed, pictures

    def encode(self, texts):
        rows = [e.ids for e in self.tokenizer.encode_batch(texts)]
        ids = torch.full((len(rows), max(map(len, rows))), self.tokenizer.token_to_id(END))
        for row, tokens in zip(ids, rows):
            row[:len(tokens)] = torch.tensor(tokens)
        return ids

    def __getitem__(self, step):
        rng = np.random.default_rng((*self.seed, step))
        scenes = [world.sample_scene(rng) for _ in range(self.pictures // 2)]
        scenes += [sibling(rng, scene) for scene in scenes]
        # Neighbours have about as many objects, so that half the captions can be padded to less.
        scenes.sort(key=lambda scene: len(scene.objects))
        captions = [world.caption(scene) for scene in scenes]
        searches = [world.search(rng, scene) for scene in scenes]
        found = torch.tensor([[s.finds(scene) for scene in scenes] for s in searches])
        same = torch.tensor([[a == b for b in captions] for a in captions])
        half = len(captions) // 2
        return (torch.from_numpy(np.stack([batches.model_size(world.draw(scene)) for scene in scenes])),
                (self.encode(captions[:half]), self.encode(captions[half:])), same, self.encode([s.text for s in searches]), found,
                torch.from_numpy(np.stack([scene_labels(scene) for scene in scenes])),
                torch.from_numpy(np.stack([inventory(scene) for scene in scenes])))


# --- the model ------------------------------------------------------------------------------------------------------

def build(tokenizer, vision) -> CLIPModel:
    width, end = 160, tokenizer.token_to_id(END)
    text = dict(vocab_size=tokenizer.get_vocab_size(), hidden_size=width, intermediate_size=400, num_hidden_layers=3, num_attention_heads=5,
                max_position_embeddings=LENGTH, hidden_act="gelu", projection_dim=width, bos_token_id=tokenizer.token_to_id(START),
                eos_token_id=end, pad_token_id=end)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision.to_dict(), projection_dim=width))


def embed_pictures(model, pixels):
    """(B, 3, 64, 64) -> (B, E), of length 1; what the transformers classes compute."""
    vision = model.vision_model
    *_, x = blocks(vision.encoder.layers, vision.pre_layrnorm(vision.embeddings(pixels)), vision.config.num_attention_heads)
    return F.normalize(model.visual_projection(vision.post_layernorm(x[:, 0])), dim=-1)


def embed_texts(model, ids):
    """(B, T) -> (B, E), of length 1; what the transformers classes compute."""
    text = model.text_model
    length = ids.shape[1]
    x = text.embeddings.token_embedding(ids) + text.embeddings.position_embedding.weight[:length]
    later = torch.full((length, length), float("-inf")).triu(1)
    *_, x = blocks(text.encoder.layers, x, text.config.num_attention_heads, later)
    pooled = text.final_layer_norm(x)[torch.arange(len(ids)), (ids == text.config.eos_token_id).int().argmax(1)]
    return F.normalize(model.text_projection(pooled), dim=-1)


def choice_loss(logits, right):
    """Cross entropy of each row against its right columns, which share the probability."""
    return -(logits.log_softmax(-1) * (right / right.sum(-1, keepdim=True))).sum(-1).mean()


def finding_loss(logits, found):
    """How far the right columns of each row are from being above all wrong ones. Which of the right ones come first is not asked."""
    wrong = logits.masked_fill(found, -1e4).logsumexp(-1, keepdim=True)
    right = found.sum(-1)
    return ((F.softplus(wrong - logits) * found).sum(-1) / right.clamp(min=1)).sum() / (right > 0).sum()


class Tutor(torch.nn.Module):
    """A linear head that reads the objects from left to right, and a direction for each entry of the inventory. Of no use afterwards."""

    def __init__(self, width):
        super().__init__()
        self.objects = torch.nn.Linear(width, sum(SCENE_LABELS.values()))
        self.entries = torch.nn.Linear(width, len(INVENTORY), bias=False)


def tutor_loss(tutor, embeddings, labels):
    logits = tutor.objects(embeddings * embeddings.shape[-1] ** 0.5).split(list(SCENE_LABELS.values()), -1)
    return sum(F.cross_entropy(l, w, ignore_index=UNKNOWN, reduction="sum") for l, w in zip(logits, labels.T)) / (labels != UNKNOWN).sum()


def losses(model, tutor, batch, search_loss):
    pixels, captions, same, searches, found, labels, inventories = batch
    pictures = embed_pictures(model, batches.normalise(pixels))
    texts = torch.cat([embed_texts(model, ids) for ids in captions])
    sought = embed_texts(model, searches)
    scale = model.logit_scale.exp()
    logits = scale * pictures @ texts.T
    return {"captions": (choice_loss(logits, same) + choice_loss(logits.T, same)) / 2,
            "searches": search_loss(scale * sought @ pictures.T, found),
            "inventory": finding_loss(scale * F.normalize(tutor.entries.weight, dim=-1) @ pictures.T, inventories.T),
            "objects": tutor_loss(tutor, pictures, labels) + tutor_loss(tutor, texts, labels)}


# --- checking -------------------------------------------------------------------------------------------------------

@torch.no_grad()
def check(model, pairs, pictures=500):
    """Recall@1 among so many pictures of distinct captions that are never trained on, captions -> pictures and back; and of searches,
    how often the first picture fits, and the mean average precision."""
    rng, scenes = np.random.default_rng(2**40), {}
    while len(scenes) < pictures:
        scene = world.sample_scene(rng)
        scenes.setdefault(world.caption(scene), scene)
    captions, scenes = list(scenes), list(scenes.values())
    images = torch.cat([embed_pictures(model, batches.normalise(torch.from_numpy(np.stack([batches.model_size(world.draw(s)) for s in some]))))
                        for some in (scenes[i:i + 100] for i in range(0, pictures, 100))])
    texts = embed_texts(model, pairs.encode(captions))
    scores, right = texts @ images.T, torch.arange(pictures)
    searches = [world.search(rng, scenes[i]) for i in range(200)]
    found = torch.tensor([[s.finds(scene) for scene in scenes] for s in searches])
    order = (embed_texts(model, pairs.encode([s.text for s in searches])) @ images.T).argsort(1, descending=True)
    hits = found.gather(1, order).float()
    precision = (hits.cumsum(1) / torch.arange(1, pictures + 1) * hits).sum(1) / hits.sum(1)
    return ((scores.argmax(1) == right).float().mean().item(), (scores.argmax(0) == right).float().mean().item(), hits[:, 0].mean().item(),
            precision.mean().item())


# --- the model folder -----------------------------------------------------------------------------------------------

def export(model, tokenizer, weights, folder: Path):
    """Writes a folder like openai/clip-vit-base-patch32's, in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in weights.items()}, folder / "model.safetensors",
              metadata={"format": "pt"})
    write = lambda name, content: (folder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    keep = lambda part, keys: {key: getattr(part, key) for key in keys.split()}
    text, vision, shared = model.config.text_config, model.config.vision_config, "model_type hidden_size intermediate_size num_hidden_layers " \
        "num_attention_heads hidden_act layer_norm_eps projection_dim "
    write("config.json", {
        "architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": model.config.projection_dim, "logit_scale_init_value": 2.6592,
        "initializer_factor": 1.0,
        "text_config": keep(text, shared + "vocab_size max_position_embeddings bos_token_id eos_token_id pad_token_id"),
        "vision_config": keep(vision, shared + "image_size patch_size num_channels"),
        "torch_dtype": "bfloat16", "transformers_version": "4.49.0"})
    write("preprocessor_config.json", {
        "image_processor_type": "CLIPImageProcessor", "feature_extractor_type": "CLIPFeatureExtractor", "processor_class": "CLIPProcessor",
        "do_convert_rgb": True, "do_resize": True, "size": {"shortest_edge": batches.IMAGE_SIZE}, "resample": 3,
        "do_center_crop": True, "crop_size": {"height": batches.IMAGE_SIZE, "width": batches.IMAGE_SIZE},
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]})

    tokenizer.save(str(folder / "tokenizer.json"))
    description = json.loads(tokenizer.to_str())["model"]
    write("vocab.json", description["vocab"])
    merges = [m if isinstance(m, str) else " ".join(m) for m in description["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    names = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    special = {str(tokenizer.token_to_id(t)): {"content": t, "lstrip": False, "normalized": t == START, "rstrip": False, "single_word": False,
                                               "special": True} for t in (START, END)}
    write("tokenizer_config.json", names | {
        "add_prefix_space": False, "do_lower_case": True, "errors": "replace", "model_max_length": LENGTH, "processor_class": "CLIPProcessor",
        "tokenizer_class": "CLIPTokenizer", "added_tokens_decoder": special})
    write("special_tokens_map.json", names)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llava", type=Path, required=True, help="the folder of shapes-llava, whose vision tower is the beginning")
    parser.add_argument("--from", dest="origin", type=Path, help="a model folder of this trainer's to train further")
    parser.add_argument("--state", type=Path, required=True, help="folder for the training state")
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=128, help="pictures per step; half of them siblings of the others")
    parser.add_argument("--tutor", type=float, default=1, help="weight of the loss `objects`")
    parser.add_argument("--inventory", type=float, default=1, help="weight of the loss `inventory`")
    parser.add_argument("--searches", choices=["softmax", "order"], default="order", help="form of the loss `searches`")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()

    start_process()
    args.state.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer()
    tower = LlavaForConditionalGeneration.from_pretrained(args.llava, dtype=torch.float32).model.vision_tower
    model = build(tokenizer, tower.config)
    tutor, start = Tutor(model.config.projection_dim), 0
    beginning = tower.state_dict()
    # post_layernorm comes as it was made: LLaVA does not use it.
    model.vision_model.load_state_dict({name.removeprefix("vision_model."): tensor for name, tensor in beginning.items()})
    if args.origin:
        model = CLIPModel.from_pretrained(args.origin, dtype=torch.float32)
    optimizer = Optimizer([model, tutor])
    optimizer.boost([model.logit_scale], 5)                                                    # one number that has far to go
    if args.resume:
        state = torch.load(args.state / "clip.pt")
        model.load_state_dict(state["model"])
        tutor.load_state_dict(state["tutor"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]

    pairs = Pairs(tokenizer, (5, 0), args.batch)
    loader = DataLoader(pairs, batch_size=None, sampler=range(start, args.steps), num_workers=1, prefetch_factor=8)
    judge, seen, clock = build(tokenizer, tower.config).eval(), [], time.time()
    for step, batch in enumerate(loader, start):
        parts = losses(model, tutor, batch, choice_loss if args.searches == "softmax" else finding_loss)
        total = parts["captions"] + parts["searches"] + args.inventory * parts["inventory"] + args.tutor * parts["objects"]
        optimizer.step(total, learning_rate(step, args.steps, args.lr, warmup=100), step)
        with torch.no_grad():
            model.logit_scale.clamp_(max=log(100))
        seen.append([loss.item() for loss in parts.values()])
        if (step + 1) % 20 == 0:
            means = "  ".join(f"{name} {loss:.4f}" for name, loss in zip(parts, np.mean(seen, 0)))
            print(f"step {step + 1}  {means}  scale {model.logit_scale.exp().item():.1f}  {(time.time() - clock) * 50:.0f} ms/step", flush=True)
            seen, clock = [], time.time()
        if (step + 1) % 100 == 0 or step + 1 == args.steps:
            averaged = optimizer.averaged()
            judge.load_state_dict({name: tensor.to(torch.bfloat16).float() for name, tensor in averaged.items()})
            found, back, first, precision = check(judge, pairs)
            print(f"step {step + 1}  recall@1 {found:.4f}  back {back:.4f}  searches: first {first:.4f}  mAP {precision:.4f}", flush=True)
            export(judge, tokenizer, averaged, args.out)
            torch.save({"model": model.state_dict(), "tutor": tutor.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1},
                       args.state / "state.part")
            (args.state / "state.part").replace(args.state / "clip.pt")
            clock = time.time()


if __name__ == "__main__":
    main()
