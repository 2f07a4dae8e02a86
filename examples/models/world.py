"""The world of shapes: pictures of 1-6 coloured shapes, their captions, and questions about them.

After Sort-of-CLEVR (Santoro et al., arXiv:1706.01427): questions about one object (NON_RELATIONAL) and about how objects
relate (RELATIONAL). Everything follows from the random generator that is passed in, so a seed is a data set.

Lengths are in units of a 128 x 128 canvas. The margins below make every question have one answer that can be seen:
  sides      no centre lies within SIDE of the canvas' middle lines, so left/right and top/bottom are never close calls
  sizes      small is a radius of 9-11, large of 16-19; "larger than" compares a large object with a small one only
  captions   objects are named from left to right; centres differ by ORDER in x at least
  beside     "left of", "above": asked when the centres differ by BESIDE along that axis at least
  distance   "closest", "farthest": between centres, asked when the best beats the second best by DISTANCE at least
  referents  "the red object", "the small star": asked only when exactly one object fits the words
"""
from dataclasses import dataclass
from math import cos, hypot, pi, sin
from string import Formatter

import numpy as np
from PIL import Image, ImageDraw

CANVAS = 128
SHAPES = ["circle", "square", "triangle", "star", "cross"]
COLOURS = {
    "red": (214, 40, 40), "orange": (245, 135, 20), "yellow": (240, 215, 40), "green": (40, 150, 60),
    "blue": (40, 80, 210), "purple": (130, 50, 170), "gray": (130, 130, 130), "black": (20, 20, 20),
}
SIZES = {"small": (9, 11), "large": (16, 19)}
SIDE, ORDER, BESIDE, DISTANCE, GAP = 7, 4, 12, 12, 4

NON_RELATIONAL = ["shape", "colour", "size", "left-right", "top-bottom", "exist", "count"]
RELATIONAL = ["closest", "farthest", "same", "beside", "above", "larger"]
KINDS = NON_RELATIONAL + RELATIONAL
# For training alone. Three are answered with several words where the kinds above give one: "describe" tells the caption's words for an
# object, "compare" how it lies to another one and which is larger, "neighbour" the colour and shape of the closest or farthest.
# "either" asks what "beside", "above" and "larger" ask, but is answered with the word itself: a "yes" or "no" is this and one thing more.
LESSONS = ["describe", "compare", "neighbour", "either"]


@dataclass(frozen=True)
class Object:
    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    rgb: tuple

    @property
    def side(self):
        return f"{'top' if self.y < CANVAS / 2 else 'bottom'} {'left' if self.x < CANVAS / 2 else 'right'}"


@dataclass(frozen=True)
class Scene:
    objects: list          # from left to right
    background: tuple      # colours of the upper left and the lower right corner; equal for a plain background


# --- pictures -------------------------------------------------------------------------------------------------------

def sample_scene(rng) -> Scene:
    while True:
        objects = []
        for _ in range(rng.integers(1, 7)):
            placed = place(rng, objects)
            if placed is None:
                break
            objects.append(placed)
        else:
            light = rng.integers(212, 252, 3)
            slope = rng.integers(-14, 15, 3) if rng.random() < 0.5 else np.zeros(3, int)
            corners = tuple(tuple(int(v) for v in np.clip(light + s, 205, 255)) for s in (slope, -slope))
            return Scene(sorted(objects, key=lambda o: o.x), corners)


def place(rng, others):
    """A random object clear of the others, or None when fifty attempts found no room."""
    size = "small" if rng.random() < 0.5 else "large"
    radius = rng.uniform(*SIZES[size])
    for _ in range(50):
        x, y = rng.uniform(radius + 3, CANVAS - radius - 3, 2)
        if abs(x - CANVAS / 2) < SIDE or abs(y - CANVAS / 2) < SIDE:
            continue
        if all(hypot(x - o.x, y - o.y) >= radius + o.radius + GAP and abs(x - o.x) >= ORDER for o in others):
            colour = list(COLOURS)[rng.integers(len(COLOURS))]
            rgb = tuple(int(v) for v in np.clip(np.array(COLOURS[colour]) + rng.integers(-12, 13, 3), 0, 255))
            return Object(SHAPES[rng.integers(len(SHAPES))], colour, size, float(x), float(y), float(radius), rgb)
    return None


