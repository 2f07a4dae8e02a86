"""Training batches: pictures of the world of shapes, mixed with easy-VQA's, and conversations about them.

Every picture starts several independent conversations: SLOTS strips of SLOT_LENGTH tokens filled with question-answer
turns, and for some pictures one strip with a caption. All of them share the tokens up to the image, the PREFIX, which
a model then computes once per picture. Batch number i depends on (seed, i) alone, so a run can be resumed anywhere.
"""
import json
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
SLOTS, SLOT_LENGTH, CAPTION_LENGTH = 4, 48, 70
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


class Strips:
    """Conversations as token ids, and which of the ids are to be predicted."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.end, self.assistant = tokenizer.token_to_id("</s>"), tokenizer.token_to_id("▁ASSISTANT")
        self.prefix = [tokenizer.token_to_id("<s>")] + self._encode([PREFIX])[0]

    def _encode(self, texts):
        return [e.ids for e in self.tokenizer.encode_batch(texts, add_special_tokens=False)]

    def turns(self, asked, first):
        """Token ids of each (question, answer), as the first or a later turn of a conversation."""
        form = (FIRST_TURN if first else NEXT_PROMPT) + REPLY
        return self._encode([form.format(question=q, answer=a) for q, a in asked])

    def is_reply(self, ids):
        """Marks the tokens after "ASSISTANT:", the end of the reply included."""
        marks, speaking, colon = [], False, False
        for i in ids:
            marks.append(speaking and not colon)
            colon = i == self.assistant
            speaking = (speaking or colon) and i != self.end
        return marks


class Batches(Dataset):
    """(scenes' patch labels, pixels, slots, slots' reply marks, captions, captions' reply marks).

    The pictures of the world come first, easy-VQA's last. The first `captioned` of them have a caption.
    """

    def __init__(self, tokenizer, easy_vqa, seed, pictures, easy_pictures, captioned, simple_steps, label):
        self.strips, self.easy_vqa, self.seed = Strips(tokenizer), easy_vqa, seed
        self.pictures, self.easy_pictures, self.captioned, self.simple_steps = pictures, easy_pictures, captioned, simple_steps
        self.label = label

    def __getitem__(self, step):
        rng = np.random.default_rng((*self.seed, step))
        simple = step < self.simple_steps
        pixels, labels, slots, captions = [], [], [], []
        for i in range(self.pictures):
            scene = world.sample_scene(rng)
            pixels.append(model_size(world.draw(scene)))
            labels.append(self.label(scene))
            known = SIMPLE if simple else world.KINDS + SIMPLE if len(scene.objects) > 1 else world.NON_RELATIONAL
            slots += self._fill(rng, lambda: world.ask_any(rng, scene, known)[:2])
            if i < self.captioned:
                captions += self.strips.turns([(world.CAPTION_PROMPTS[rng.integers(3)], world.caption(scene))], first=True)
        for _ in range(self.easy_pictures):
            image = self.easy_vqa.images[rng.integers(len(self.easy_vqa.images))]
            asked = self.easy_vqa.questions[image]
            pixels.append(_jitter(rng, self.easy_vqa.pixels[image]))
            slots += self._fill(rng, lambda: asked[rng.integers(len(asked))])
        slots, slot_marks = self._pad(slots, SLOT_LENGTH)
        captions, caption_marks = self._pad(captions, CAPTION_LENGTH)
        by_picture = lambda t: t.view(self.pictures + self.easy_pictures, SLOTS, SLOT_LENGTH)
        return (torch.from_numpy(np.stack(labels)), torch.from_numpy(np.stack(pixels)),
                by_picture(slots), by_picture(slot_marks), captions[:, None], caption_marks[:, None])

    def _fill(self, rng, ask):
        """SLOTS conversations, each of as many turns as fit."""
        asked = [ask() for _ in range(3 * SLOTS)]
        asked = [(q + world.SHORT_ANSWER if rng.random() < 0.3 and " " not in a else q, a) for q, a in asked]
        strips = self.strips.turns(asked[:SLOTS], first=True)
        for turn in self.strips.turns(asked[SLOTS:], first=False):
            shortest = min(strips, key=len)
            if len(shortest) + len(turn) <= SLOT_LENGTH:
                shortest += turn
        return strips

    def _pad(self, strips, length):
        ids, marks = torch.zeros(len(strips), length, dtype=torch.long), torch.zeros(len(strips), length, dtype=torch.bool)
        for i, strip in enumerate(strips):
            ids[i, :len(strip)] = torch.tensor(strip)
            marks[i, :len(strip)] = torch.tensor(self.strips.is_reply(strip))
        return ids, marks


def _jitter(rng, pixels):
    """Mirrored and shifted a little: easy-VQA has 4,000 pictures to learn from, and asks nothing about positions."""
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    dx, dy = rng.integers(-3, 4, 2)
    padded = np.pad(pixels, ((3, 3), (3, 3), (0, 0)), mode="edge")
    return padded[3 + dy:3 + dy + IMAGE_SIZE, 3 + dx:3 + dx + IMAGE_SIZE]
