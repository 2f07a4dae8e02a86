"""Measures a model folder on the held-out pictures, with the transformers classes, in fp32.

    python evaluate.py shapes-llava ../data/shapes [--pictures 2000] [--plain]
    python evaluate.py shapes-llava ../data/easy-vqa

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
"""
import argparse
import json
from collections import Counter, defaultdict
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

import world


@torch.inference_mode()
def replies(model, processor, asked, max_new_tokens, batch=128):
    """The greedy reply to every (picture, question). Batches have prompts of one length, so that nothing is padded."""
    prompts = [f"USER: <image>\n{question} ASSISTANT:" for _, question in asked]
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--pictures", type=int, default=10**9, help="only the first so many")
    parser.add_argument("--plain", action="store_true", help="ask without the suffix for short answers")
    args = parser.parse_args()

    model = LlavaForConditionalGeneration.from_pretrained(args.model, dtype=torch.float32).eval()
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