def _outline(shape, r):
    """Corners around the origin. Scaled so that the shapes of one size look about equally large."""
    ring = lambda n, radius: [(radius * sin(2 * pi * i / n), -radius * cos(2 * pi * i / n)) for i in range(n)]
    if shape == "square":
        return [(-.84 * r, -.84 * r), (.84 * r, -.84 * r), (.84 * r, .84 * r), (-.84 * r, .84 * r)]
    if shape == "triangle":
        return [(x, y + .15 * r) for x, y in ring(3, 1.15 * r)]
    if shape == "star":
        return [ring(10, (1.15 if i % 2 == 0 else .46) * r)[i] for i in range(10)]
    a, b = r, .34 * r                                                                         # cross
    return [(-b, -a), (b, -a), (b, -b), (a, -b), (a, b), (b, b), (b, a), (-b, a), (-b, b), (-a, b), (-a, -b), (-b, -b)]


def draw(scene: Scene, size=CANVAS) -> Image.Image:
    """Anti-aliased: every mask is drawn at four times the resolution and averaged."""
    upper, lower = (np.array(c, np.float32) for c in scene.background)
    t = np.linspace(0, 1, size, dtype=np.float32)
    t = (t[:, None, None] + t[None, :, None]) / 2
    picture = Image.fromarray((upper + (lower - upper) * t + .5).astype(np.uint8))
    scale = size / CANVAS
    for o in scene.objects:
        reach = int(1.3 * o.radius * scale) + 2
        left, top = int(o.x * scale) - reach, int(o.y * scale) - reach
        mask = Image.new("L", (8 * reach, 8 * reach))
        at = lambda dx, dy: (4 * ((o.x + dx) * scale - left), 4 * ((o.y + dy) * scale - top))
        if o.shape == "circle":
            ImageDraw.Draw(mask).ellipse([*at(-o.radius, -o.radius), *at(o.radius, o.radius)], fill=255)
        else:
            ImageDraw.Draw(mask).polygon([at(*corner) for corner in _outline(o.shape, o.radius)], fill=255)
        picture.paste(o.rgb, (left, top), mask.reduce(4))
    return picture


# --- captions -------------------------------------------------------------------------------------------------------

CAPTION_PROMPTS = ["Provide a one-sentence caption for the provided image.", "Describe the picture.", "What is in this image?"]


def _phrase(o):
    return f"a {o.size} {o.colour} {o.shape} at the {o.side}"


def describe(scene: Scene, indices) -> tuple:
    """The caption's words for the objects with these indices, and where a writer looks: [(start, end, (index,))], in
    characters. The look rests on an object up to the last word about it."""
    text, looks = "", []
    for place, i in enumerate(indices):
        text += "" if place == 0 else " and " if place == len(indices) - 1 else ", "
        phrase = _phrase(scene.objects[i])
        looks.append((len(text), len(text) + phrase.rindex(" "), (i,)))
        text += phrase
    return text[0].upper() + text[1:] + ".", looks


def caption(scene: Scene) -> str:
    return describe(scene, range(len(scene.objects)))[0]


# --- questions ------------------------------------------------------------------------------------------------------

SHORT_ANSWER = "\nAnswer the question using a single word or phrase."          # LLaVA-1.5's suffix for short answers

