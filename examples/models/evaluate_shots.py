"""Measures what a Flamingo-like model (IDEFICS) learns from examples in its prompt, with the transformers classes, in fp32.

    python evaluate_shots.py shapes-flamingo ../data/shots [--shots 0 1 2 4 8] [--episodes 300]

An episode of shots.jsonl is asked after the first k of its shots: USER:<picture>\\n{question} ASSISTANT: {answer}, and so on, a shot
ending with the end of an utterance. Replies are greedy; a reply is right if it equals the answer but for white space.
"""
import argparse
import json
from collections import defaultdict
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoProcessor, IdeficsForVisionText2Text

END = "<end_of_utterance>"


def prompt(turns):
    """The parts of an IDEFICS prompt for [(picture, question, answer)], the last answer being left open."""
    parts = []
    for picture, question, answer in turns:
        parts += [parts.pop() + END + "USER:" if parts else "USER:", picture, f"\n{question} ASSISTANT:" + (f" {answer}" if answer else "")]
    return parts


@torch.inference_mode()
def replies(model, processor, conversations, max_new_tokens, batch=64):
    """The greedy reply to every conversation, a list of (picture, question, answer); the last answer is not looked at."""
    prompts = [prompt([*turns[:-1], (*turns[-1][:2], None)]) for turns in conversations]
    order = sorted(range(len(prompts)), key=lambda i: sum(len(part) for part in prompts[i] if isinstance(part, str)))
    answers = [""] * len(prompts)
    for some in (order[i:i + batch] for i in range(0, len(order), batch)):
        inputs = processor(text=[prompts[i] for i in some], return_tensors="pt")
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)[:, inputs.input_ids.shape[1]:]
        for i, text in zip(some, processor.batch_decode(ids, skip_special_tokens=True)):
            answers[i] = text
    return answers


def load(folder):
    model = IdeficsForVisionText2Text.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoProcessor.from_pretrained(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--shots", type=int, nargs="+", default=[0, 4, 8])
    parser.add_argument("--episodes", type=int, default=10**9, help="only the first so many")
    args = parser.parse_args()

    model, processor = load(args.model)
    episodes = [json.loads(line) for line in (args.data / "shots.jsonl").read_text().splitlines()][:args.episodes]
    picture = lambda turn: Image.open(args.data / turn["image"]).convert("RGB")
    turn = lambda t: (picture(t), t["question"], t["answer"])
    attributes = sorted({e["attribute"] for e in episodes})
    print("shots" + "".join(f"{a:>12}" for a in attributes) + f"{'all':>12}")
    for count in args.shots:
        given = replies(model, processor, [[turn(t) for t in [*e["shots"][:count], e]] for e in episodes], max_new_tokens=8)
        right = defaultdict(list)
        for episode, reply in zip(episodes, given):
            right[episode["attribute"]].append(reply.strip() == episode["answer"])
        marks = [right[a] for a in attributes] + [[mark for a in attributes for mark in right[a]]]
        print(f"{count:5}" + "".join(f"{sum(m) / len(m):12.2%}" for m in marks))


if __name__ == "__main__":
    main()
