"""Measures a model folder on the held-out pictures, with the transformers classes, in fp32.

    python evaluate.py shapes-llava ../data/shapes [--pictures 2000] [--plain]
    python evaluate.py shapes-llava ../data/easy-vqa
    python evaluate.py shapes-blip2 ../data/shapes
    python evaluate.py shapes-flamingo ../data/shapes
    python evaluate.py shapes-clip ../data/shapes [--pictures 500]

Questions are asked in the first turn, with LLaVA-1.5's suffix for short answers (--plain: without it), and answered
greedily. A reply is right if it equals the answer, after both are stripped of white space, lower-cased, and freed of
a final full stop.

Captions are asked for with world.CAPTION_PROMPTS[0] and decoded greedily. A caption is lower-cased, freed of its final
full stop and cut at every ", " and every " and ". A piece names an object if it consists of exactly the words
"a|an SIZE COLOUR SHAPE at the top|bottom left|right". Then, over the pictures:
  named      pictures where the multiset of the named (colour, shape, side) is that of the picture's objects, and every
             piece names one: nothing missing, nothing invented, nothing wrong
  + size     the same with the size
  identical  captions equal to the reference caption, letter by letter

A CLIP is measured by what it finds among the first pictures (500, if not told otherwise) of distinct captions:
  recall@k   captions whose picture is among the first k; and pictures whose caption is
  searches   200 of world.search, about these pictures: how often the first picture fits, and the mean average precision
"""
import argparse
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, CLIPModel

import evaluate_shots
import world


@torch.inference_mode()
def replies(model, processor, asked, max_new_tokens, batch=128):
    """The greedy reply to every (picture, question). Batches have prompts of one length, so that nothing is padded."""
    if model.config.model_type == "idefics":                   # whose processor puts prompts together from their parts
        return evaluate_shots.replies(model, processor, [[(picture, question, None)] for picture, question in asked], max_new_tokens, batch)
    # Blip2Processor does not read chat_template.jinja, but its tokenizer does.
    template = (processor if getattr(processor, "chat_template", None) else processor.tokenizer).apply_chat_template
    chat = lambda question: [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    prompts = [template(chat(question), add_generation_prompt=True, tokenize=False) for _, question in asked]
    by_length = defaultdict(list)
    for i, prompt in enumerate(prompts):
        by_length[len(processor.tokenizer(prompt).input_ids)].append(i)
    answers = [""] * len(asked)
    for group in by_length.values():
        for some in (group[i:i + batch] for i in range(0, len(group), batch)):
            inputs = processor(images=[asked[i][0] for i in some], text=[prompts[i] for i in some], return_tensors="pt")
            ids = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)[:, inputs.input_ids.shape[1]:]
            for i, text in zip(some, processor.batch_decode(ids, skip_special_tokens=True)):
                answers[i] = text
    return answers


def plain(answer):
    return answer.strip().lower().removesuffix(".")


def named(caption):
    """(size, colour, shape, side) of each piece of the caption; None for a piece that names nothing."""
    for piece in plain(caption).replace(" and ", ", ").split(", "):
        w = piece.split()
        fits = (len(w) == 8 and w[0] in ("a", "an") and w[1] in world.SIZES and w[2] in world.COLOURS and w[3] in world.SHAPES
                and w[4:6] == ["at", "the"] and w[6] in ("top", "bottom") and w[7] in ("left", "right"))
        yield (w[1], w[2], w[3], f"{w[6]} {w[7]}") if fits else None