WORDINGS = {
    "shape": ["What shape is {a}?", "What is the shape of {a}?", "Which shape does {a} have?"],
    "colour": ["What colour is {a}?", "What is the colour of {a}?", "Which colour does {a} have?"],
    "size": ["What size is {a}?", "Is {a} small or large?", "Is {a} large or small?"],
    "left-right": ["Is {a} on the left or on the right?", "Is {a} on the left or the right side of the picture?",
                   "On which side is {a}, left or right?"],
    "top-bottom": ["Is {a} at the top or at the bottom?", "Is {a} in the top or the bottom half of the picture?",
                   "Where is {a}, at the top or at the bottom?"],
    "exist": ["Is there {a}?", "Is there {a} in the picture?", "Does the image contain {a}?", "Can you see {a}?"],
    "count": ["How many {a} are there?", "How many {a} are in the picture?", "How many {a} can you see?",
              "What is the number of {a}?"],
    "closest": ["What {what} is the object closest to {a}?", "What is the {what} of the object closest to {a}?",
                "What is the {what} of the object nearest to {a}?", "Which {what} does the object nearest to {a} have?"],
    "farthest": ["What {what} is the object farthest from {a}?", "What is the {what} of the object farthest from {a}?",
                 "What is the {what} of the object furthest from {a}?", "Which {what} does the object farthest from {a} have?"],
    "same": ["How many other objects have the same {what} as {a}?", "How many other objects are there with the {what} of {a}?",
             "How many other objects share the {what} of {a}?"],
    "beside": ["Is {a} to the {side} of {b}?", "Is {a} {side} of {b}?", "Is {a} further {side} than {b}?"],
    "above": ["Is {a} {side} {b}?", "Is {a} {further} than {b}?"],
    "larger": ["Is {a} {more} than {b}?"],
    "describe": ["Describe {a}.", "What is {a}?", "Where is {a}?"],
    "compare": ["What is {a} to {b}?"],
    "either": ["Is {a} {one} or {other} {b}?"],
    "neighbour": ["What is the object {what} {a}?", "What is {what} {a}?"],
}


def _choose(rng, options):
    return options[rng.integers(len(options))]


def _matches(o, words):
    return all(getattr(o, attribute) == word for attribute, word in words.items())


def _name(words, plural=False):
    noun = words.get("shape", "object")
    if plural:
        noun += "es" if noun == "cross" else "s"
    return " ".join(words[k] for k in ("size", "colour") if k in words) + (" " if len(words) > ("shape" in words) else "") + noun


def refer(rng, scene, o, hidden=None):
    """Words that fit this object alone and do not use the attribute `hidden`, or None."""
    fitting = []
    for attributes in (["colour"], ["shape"], ["colour", "shape"], ["size", "shape"], ["size", "colour"]):
        words = {a: getattr(o, a) for a in attributes}
        if hidden not in attributes and sum(_matches(other, words) for other in scene.objects) == 1:
            fitting.append("the " + _name(words))
    return _choose(rng, fitting) if fitting else None


@dataclass(frozen=True)
class Asked:
    question: str
    answer: str
    kind: str
    meant: list            # [(start, end, indices)]: the objects that the characters up to `end` name; none, for a "no"
    looks: list            # the same of the answer: see describe


