"""A task that only examples tell: questions with made-up words.

"What is the dap of the star?" - "red". Within an episode a made-up word stands for one of the ATTRIBUTES. Which one is drawn anew for
each episode, so that only the earlier questions and answers of the episode, the shots, can tell. An episode mixes up to three
such words, each with an attribute of its own: a shot about another word tells little.

    python shots.py ../data                                    # draws ../data/shots again, the same
"""
import json
import sys
from pathlib import Path

import numpy as np

import world

MADE_UP = ("bap bom bur dap dur dal dir fel fot fom fal fis gom gur gol gis lom lur lis nar nel nom nur nol nal pel pom sot som sol "
           "tol tal tir wal wom wur wol yot yom yur").split()
HELD_OUT = MADE_UP[3::4]                                       # ten words that Flamingo is never trained with
TAUGHT = [word for word in MADE_UP if word not in HELD_OUT]
ATTRIBUTES = ["shape", "colour", "size", "left-right", "top-bottom"]
WORDINGS = ["What is the {word} of {a}?", "What {word} is {a}?"]
SHOTS = 8


def meanings(rng, words, count):
    """[(made-up word, attribute)]: `count` of the words, no two with the same attribute."""
    attributes = rng.permutation(ATTRIBUTES)[:count]
    return [(str(word), str(attribute)) for word, attribute in zip(rng.permutation(words)[:count], attributes)]


def ask(rng, scene, word, attribute):
    """(question, answer) about an object of the scene, or None if the random choices led to no clear question."""
    o = scene.objects[rng.integers(len(scene.objects))]
    name = world.refer(rng, scene, o, hidden=attribute)
    if name is None:
        return None
    vertical, horizontal = o.side.split()
    answer = {"left-right": horizontal, "top-bottom": vertical}.get(attribute) or getattr(o, attribute)
    return WORDINGS[rng.integers(len(WORDINGS))].format(word=word, a=name), answer


def episodes(rng, scenes, words, count):
    """`count` times: the attribute that is meant last, and [(index of the scene, question, answer)] of SHOTS shots and one question."""
    for number in range(count):
        known, turns = meanings(rng, words, 3), []
        last = ATTRIBUTES[number % len(ATTRIBUTES)]
        if last not in (attribute for _, attribute in known):
            known[0] = known[0][0], last
        chosen = rng.permutation(len(scenes))
        for i in chosen:
            which = known[rng.integers(len(known))]
            if len(turns) == SHOTS:
                which = next(k for k in known if k[1] == last)
            asked = ask(rng, scenes[i], *which)
            if asked:
                turns.append((int(i), *asked))
            if len(turns) > SHOTS:
                break
        yield last, turns


def scene_of(objects):
    """A scene with these objects ({"shape", "colour", "size", "side"}), as far as `ask` wants to know it."""
    place = {"left": 0, "right": world.CANVAS, "top": 0, "bottom": world.CANVAS}
    side = lambda o: o["side"].split()
    return world.Scene([world.Object(o["shape"], o["colour"], o["size"], place[side(o)[1]], place[side(o)[0]], 0, ()) for o in objects], ())


if __name__ == "__main__":
    data = Path(sys.argv[1])
    pictures = json.loads((data / "shapes" / "captions.json").read_text())
    turn = lambda i, question, answer: {"image": f"../shapes/images/{i}.png", "question": question, "answer": answer}
    (data / "shots").mkdir(exist_ok=True)
    with open(data / "shots" / "shots.jsonl", "w") as file:
        for attribute, turns in episodes(np.random.default_rng(2**43), [scene_of(p["objects"]) for p in pictures], HELD_OUT, 300):
            line = {**turn(*turns[-1]), "attribute": attribute, "shots": [turn(*t) for t in turns[:-1]]}
            file.write(json.dumps(line) + "\n")
