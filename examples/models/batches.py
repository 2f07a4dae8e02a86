"""Training batches: pictures of the world of shapes, mixed with easy-VQA's, and conversations about them.

Every picture starts several independent conversations: SLOTS strips of SLOT_LENGTH tokens filled with question-answer
turns, and for some pictures one strip with a caption. All of them share the tokens up to the image, the PREFIX, which
a model then computes once per picture. Batch number i depends on (seed, i) alone, so a run can be resumed anywhere.

Besides the ids, a strip has looks: for each token the objects of the picture that its reader should look at, as bits
(bit i for object i from the left; NOWHERE if the words fit no object; 0 if it may look at what it likes).
"""
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

import world
from tokenizer import NEXT_PROMPT, REPLY

IMAGE_SIZE, PATCH_SIZE = 64, 8
IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2
# What the first steps ask: to find one object and tell about it. Questions of all kinds at once are not learnt for long.
SIMPLE = ["shape", "colour", "size", "left-right", "top-bottom"] + 3 * ["describe"]
# And what the others ask: most are about two objects, and those most that take longest to learn.
ALL = (world.NON_RELATIONAL + 5 * ["closest", "farthest", "above"] + ["same", "larger"] + 3 * ["beside"]
       + ["describe", "compare"] + 2 * ["neighbour", "either"])
SLOTS, SLOT_LENGTH, CAPTION_LENGTH = 4, 48, 70
NOWHERE = 1 << 6
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])       # CLIP's
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])

PREFIX = "USER: "                                              # then the image, then the strips
FIRST_TURN = "\n{question} ASSISTANT:"