def ask(rng, scene: Scene, kind: str):
    """A question of this kind, or None if the random choices led to no clear question."""
    objects = scene.objects
    o = _choose(rng, objects)
    words, looks = {}, []                                                                     # the wording's blanks
    meant = {"a": lambda p: p is o}                                                           # which objects they name
    if kind in ("shape", "colour", "size", "left-right", "top-bottom"):
        words["a"] = refer(rng, scene, o, hidden=kind)
        vertical, horizontal = o.side.split()
        answer = {"left-right": horizontal, "top-bottom": vertical}.get(kind) or getattr(o, kind)
    elif kind == "describe":
        words["a"] = refer(rng, scene, o)
        answer, looks = describe(scene, [objects.index(o)])
    elif kind == "exist":
        # A "no" is asked about words that each occur in the picture, where it can: a question about any
        # colour at all could often be answered without looking at shapes.
        attributes = _choose(rng, [["shape"], ["colour"], ["colour", "shape"], ["colour", "shape"], ["size", "shape"]])
        absent = rng.random() < 0.5
        for _ in range(10):
            near = rng.random() < 0.6
            pick = {"shape": _choose(rng, objects).shape if near else _choose(rng, SHAPES),
                    "colour": _choose(rng, objects).colour if near else _choose(rng, list(COLOURS)),
                    "size": _choose(rng, ["small", "large"])}
            pick = {a: pick[a] if absent else getattr(o, a) for a in attributes}
            if any(_matches(other, pick) for other in objects) != absent:
                break
        else:
            return None
        name = _name(pick)
        words["a"] = ("an " if name[0] in "aeiou" else "a ") + name
        meant["a"] = lambda p: _matches(p, pick)
        answer = "no" if absent else "yes"
    elif kind == "count":
        attributes = _choose(rng, [[], ["shape"], ["shape"], ["colour"], ["size"], ["colour", "shape"]])
        pick = {a: getattr(o, a) for a in attributes}
        if rng.random() < 0.2 and attributes:
            pick = {a: _choose(rng, {"shape": SHAPES, "colour": list(COLOURS), "size": list(SIZES)}[a]) for a in attributes}
        words["a"] = _name(pick, plural=True)
        meant["a"] = lambda p: _matches(p, pick)
        answer = str(sum(_matches(other, pick) for other in objects))
    elif kind in ("closest", "farthest", "neighbour"):
        way = _choose(rng, ["closest", "farthest"]) if kind == "neighbour" else kind
        others = sorted((p for p in objects if p is not o), key=lambda p: hypot(p.x - o.x, p.y - o.y))
        if way == "farthest":
            others.reverse()
        if len(others) < 2:
            return None
        first, second = (hypot(p.x - o.x, p.y - o.y) for p in others[:2])
        if abs(first - second) < DISTANCE:
            return None
        words["a"] = refer(rng, scene, o)
        if kind == "neighbour":
            words["what"] = _choose(rng, ["closest to", "nearest to"] if way == "closest" else ["farthest from", "furthest from"])
            answer = f"{others[0].colour} {others[0].shape}"
        else:
            words["what"] = _choose(rng, ["shape", "colour"])
            answer = getattr(others[0], words["what"])
    elif kind == "same":
        words["what"] = _choose(rng, ["shape", "colour"])
        words["a"] = refer(rng, scene, o, hidden=words["what"])
        answer = str(sum(getattr(p, words["what"]) == getattr(o, words["what"]) for p in objects) - 1)
    else:                                                                                     # beside, above, larger, compare, either
        p = _choose(rng, objects)
        words["a"], words["b"] = refer(rng, scene, o), refer(rng, scene, p)
        meant["b"] = lambda other: other is p
        if kind in ("compare", "either"):
            found = [(p.x - o.x, BESIDE, "left", "right"), (p.y - o.y, BESIDE, "above", "below"),
                     ((o.size == "large") - (p.size == "large"), 1, "larger", "smaller")]
            clear = [(more, less) if difference > 0 else (less, more) for difference, margin, more, less in found if abs(difference) >= margin]
            answer = " ".join(word for word, _ in clear)
            if kind == "either" and clear:
                options = _choose(rng, clear)
                answer = options[0]
                words["one"], words["other"] = options if rng.random() < 0.5 else options[::-1]
                words["other"] += {"left": " of", "right": " of", "larger": " than", "smaller": " than"}.get(answer, "")
        else:
            ahead = rng.random() < 0.5
            if kind == "beside":
                words["side"] = "left" if ahead else "right"
                difference, margin = p.x - o.x, BESIDE
            elif kind == "above":
                words["side"] = "above" if ahead else "below"
                words["further"] = _choose(rng, ["higher", "further up"] if ahead else ["lower", "further down"])
                difference, margin = p.y - o.y, BESIDE
            else:
                words["more"] = _choose(rng, ["larger", "bigger"] if ahead else ["smaller"])
                difference, margin = (o.size == "large") - (p.size == "large"), 1
            answer = "yes" if (difference > 0) == ahead else "no"
            clear = abs(difference) >= margin
        if p is o or words["b"] is None or not clear:
            return None
    if words["a"] is None:
        return None
    wording = _choose(rng, WORDINGS[kind])
    colour = "color" if rng.random() < 0.5 else "colour"
    gray = "grey" if rng.random() < 0.2 else "gray"
    question, names = "", []
    for text, blank, *_ in Formatter().parse(wording):
        question += text + (words[blank] if blank else "")
        question = question.replace("colour", colour).replace("gray", gray)
        if blank in meant:
            names.append((len(question) - 1, len(question), tuple(i for i, p in enumerate(objects) if meant[blank](p))))
    return Asked(question, answer, kind, names, looks)