@torch.inference_mode()
def measure_clip(folder: Path, data: Path, count):
    """Prints how well pictures and texts find each other."""
    model, processor = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval(), AutoProcessor.from_pretrained(folder)
    truths, chosen = json.loads((data / "captions.json").read_text()), {}
    for i, truth in enumerate(truths):
        if len(chosen) < count:
            chosen.setdefault(truth["caption"], i)
    unit = lambda out: torch.nn.functional.normalize(out.pooler_output, dim=-1)
    some = lambda items: (items[i:i + 100] for i in range(0, len(items), 100))
    pictures = lambda ids: [Image.open(data / "images" / f"{i}.png").convert("RGB") for i in ids]
    texts = lambda words: unit(model.get_text_features(**processor(text=words, padding=True, return_tensors="pt")))
    captions = torch.cat([texts(words) for words in some(list(chosen))])
    seen = lambda ids: unit(model.get_image_features(**processor(images=pictures(ids), return_tensors="pt")))
    images = torch.cat([seen(ids) for ids in some(list(chosen.values()))])
    scores = captions @ images.T
    for name, found in ("caption -> picture", scores), ("picture -> caption", scores.T):
        place = (found > found.diagonal()[:, None]).sum(1)
        print(f"{name:22}" + "".join(f"  recall@{k} {(place < k).float().mean():.2%}" for k in (1, 5)) + f"{len(place):8}")

    rng = np.random.default_rng(2**43)
    somewhere = lambda shape, colour, size, side: world.Object(shape, colour, size, 96 * ("right" in side), 96 * ("bottom" in side), 0, ())
    scenes = [world.Scene([somewhere(**o) for o in truths[i]["objects"]], ()) for i in chosen.values()]
    searches = [world.search(rng, scenes[rng.integers(len(scenes))]) for _ in range(200)]
    fits = torch.tensor([[s.finds(scene) for scene in scenes] for s in searches])
    hits = fits.gather(1, (texts([s.text for s in searches]) @ images.T).argsort(1, descending=True)).float()
    precision = (hits.cumsum(1) / torch.arange(1, len(scenes) + 1) * hits).sum(1) / hits.sum(1)
    print(f"searches: the first picture fits {hits[:, 0].mean():.2%}, mean average precision {precision.mean():.2%}{len(hits):8}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--pictures", type=int, default=10**9, help="only the first so many")
    parser.add_argument("--plain", action="store_true", help="ask without the suffix for short answers")
    args = parser.parse_args()

    if json.loads((args.model / "config.json").read_text())["model_type"] == "clip":
        return measure_clip(args.model, args.data, min(args.pictures, 500))
    model = AutoModelForImageTextToText.from_pretrained(args.model, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(args.model)
    suffix = "" if args.plain else world.SHORT_ANSWER
    questions = [q for q in json.loads((args.data / "questions.json").read_text()) if q[2] < args.pictures]
    pictures = {i: Image.open(args.data / "images" / f"{i}.png").convert("RGB") for i in sorted({q[2] for q in questions})}

    given = replies(model, processor, [(pictures[q[2]], q[0] + suffix) for q in questions], max_new_tokens=8)
    right = defaultdict(list)
    for (question, answer, image, *kind), reply in zip(questions, given):
        right[kind[0] if kind else "all"].append(plain(reply) == plain(answer))
    for kind, marks in right.items():
        print(f"{kind:15}{sum(marks) / len(marks):8.2%}{len(marks):8}")
    for name, kinds in ("non-relational", world.NON_RELATIONAL), ("relational", world.RELATIONAL):
        marks = [mark for kind in kinds for mark in right.get(kind, [])]
        if marks:
            print(f"{name:15}{sum(marks) / len(marks):8.2%}{len(marks):8}")

    if not (args.data / "captions.json").exists():
        return
    truths = json.loads((args.data / "captions.json").read_text())
    captions = replies(model, processor, [(pictures[i], world.CAPTION_PROMPTS[0]) for i in pictures], max_new_tokens=96)
    score = Counter()
    for i, text in zip(pictures, captions):
        objects = [tuple(o[k] for k in ("size", "colour", "shape", "side")) for o in truths[i]["objects"]]
        found = list(named(text))
        score["+ size"] += Counter(found) == Counter(objects)
        score["named"] += None not in found and Counter(f[1:] for f in found) == Counter(o[1:] for o in objects)
        score["identical"] += text.strip() == truths[i]["caption"]
    for name in "named", "+ size", "identical":
        print(f"caption {name:10}{score[name] / len(pictures):5.2%}{len(pictures):8}")


if __name__ == "__main__":
    main()