def model_size(picture: Image.Image) -> np.ndarray:
    """What CLIPImageProcessor does to a square picture before it normalises: Pillow's bicubic resize."""
    return np.array(picture.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float."""
    return ((pixels / 255 - MEAN) / STD).permute(0, 3, 1, 2)


class EasyVqa:
    """One split of github.com/vzhou842/easy-VQA: 64 x 64 pictures of one shape, and questions about it."""

    def __init__(self, folder: Path):
        self.questions = {}
        for question, answer, image in json.loads((folder / "questions.json").read_text()):
            self.questions.setdefault(image, []).append((question, answer))
        self.images = sorted(self.questions)
        self.pixels = {i: np.asarray(Image.open(folder / "images" / f"{i}.png").convert("RGB")) for i in self.images}
        self.shown = {i: self._shown(asked) for i, asked in self.questions.items()}            # (shape or None, colour or None)

    _NAME = re.compile(r"(?:(\w+) )?(shape|circle|rectangle|triangle)\b")
    _SHAPES, _COLOURS = ["circle", "rectangle", "triangle"], ["black", "gray", "red", "green", "blue", "yellow", "teal", "brown"]

    def _shown(self, asked):
        """What the questions and answers about a picture tell of its shape and colour."""
        found = set()
        for question, answer in asked:
            if answer not in ("yes", "no"):
                found |= {answer, *self._NAME.search(question).groups()}
            elif (answer == "no") == (" not " in question or " no " in question):
                found |= set(self._NAME.search(question).groups())
        known = lambda words: next((w for w in words if w in found), None)
        return known(self._SHAPES), known(self._COLOURS)

    def ask(self, image, i) -> world.Asked:
        question, answer = self.questions[image][i]
        name, (shape, colour) = self._NAME.search(question), self.shown[image]
        # A colour or shape that the picture does not have is named in a question about yes or no alone.
        contradicted = (name[1] in self._COLOURS and name[1] != colour) or (name[2] in self._SHAPES and name[2] != shape)
        return world.Asked(question, answer, "easy-VQA", [(name.end() - 1, name.end(), () if contradicted else (0,))], [])


class Strips:
    """Conversations as token ids, and which of the ids are to be predicted."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.end, self.assistant = tokenizer.token_to_id("</s>"), tokenizer.token_to_id("▁ASSISTANT")
        self.prefix = [tokenizer.token_to_id("<s>")] + self._encode([PREFIX])[0].ids

    def _encode(self, texts):
        return self.tokenizer.encode_batch(texts, add_special_tokens=False)

    def turns(self, asked, first):
        """(ids, looks) of each Asked, as the first or a later turn of a conversation."""
        form = FIRST_TURN if first else NEXT_PROMPT
        starts = form.index("{question}"), len(form) - len("{question}") + REPLY.index("{answer}")
        encoded = self._encode([(form + REPLY).format(question=a.question, answer=a.answer) for a in asked])
        for a, e in zip(asked, encoded):
            looks = [0] * len(e.ids)
            for offset, parts in (starts[0], a.meant), (starts[1] + len(a.question), a.looks):
                for start, end, objects in parts:
                    for t, (begin, stop) in enumerate(e.offsets):
                        if begin < offset + end and stop > offset + start:
                            looks[t] = sum(1 << i for i in objects) or NOWHERE
            yield e.ids, looks

    def is_reply(self, ids):
        """Marks the tokens after "ASSISTANT:", the end of the reply included."""
        marks, speaking, colon = [], False, False
        for i in ids:
            marks.append(speaking and not colon)
            colon = i == self.assistant
            speaking = (speaking or colon) and i != self.end
        return marks

    def pad(self, strips, length):
        """(ids, looks, reply marks), each (strips, length)."""
        tensors = ids, looks, marks = tuple(torch.zeros(len(strips), length, dtype=t) for t in (torch.long, torch.long, torch.bool))
        for i, (words, seen) in enumerate(strips):
            ids[i, :len(words)] = torch.tensor(words)
            looks[i, :len(words)] = torch.tensor(seen)
            marks[i, :len(words)] = torch.tensor(self.is_reply(words))
        return tensors


class Batches(Dataset):
    """(patch labels, pixels, slots, captions); slots and captions are each (ids, looks, reply marks).

    The pictures of the world come first, easy-VQA's last. The first `captioned` of them have a caption.
    """

    def __init__(self, tokenizer, easy_vqa, seed, pictures, easy_pictures, captioned, simple_steps, label, easy_label):
        self.strips, self.easy_vqa, self.seed = Strips(tokenizer), easy_vqa, seed
        self.pictures, self.easy_pictures, self.captioned, self.simple_steps = pictures, easy_pictures, captioned, simple_steps
        self.label, self.easy_label = label, easy_label

    def __getitem__(self, step):
        rng = np.random.default_rng((*self.seed, step))
        simple = step < self.simple_steps
        pixels, labels, slots, captions = [], [], [], []
        for i in range(self.pictures):
            scene = world.sample_scene(rng)
            pixels.append(model_size(world.draw(scene)))
            labels.append(self.label(scene))
            known = SIMPLE if simple else ALL if len(scene.objects) > 1 else world.NON_RELATIONAL
            slots += self._fill(rng, lambda: world.ask_any(rng, scene, known))
            if i < self.captioned:
                text, looks = world.describe(scene, range(len(scene.objects)))
                captions += self.strips.turns([world.Asked(world.CAPTION_PROMPTS[rng.integers(3)], text, "caption", [], looks)], first=True)
        for _ in range(self.easy_pictures):
            image = self.easy_vqa.images[rng.integers(len(self.easy_vqa.images))]
            pixels.append(jitter(rng, self.easy_vqa.pixels[image]))
            labels.append(self.easy_label(pixels[-1], *self.easy_vqa.shown[image]))
            slots += self._fill(rng, lambda: self.easy_vqa.ask(image, rng.integers(len(self.easy_vqa.questions[image]))))
        by_picture = lambda tensors, per: tuple(t.unflatten(0, (-1, per)) for t in tensors)
        return (torch.from_numpy(np.stack(labels)), torch.from_numpy(np.stack(pixels)),
                by_picture(self.strips.pad(slots, SLOT_LENGTH), SLOTS), by_picture(self.strips.pad(captions, CAPTION_LENGTH), 1))

    def _fill(self, rng, ask):
        """SLOTS conversations, each of as many turns as fit."""
        asked = [ask() for _ in range(3 * SLOTS)]
        asked = [replace(a, question=a.question + world.SHORT_ANSWER) if rng.random() < 0.3 and " " not in a.answer else a for a in asked]
        strips = list(self.strips.turns(asked[:SLOTS], first=True))
        for ids, looks in self.strips.turns(asked[SLOTS:], first=False):
            i = min(range(SLOTS), key=lambda i: len(strips[i][0]))
            if len(strips[i][0]) + len(ids) <= SLOT_LENGTH:
                strips[i] = strips[i][0] + ids, strips[i][1] + looks
        return strips


def jitter(rng, pixels):
    """Mirrored and shifted a little: easy-VQA has 4,000 pictures to learn from, and asks nothing about positions."""
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    dx, dy = rng.integers(-3, 4, 2)
    padded = np.pad(pixels, ((3, 3), (3, 3), (0, 0)), mode="edge")
    return padded[3 + dy:3 + dy + IMAGE_SIZE, 3 + dx:3 + dx + IMAGE_SIZE]