def ask_any(rng, scene: Scene, kinds):
    """A question of a kind drawn from `kinds`; a count if nothing can be asked (of two like objects, say)."""
    for _ in range(50):
        asked = ask(rng, scene, _choose(rng, kinds))
        if asked:
            return asked
    return ask(rng, scene, "count")


# --- searches -------------------------------------------------------------------------------------------------------

NUMBERS = ["one", "two", "three", "four", "five", "six"]
FORMS = 6 * ["{}"] + ["a picture of {}", "a photo of {}", "{} in the picture"]


@dataclass(frozen=True)
class Search:
    """Words that somebody might search with, and what they ask for: of each kind of object that is named `count`, or (None) at least one."""
    text: str
    wanted: list           # [(attributes, half of the picture or None, count or None)]

    def finds(self, scene: Scene) -> bool:
        for attributes, half, count in self.wanted:
            found = sum(all(getattr(o, a) == v for a, v in attributes.items()) and (half is None or set(half.split()) <= set(o.side.split()))
                        for o in scene.objects)
            if found != count if count is not None else not found:
                return False
        return True


def search(rng, scene: Scene) -> Search:
    """Something that the scene shows."""
    article = lambda name: ("an " if name[0] in "aeiou" else "a ") + name

    def named(objects=scene.objects, plural=False):
        o = _choose(rng, objects)
        kept = _choose(rng, [["shape"], ["size", "shape"], ["colour"], ["size", "colour"]] + 2 * [["colour", "shape"], ["size", "colour", "shape"]])
        attributes = {a: getattr(o, a) for a in kept}
        name = " ".join([attributes[k] for k in ("size", "colour") if k in attributes] + [attributes.get("shape", "object")])
        if plural:
            name += "es" if name.endswith("cross") else "s"
        return o, attributes, name

    kind = rng.random()
    if kind < 0.25:
        _, attributes, name = named(plural=True)
        count = sum(all(getattr(o, a) == v for a, v in attributes.items()) for o in scene.objects)
        if count == 1:
            name = name[:-2] if name.endswith("crosses") else name[:-1]
        text, wanted = f"{NUMBERS[count - 1]} {name}", [(attributes, None, count)]
    elif kind < 0.4 and len(scene.objects) > 1:
        i = rng.integers(1, len(scene.objects))
        (_, first, one), (_, second, other) = named(scene.objects[:i]), named(scene.objects[i:])
        if rng.random() < 0.5:
            one, other = other, one
        text, wanted = f"{article(one)} and {article(other)}", [(first, None, None), (second, None, None)]
    else:
        o, attributes, name = named()
        text, half = article(name), None
        if rng.random() < 0.5:
            half = _choose(rng, [o.side, o.side] + o.side.split())
            text += _choose(rng, [" at the ", " at the ", " on the ", " in the "]) + half
        wanted = [(attributes, half, None)]
    return Search(_choose(rng, FORMS).format(text), wanted)
