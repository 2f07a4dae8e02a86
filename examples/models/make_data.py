"""Draws what the examples show and measure. Writes, into the folder `examples`:

pictures/shapes-NN.png   12 pictures, 256 x 256; pictures/truth.json says what is in them, and where
data/shapes/             2,000 held-out pictures, 128 x 128, in easy-VQA's format (github.com/vzhou842/easy-VQA):
    images/<id>.png
    questions.json       list of [question, answer, image id, kind], at most one of each kind per picture
    captions.json        per picture, in the order of the ids: its objects from left to right, and the reference caption

    python make_data.py examples
"""
import json
import sys
from pathlib import Path

import numpy as np

import world

HELD_OUT_SEED, PICTURES_SEED = 2**41, 2**42                    # the trainer draws with (1, step) and checks with 2**40


def ask_each_kind(rng, scene, kinds):
    """(asked, kind) for every kind of which a clear question about the scene turns up in ten attempts."""
    for kind in kinds:
        asked = next(filter(None, (world.ask(rng, scene, kind) for _ in range(10))), None)
        if asked:
            yield asked, kind


def describe(scene):
    return {"objects": [{"shape": o.shape, "colour": o.colour, "size": o.size, "side": o.side} for o in scene.objects],
            "caption": world.caption(scene)}


def lines(items):
    """A JSON list with one item per line."""
    return "[\n" + ",\n".join(json.dumps(item) for item in items) + "\n]\n"


def held_out(folder: Path, count=2000):
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(HELD_OUT_SEED)
    questions, captions = [], []
    for i in range(count):
        scene = world.sample_scene(rng)
        world.draw(scene).save(folder / "images" / f"{i}.png", optimize=True)
        questions += [[asked.question, asked.answer, i, kind] for asked, kind in ask_each_kind(rng, scene, world.KINDS)]
        captions.append(describe(scene))
    (folder / "questions.json").write_text(lines(questions))
    (folder / "captions.json").write_text(lines(captions))


def pictures(folder: Path, count=12):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(PICTURES_SEED)
    truth = []
    while len(truth) < count:
        scene = world.sample_scene(rng)
        if len(scene.objects) != 2 + len(truth) * 5 // count:                                  # from two objects up to six
            continue
        name = f"shapes-{len(truth) + 1:02}.png"
        world.draw(scene, 256).save(folder / name, optimize=True)
        kinds = rng.permutation(world.NON_RELATIONAL)[:3].tolist() + rng.permutation(world.RELATIONAL)[:3].tolist()
        questions = [{"question": asked.question, "answer": asked.answer, "kind": kind,
                      "about": sorted({int(o) for _, _, named in asked.meant for o in named})}       # the objects that the question names
                     for asked, kind in ask_each_kind(rng, scene, kinds)]
        seen = describe(scene)
        for told, o in zip(seen["objects"], scene.objects):                                   # where it is, in shares of the picture's side
            told |= {"x": round(o.x / world.CANVAS, 3), "y": round(o.y / world.CANVAS, 3), "radius": round(o.radius / world.CANVAS, 3)}
        truth.append({"picture": name, **seen, "questions": questions})
    (folder / "truth.json").write_text(json.dumps(truth, indent=1) + "\n")


if __name__ == "__main__":
    examples = Path(sys.argv[1])
    held_out(examples / "data" / "shapes")
    pictures(examples / "pictures")
