"""Trains a small Flamingo (arXiv:2204.14198) on the world of shapes, and saves it in Hugging Face's format, as an IDEFICS.

    python train_flamingo.py see      --llava shapes-llava --state RUN --steps 1200
    python train_flamingo.py language --llava shapes-llava --state RUN --steps 480 --interval 1
    python train_flamingo.py language --llava shapes-llava --state RUN --steps 1500 --from RUN/language.pt --turn-steps 150
    python train_flamingo.py flamingo --llava shapes-llava --state RUN --steps 1400 --from EARLIER --forced-steps 100 --copy-steps 0 --out shapes-flamingo

A Flamingo is made of a vision tower and a language model that exist already and stay as they are. Both are made of shapes-llava's. `see`
makes the tower smaller: it begins with four of its six blocks and is distilled from it, on pictures alone. `language` prepares the
language model: it learns to learn from examples (shots.py). It still sees pictures as LLaVA does, through shapes-llava's tower and
projector, with differences that make it a teacher for `flamingo`, which trains what Flamingo adds: the Perceiver Resampler and the
gated cross-attention blocks. See `tell`.

The student learns to do what the teacher does, layer by layer: to look at the same patches, and to have the same hidden states. In the
first steps each of its blocks starts from the teacher's hidden states, later from its own.

One process; with --resume a phase continues from the folder of --state.
"""
import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import IdeficsConfig, IdeficsForVisionText2Text, LlavaForConditionalGeneration

import batches
import shots
import world
from train_tower import blocks as tower_blocks
from training import Optimizer, learning_rate, start_process

FAKE, IMAGE, END = ADDED = ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]      # beyond vocab_size, in this order
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ':' }}{% endif %}"
    "{# Render all images first #}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<fake_token_around_image><image><fake_token_around_image>\n' }}{% else %}{% if message['role'] != 'system' %}{{ ' ' }}{% endif %}{% endfor %}"
    "{# Render all text next #}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ('<end_of_utterance>' if message['role'] == 'assistant' else ' ') }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}")
HEADS, WIDTH = 5, 32                                           # of every attention
LAYERS, INTERVAL = 4, 2                                        # a gated block comes before every second layer of the language model
KEPT = 0, 2, 3, 5                                              # the blocks of shapes-llava's tower that this one begins with


# --- words ----------------------------------------------------------------------------------------------------------

def extend(llava: Path) -> Tokenizer:
    """shapes-llava's tokenizer, in which each made-up word becomes one token, and with IDEFICS' special tokens."""
    file = str(llava / "tokenizer.json")
    old, description = Tokenizer.from_file(file), json.loads(Path(file).read_text())
    vocabulary = description["model"]["vocab"]
    for word in shots.MADE_UP:
        first, second = old.encode("a " + word, add_special_tokens=False).tokens[1:]
        description["model"]["merges"].append([first, second])
        vocabulary[first + second] = len(vocabulary)
    kept = [token for token in description["added_tokens"] if token["id"] < 3]
    description["added_tokens"] = kept + [kept[0] | {"id": len(vocabulary) + i, "content": token} for i, token in enumerate(ADDED)]
    return Tokenizer.from_str(json.dumps(description))


HEAD, BLOCK = 4, 21        # tokens before the first picture: <s>, USER, :, FAKE; and of an episode per picture, padded
STRIP = 80                 # tokens of a conversation about one picture; a caption of six objects fits


class Conversations:
    """Conversations as token ids, in the form that IdeficsProcessor gives to

        USER:<picture>\\n{question} ASSISTANT: {answer}<end_of_utterance>USER: {question} ASSISTANT: {answer}<end_of_utterance>...

    where `<picture>` stands between two FAKE. A token sees the last picture before it, beginning with that picture's own token. The ids
    are therefore laid out as HEAD tokens that see nothing, and one block per picture that begins with IMAGE; 0 pads.
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.fake, self.image, self.end = (tokenizer.token_to_id(token) for token in ADDED)
        self.assistant = tokenizer.token_to_id("▁ASSISTANT")
        self.made_up = {tokenizer.token_to_id("▁" + word) for word in shots.MADE_UP}
        self.opening = self.encode(["USER:"])[0] + [self.fake, self.image, self.fake]

    def encode(self, texts):
        return [e.ids for e in self.tokenizer.encode_batch(texts, add_special_tokens=False)]

    def pictured(self, asked):
        return [self.opening + ids + [self.end] for ids in self.encode([f"\n{q} ASSISTANT: {a}" for q, a in asked])]

    def later(self, asked):
        return [ids + [self.end] for ids in self.encode([f"USER: {q} ASSISTANT: {a}" for q, a in asked])]

    def episode(self, turns):
        """Turns about a picture each; those end in their own block, the HEAD - 1 first tokens of a turn in the one before."""
        ids = [1] + turns[0][:HEAD - 1]
        for turn, following in zip(turns, turns[1:] + [[]]):
            block = turn[HEAD - 1:] + following[:HEAD - 1]
            ids += block + [0] * (BLOCK - len(block))
        return ids

    def fits(self, turn):
        return len(turn) <= BLOCK

    def is_reply(self, ids):
        marks, speaking, colon = [], False, False
        for i in ids:
            marks.append(speaking and not colon)
            colon = i == self.assistant
            speaking = (speaking or colon) and i != self.end
        return marks

    def pad(self, strips, length):
        """(ids, reply marks), each (strips, length)."""
        ids, marks = torch.zeros(len(strips), length, dtype=torch.long), torch.zeros(len(strips), length, dtype=torch.bool)
        for i, strip in enumerate(strips):
            ids[i, :len(strip)], marks[i, :len(strip)] = torch.tensor(strip), torch.tensor(self.is_reply(strip))
        return ids, marks

    def recollections(self, ids):
        """Where two heads are taught to look, in episodes (N, T): `own` (N, T), for the first token of a reply, is the place of the
        made-up word that it answers, else -1; `same` (N, T, T) marks, for a made-up word, the first tokens of the replies to
        earlier questions about the same word, or where there is none the start."""
        own, same = torch.full(ids.shape, -1), torch.zeros(*ids.shape, ids.shape[1], dtype=torch.bool)
        for n, strip in enumerate(ids.tolist()):
            word, replies = None, {}
            marks = self.is_reply(strip)
            for t, i in enumerate(strip):
                if i in self.made_up:
                    word = t
                    same[n, t, replies.get(i, [0])] = True
                elif word is not None and marks[t]:
                    own[n, t] = word
                    replies.setdefault(strip[word], []).append(t)
                    word = None
        return own, same


class Batches(Dataset):
    """(indices of the pictures; conversations about one picture; episodes). The last two are each (ids, reply marks, places of the
    pictures among the indices): (N, T), (N, T), (N, pictures of each). Batch number i depends on (seed, i) alone."""

    def __init__(self, tokenizer, scenes, seed, words, pairs=12, captions=6, episodes=6):
        self.talk, self.scenes, self.seed, self.words = Conversations(tokenizer), scenes, seed, words
        self.pairs, self.captions, self.episodes = pairs, captions, episodes

    def __getitem__(self, step):
        rng = np.random.default_rng((*self.seed, step))
        pictures = rng.choice(len(self.scenes), self.pairs + self.captions, replace=False)
        strips, shown = [], []
        for n, scene in enumerate(self.scenes[p] for p in pictures):
            if n < self.pairs:
                two = self._fill([ordinary(rng, scene) for _ in range(8)])
            else:
                two = self.talk.pictured([(world.CAPTION_PROMPTS[rng.integers(3)], world.caption(scene))])
            strips += [[1] + strip for strip in two]
            shown += [n] * len(two)
        mixed = np.stack([rng.permutation(len(pictures))[:shots.SHOTS + 1] for _ in range(self.episodes)])
        episodes = [self._episode(rng, [self.scenes[p] for p in pictures[row]]) for row in mixed]
        return (torch.from_numpy(pictures), (*self.talk.pad(strips, STRIP), torch.tensor(shown)[:, None]),
                (*self.talk.pad(episodes, HEAD + mixed.shape[1] * BLOCK), torch.from_numpy(mixed)))

    def _fill(self, asked):
        """Two conversations, each of as many turns as fit."""
        two = self.talk.pictured(asked[:2])
        for turn in self.talk.later(asked[2:]):
            i = min((0, 1), key=lambda i: len(two[i]))
            if len(two[i]) + len(turn) < STRIP:
                two[i] = two[i] + turn
        return two

    def _episode(self, rng, scenes):
        """One question per picture, most of them with one of up to three made-up words."""
        known, turns = shots.meanings(rng, self.words, rng.integers(1, 4)), []
        for scene in scenes:
            turn, made_up = None, rng.random() < 0.85
            while turn is None or not self.talk.fits(turn):
                asked = shots.ask(rng, scene, *known[rng.integers(len(known))]) if made_up else ordinary(rng, scene)
                turn = self.talk.pictured([asked])[0] if asked else None
                made_up = made_up and rng.random() < 0.9
            turns.append(turn)
        return self.talk.episode(turns)


def ordinary(rng, scene):
    asked = world.ask_any(rng, scene, batches.ALL if len(scene.objects) > 1 else world.NON_RELATIONAL)
    short = rng.random() < 0.4 and " " not in asked.answer
    return asked.question + (world.SHORT_ANSWER if short else ""), asked.answer


# --- the model ------------------------------------------------------------------------------------------------------

def build(tokenizer: Tokenizer, llava: Path):
    """The Flamingo, with LLaVA's language model; LLaVA's tower and projector; the tokens that LLaVA has before a picture."""
    config = IdeficsConfig(
        vocab_size=tokenizer.get_vocab_size() - len(ADDED), additional_vocab_size=len(ADDED), hidden_size=HEADS * WIDTH, intermediate_size=352,
        num_hidden_layers=LAYERS, num_attention_heads=HEADS, rms_norm_eps=1e-5, max_position_embeddings=512, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, alpha_initializer="zeros", alpha_type="float", cross_layer_interval=INTERVAL, qk_layer_norms=True, use_resampler=True,
        vision_config={"embed_dim": 160, "image_size": batches.IMAGE_SIZE, "patch_size": batches.PATCH_SIZE, "intermediate_size": 256,
                       "num_hidden_layers": len(KEPT), "num_attention_heads": 5, "num_channels": 3, "hidden_act": "gelu", "layer_norm_eps": 1e-5},
        perceiver_config={"use_resampler": True, "resampler_n_latents": batches.IMAGE_TOKENS, "resampler_depth": 1,
                          "resampler_n_heads": HEADS, "resampler_head_dim": WIDTH, "qk_layer_norms_perceiver": True})
    model, old = IdeficsForVisionText2Text(config), LlavaForConditionalGeneration.from_pretrained(llava, dtype=torch.float32)
    lm, text = model.model, old.model.language_model
    lm.layers.load_state_dict(text.layers.state_dict())
    lm.norm.load_state_dict(text.norm.state_dict())
    with torch.no_grad():
        for ours, added, theirs in ((lm.embed_tokens.weight, lm.embed_tokens.additional_embedding.weight, text.embed_tokens.weight),
                                    (model.lm_head.weight, model.lm_head.additional_fc.weight, old.lm_head.weight)):
            known, words = len(ours) - len(shots.MADE_UP), theirs[259:len(ours) - len(shots.MADE_UP)]
            ours[:known] = theirs[:known]
            ours[known:] = torch.randn(len(shots.MADE_UP), ours.shape[1]) * words.std(0) + words.mean(0)
            added[:2] = words.mean(0)
            added[2] = theirs[2]                               # an utterance ends where LLaVA's reply did, with </s>
        model.lm_head.weight[known:] = words.mean(0)
        model.lm_head.weight[2] = words.mean(0)
    prefix = torch.tensor([[1] + tokenizer.encode(batches.PREFIX, add_special_tokens=False).ids])
    return model, (old.model.vision_tower, old.model.multi_modal_projector, prefix)


def split(x):
    return x.unflatten(-1, (HEADS, WIDTH)).transpose(-2, -3)


def join(x):
    return x.transpose(-2, -3).flatten(-2)


def rotary(positions):
    angles = positions[..., None].float() / 10000 ** (torch.arange(0, WIDTH, 2).float() / WIDTH)
    angles = torch.cat([angles, angles], -1)
    return angles.cos(), angles.sin()


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos.to(x.dtype) + torch.cat([-b, a], -1) * sin.to(x.dtype)


def scores(q, k):
    return (q @ k.mT * WIDTH**-0.5).float()


def embed(lm, ids):
    return F.embedding(ids, torch.cat([lm.embed_tokens.weight, lm.embed_tokens.additional_embedding.weight]))


def frame(ids):
    """The rotary tables of the text (N, T), the mask of its self-attention (True: not seen), and which tokens are none."""
    valid, length = ids != 0, ids.shape[1]
    cos, sin = (t[:, None] for t in rotary(valid.cumsum(-1) - 1))
    return cos, sin, (torch.ones(length, length, dtype=torch.bool).triu(1) | ~valid[:, None])[:, None], valid


def blocks_of(q, count):
    """(N, heads, HEAD + count * L, d) -> (N * count, heads, L, d): what sees a picture, by picture."""
    return q[:, :, HEAD:].unflatten(2, (count, -1)).transpose(1, 2).flatten(0, 1)


def unblock(x, count):
    """(N * count, L, D) -> (N, HEAD + count * L, D), with zeros at the first HEAD."""
    return F.pad(x.unflatten(0, (-1, count)).flatten(1, 2), (0, 0, HEAD, 0))


def text_layer(layer, x, cos, sin, masked):
    """A layer of the language model; and its attention (N, heads, T, T)."""
    attention, h = layer.self_attn, layer.input_layernorm(x)
    q, k = (rotate(split(linear(h)), cos, sin) for linear in (attention.q_proj, attention.k_proj))
    p, v = scores(q, k).masked_fill(masked, float("-inf")).softmax(-1), split(attention.v_proj(h))
    x = x + attention.o_proj(join(p.to(v.dtype) @ v))
    return x + layer.mlp(layer.post_attention_layernorm(x)), p


def see(tower, pixels):
    """(P, 3, 64, 64) -> the tower's hidden states after each block, (P, 65, D)."""
    return list(tower_blocks(tower.encoder.layers, tower.pre_layrnorm(tower.embeddings(pixels)), HEADS))


def watch(lm, eyes, pixels):
    """The teacher's pictures: per layer, the keys and values of the patches, (P, heads, 64, d) each, computed as in LLaVA."""
    tower, projector, prefix = eyes
    x = torch.cat([lm.embed_tokens.weight[prefix].expand(len(pixels), -1, -1), projector(see(tower, pixels)[-1][:, 1:])], 1)
    cos, sin = rotary(torch.arange(x.shape[1]))
    masked, told = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1), []
    for layer in lm.layers:
        attention, h = layer.self_attn, layer.input_layernorm(x)
        k, v = rotate(split(attention.k_proj(h)), cos, sin), split(attention.v_proj(h))
        told.append((k[:, :, prefix.shape[1]:], v[:, :, prefix.shape[1]:]))
        x, _ = text_layer(layer, x, cos, sin, masked)
    return told


def tell(lm, pictures, ids, images, parts=None):
    """The teacher: the language model reads the ids (N, T), in which the pictures `images` (N, count) are shown.

    It differs from LLaVA in three ways. The patches get the attention that they get in LLaVA, but the rest, the text, shares among itself
    what a language model without pictures would share: all of it. What comes from the patches is added before the self-attention
    instead of within it. And only the layers look that have a gated block in Flamingo. So it computes x + look(x) and then the layer as
    it is, which is what Flamingo computes. The language model gets used to the last two bit by bit: `parts` (LAYERS, 2) are the parts of
    look(x) that each layer adds before the self-attention and after it; without them it is as just told.

    Returns the final hidden states; for each layer with a gated block (x, x + look(x), attention to the patches); and for each layer what
    its self-attention reads, and where.
    """
    x, count, shown = embed(lm, ids), images.shape[1], images.flatten()
    cos, sin, masked, _ = frame(ids)
    # A block's tokens lie right behind their picture, as in LLaVA, whatever else was told before.
    near = rotary(torch.arange((ids.shape[1] - HEAD) // count) + BEHIND)
    seen, recalled = [], []
    for i, (layer, (k, v)) in enumerate(zip(lm.layers, pictures)):
        read, after = x, 0
        if i % INTERVAL == 0 or parts is not None:
            attention, h = layer.self_attn, layer.input_layernorm(x)
            q = split(attention.q_proj(h))
            patches = scores(rotate(blocks_of(q, count), *near), k[shown])
            words = scores(rotate(q, cos, sin), rotate(split(attention.k_proj(h)), cos, sin)).masked_fill(masked, float("-inf"))
            share = (patches.logsumexp(-1) - blocks_of(words.logsumexp(-1)[..., None], count)[..., 0]).sigmoid()
            p = patches.softmax(-1) * share[..., None]
            look = unblock(attention.o_proj(join(p.to(v.dtype) @ v[shown])), count)
            read, after = (x + look, 0) if parts is None else (x + parts[i, 0] * look, parts[i, 1] * look)
            if i % INTERVAL == 0:
                seen.append((x, x + look, p))
        x, words = text_layer(layer, read, cos, sin, masked)
        x = x + after
        recalled.append((read, words))
    return lm.norm(x), seen, recalled


BEHIND = 2 + batches.IMAGE_TOKENS      # IMAGE's position: that the second FAKE be followed by the position where LLaVA's text begins


def resample(resampler, features):
    """The latents (P, 64, D) of the tower's last hidden states (P, 65, D); and the first block's attention."""
    z, attention = resampler.latents.expand(len(features), -1, -1).to(features.dtype), []
    for block, mlp in resampler.blocks:
        latents = block.latents_layer_norm(z)
        context = torch.cat([block.context_layer_norm(features), latents], 1)
        q, k = block.q_layer_norm(split(block.q_proj(latents))), block.k_layer_norm(split(block.k_proj(context)))
        v = split(block.v_proj(context))
        attention.append(scores(q.to(v.dtype), k.to(v.dtype)).softmax(-1))
        z = z + block.output_proj(join(attention[-1].to(v.dtype) @ v))
        z = z + mlp(z)
    return resampler.layer_norm(z), attention[0]


def look_at(block, x, latents, shown, count):
    """A gated cross-attention block; and its attention (N * count, heads, L, 64)."""
    attention = block.cross_attn
    k, v = attention.k_layer_norm(split(attention.k_proj(latents))), split(attention.v_proj(latents))
    q = blocks_of(attention.q_layer_norm(split(attention.q_proj(block.input_layernorm(x)))), count)
    p = scores(q.to(v.dtype), k.to(v.dtype)[shown]).softmax(-1)
    x = x + block.alpha_cross_attn.tanh() * unblock(attention.o_proj(join(p.to(v.dtype) @ v[shown])), count)
    return x + block.alpha_dense.tanh() * block.mlp(block.post_attention_layernorm(x)), p


def speak(lm, latents, ids, images, forced=None, seen=None, final=None):
    """The Flamingo: its final hidden states. Given what the teacher has `seen` and its `final` hidden states, also how far each block
    and the end are from them, and how badly each block looks where the teacher does. `forced` is the part of the teacher's hidden states
    that each block starts from in the place of its own."""
    x, count, shown = embed(lm, ids), images.shape[1], images.flatten()
    cos, sin, masked, valid = frame(ids)
    far, astray = [], []
    for i, block in enumerate(lm.gated_cross_attn_layers):
        if seen is not None:
            x = x + forced * (seen[i][0] - x)
        x, p = look_at(block, x, latents, shown, count)
        if seen is not None:
            there = blocks_of(valid[:, None, :, None].float(), count)[..., 0]
            astray.append((-(seen[i][2] * (p + 1e-6).log()).sum(-1) * there).sum() / there.sum() / HEADS)
            far.append(distance(x, seen[i][1], seen[i][0], valid))
        for layer in lm.layers[i * INTERVAL:(i + 1) * INTERVAL]:
            x, _ = text_layer(layer, x, cos, sin, masked)
    x = lm.norm(x)
    if seen is not None:
        far.append(distance(x, final, torch.zeros_like(final), valid))
    return x, far, astray


def distance(x, wanted, base, valid):
    """Squared, relative to how far it is from the base to what is wanted."""
    square = lambda t: (t.float() ** 2 * valid[..., None]).sum()
    return square(x - wanted) / square(wanted - base).clamp(min=1e-4)


@torch.no_grad()
def tag_words(lm, patches, read, tags=12):
    """Gives the language model a start in recalling what a made-up word meant, which takes very long to be found by training.

    The words' embeddings get a part of their own, the tag, in directions that hidden states hardly use. Layer 0's last head, which is
    taught to look from an answer to the word asked about, brings the tag there; layer 1's last head looks for the tag of the word. It
    does so in low frequencies of the rotation alone: tags match at any distance. `patches` and what was `read`, [(ids, reply marks, the
    embeddings, what layers 0 and 1 read)], tell which directions are used."""
    rows = range((HEADS - 1) * WIDTH, HEADS * WIDTH)
    low = [rows[i] for half in (0, WIDTH // 2) for i in range(half + WIDTH // 2 - tags // 2, half + WIDTH // 2)]
    first, second = lm.layers[0], lm.layers[1]

    embeddings = lm.embed_tokens.weight
    known = len(embeddings) - len(shots.MADE_UP)
    moment = lambda x: (lambda unit: unit.mT @ unit / len(unit))(F.normalize(x, dim=-1))
    moments, norms = 2 * moment(patches.flatten(0, 1)), []
    for ids, marks, *states in read:
        words = (ids != 0) & ~((ids >= known) & (ids < len(embeddings)))
        moments += sum(moment(x[words]) for x in states)
        norms.append(states[2][marks].norm(dim=-1))
    unused = torch.linalg.eigh(moments)[1].mT                                                  # directions, the least used first
    source, target = unused[:2 * tags:2], unused[1:2 * tags:2]

    codes = F.normalize(torch.randn(len(shots.MADE_UP), tags), dim=-1)
    for _ in range(300):                                       # away from each other
        near = (12 * (codes @ codes.mT - 2 * torch.eye(len(codes)))).exp()
        codes = F.normalize(codes - 0.02 * F.normalize(near @ codes, dim=-1), dim=-1)

    norm, middle = embeddings[259:known].norm(dim=-1).mean(), embeddings[259:known].mean(0)
    words = middle + (embeddings[known:] - middle) / 2
    words -= words @ source.mT @ source
    embeddings[known:] = 0.8 * norm * F.normalize(words, dim=-1) + norm * codes @ source
    first.self_attn.v_proj.weight[low] = 0.2 * source / first.input_layernorm.weight
    first.self_attn.o_proj.weight[:, low] = target.mT * torch.cat(norms).mean() / (0.2 * (HEADS * WIDTH)**0.5)
    for linear, directions in (second.self_attn.q_proj, source), (second.self_attn.k_proj, target):
        linear.weight[rows] *= 0.1
        linear.weight[low] = 3.7 * directions / second.input_layernorm.weight


# --- training -------------------------------------------------------------------------------------------------------

def gallery(count, seed, file: Path):
    """`count` scenes, and their pictures as pixels, (count, 64, 64, 3), kept in a file."""
    if not file.exists():
        rng = np.random.default_rng(seed)
        scenes = [world.sample_scene(rng) for _ in range(count)]
        torch.save((scenes, torch.from_numpy(np.stack([batches.model_size(world.draw(scene)) for scene in scenes]))), file)
    return torch.load(file, weights_only=False)


class Judge:
    """Accuracy of the replies (each token the most likely one) on pictures that are never trained on: of ordinary questions and captions,
    and of questions with made-up words after 0, 4 and 8 shots."""

    def __init__(self, tokenizer, gallery, words, pictures=60, episodes=100):
        self.talk, (self.scenes, self.pixels) = Conversations(tokenizer), gallery
        rng, asked = np.random.default_rng(2**40 + 1), []
        for p, scene in enumerate(self.scenes[:pictures]):
            questions = filter(None, (world.ask(rng, scene, kind) for kind in world.KINDS))
            asked += [(p, q.kind, q.question + world.SHORT_ANSWER, q.answer) for q in questions]
            asked.append((p, "caption", world.CAPTION_PROMPTS[0], world.caption(scene)))
        strips = [[1] + ids for ids in self.talk.pictured([a[2:] for a in asked])]
        self.groups = [([a[1] for a in asked], *self.talk.pad(strips, max(map(len, strips))), torch.tensor([[a[0]] for a in asked]))]
        for count in 0, 4, shots.SHOTS:
            drawn = shots.episodes(np.random.default_rng(2**40 + 2), self.scenes, words, episodes)
            chosen = [turns[:count] + turns[-1:] for _, turns in drawn]
            strips = [self.talk.episode(self.talk.pictured([t[1:] for t in turns])) for turns in chosen]
            ids, marks = self.talk.pad(strips, HEAD + (count + 1) * BLOCK)
            marks[:, :HEAD + count * BLOCK] = False
            self.groups.append(([f"{count} shots"] * episodes, ids, marks, torch.tensor([[t[0] for t in turns] for turns in chosen])))

    @torch.no_grad()
    def __call__(self, model, run):
        right = {}
        for names, *tensors in self.groups:
            for some in (slice(i, i + 100) for i in range(0, len(names), 100)):
                ids, marks, images = (t[some] for t in tensors)
                shown, images = images.unique(return_inverse=True)
                hidden, asked = run(batches.normalise(self.pixels[shown]), ids, images), marks[:, 1:]
                correct = torch.ones_like(asked)
                correct[asked] = model.lm_head(hidden[:, :-1][asked]).argmax(-1) == ids[:, 1:][asked]
                for name, ok in zip(names[some], correct.all(-1)):
                    right.setdefault(name, []).append(ok.item())
        mean = lambda names: float(np.mean([ok for name in names for ok in right[name]]))
        return (f"non-relational {mean(world.NON_RELATIONAL):.4f}  relational {mean(world.RELATIONAL):.4f}  "
                + "  ".join(f"{name} {mean([name]):.3f}" for name in right))


class averaged:
    """Within it, the model has the averaged weights, in bfloat16 as they are exported."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def __enter__(self):
        self.live = [w.clone() for w in self.optimizer.weights]
        for weight, mean in zip(self.optimizer.weights, self.optimizer.average):
            weight.data.copy_(mean.to(torch.bfloat16))

    def __exit__(self, *_):
        for weight, old in zip(self.optimizer.weights, self.live):
            weight.data.copy_(old)


def save(file: Path, **state):
    torch.save(state, file.with_suffix(".part"))
    file.with_suffix(".part").replace(file)


def resume(args, file: Path, learning, optimizer):
    """The step to begin with."""
    if not args.resume:
        return 0
    state = torch.load(file)
    learning.load_state_dict(state["learning"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]


@torch.no_grad()
def begin_with(tower, old, pixels):
    """Gives the tower the blocks KEPT of shapes-llava's, and of their feed-forward units those that matter most for `pixels`. The second
    matrix is fitted, by least squares, to do with these what the old one does with all."""
    tower.embeddings.load_state_dict(old.embeddings.state_dict())
    tower.pre_layrnorm.load_state_dict(old.pre_layrnorm.state_dict())
    tower.post_layernorm.load_state_dict(old.post_layernorm.state_dict())
    inside = []
    hooks = [layer.mlp.fc2.register_forward_pre_hook(lambda _, h: inside.append(h[0].flatten(0, 1))) for layer in old.encoder.layers]
    see(old, pixels)
    for hook in hooks:
        hook.remove()
    for ours, i in zip(tower.encoder.layers, KEPT):
        theirs, units = old.encoder.layers[i], inside[i]
        for name in "self_attn", "layer_norm1", "layer_norm2":
            getattr(ours, name).load_state_dict(getattr(theirs, name).state_dict())
        kept = (units.std(0) * theirs.mlp.fc2.weight.norm(dim=0)).topk(ours.mlp.fc1.out_features).indices
        ours.mlp.fc1.weight.copy_(theirs.mlp.fc1.weight[kept])
        ours.mlp.fc1.bias.copy_(theirs.mlp.fc1.bias[kept])
        fitted = torch.linalg.lstsq(F.pad(units[:, kept], (0, 1), value=1), theirs.mlp.fc2(units)).solution
        ours.mlp.fc2.weight.copy_(fitted[:-1].T)
        ours.mlp.fc2.bias.copy_(fitted[-1])


class Pictures(Dataset):
    """Batches of the pictures, a quarter of them mirrored each way. Number i depends on (seed, i) alone."""

    def __init__(self, pixels, seed, count):
        self.pixels, self.seed, self.count = pixels, seed, count

    def __getitem__(self, step):
        rng = np.random.default_rng((*self.seed, step))
        chosen = self.pixels[torch.from_numpy(rng.choice(len(self.pixels), self.count, replace=False))]
        return torch.cat([part.flip(axes) for part, axes in zip(chosen.chunk(4), ((), (1,), (2,), (1, 2)))])


def distil(args, tokenizer, model, eyes):
    """Trains the tower alone: to have the hidden states of shapes-llava's, and to tell its projector the same."""
    tower, (old, projector, _) = model.model.vision_model, eyes
    data = Pictures(gallery(*PICTURES, args.state / "pictures.pt")[1], (5,), 64)
    begin_with(tower, old, batches.normalise(data[0]))
    optimizer = Optimizer([tower], unused=["post_layernorm"])
    start = resume(args, args.state / "see_state.pt", tower, optimizer)
    pixels = batches.normalise(gallery(600, 2**40, args.state / "judged.pt")[1][:200])

    def losses(pixels):
        """(last layer, what the projector makes of it, the layers before)."""
        with torch.no_grad():
            states = see(old, pixels)
            wanted = [states[i] for i in KEPT]
            told = projector(wanted[-1][:, 1:])
        seen, norm = see(tower, pixels), lambda x: F.layer_norm(x.float(), x.shape[-1:])
        before = sum(F.mse_loss(norm(a[:, 1:]), norm(b[:, 1:])) for a, b in zip(seen[:-1], wanted[:-1])) / (len(KEPT) - 1)
        part = lambda a, b: F.mse_loss(a.float(), b.float()) / b.float().var()
        return part(seen[-1][:, 1:], wanted[-1][:, 1:]), part(projector(seen[-1][:, 1:]), told), before

    compiled, history, clock = torch.compile(losses, dynamic=False), [], time.time()
    for step, batch in enumerate(DataLoader(data, batch_size=None, sampler=range(start, args.steps)), start):
        with torch.autocast("cpu", torch.bfloat16):
            last, told, before = compiled(batches.normalise(batch))
        optimizer.step(last + told + 0.3 * before, learning_rate(step, args.steps, args.lr, 100), step)
        history.append([last.item(), told.item(), before.item()])
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}  last {{:.4f}}  told {{:.4f}}  before {{:.4f}}  ".format(*np.mean(history, 0))
                  + f"{(time.time() - clock) * 20:.0f} ms/step", flush=True)
            history, clock = [], time.time()
        if (step + 1) % 250 == 0 or step + 1 == args.steps:
            with averaged(optimizer), torch.no_grad():
                print(f"step {step + 1}  on other pictures: last {{:.4f}}  told {{:.4f}}  before {{:.4f}}".format(*losses(pixels)), flush=True)
                save(args.state / "tower.pt", **tower.state_dict())
            save(args.state / "see_state.pt", learning=tower.state_dict(), optimizer=optimizer.state_dict(), step=step + 1)
            clock = time.time()


def language(args, tokenizer, model, eyes):
    """Trains the language model alone."""
    lm, projector = model.model, eyes[1]
    learning = nn.ModuleDict({"embed": lm.embed_tokens, "layers": lm.layers, "norm": lm.norm, "head": model.lm_head}).requires_grad_(True)
    scenes, pixels = gallery(*PICTURES, args.state / "pictures.pt")
    data = Batches(tokenizer, scenes, (1,), shots.MADE_UP)
    judge = Judge(tokenizer, gallery(600, 2**40, args.state / "judged.pt"), shots.MADE_UP)

    with torch.no_grad():
        pictures, *groups = data[args.steps]
        some = batches.normalise(pixels[pictures])
        seen = watch(lm, eyes, some)
        told = [(ids, marks, *tell(lm, seen, ids, images)[1:]) for ids, marks, images in groups]
        if args.origin:
            learning.load_state_dict(torch.load(args.origin))
        else:
            tag_words(lm, projector(see(eyes[0], some)[-1][:, 1:]),
                      [(ids, marks, seen[0][0], recalled[0][0], recalled[1][0]) for ids, marks, seen, recalled in told])
    looking = torch.tensor([[float(i % args.interval == 0), 0] for i in range(LAYERS)])
    before = torch.tensor([1.0, 0] if args.origin else [0, 1.0]).expand(LAYERS, 2)

    optimizer = Optimizer([learning])
    start = resume(args, args.state / "language_state.pt", learning, optimizer)
    watching, telling = torch.compile(lambda pixels: watch(lm, eyes, pixels)), torch.compile(tell, dynamic=False)
    run = lambda pixels, ids, images: tell(lm, watch(lm, eyes, pixels), ids, images, looking)[0]
    losses, clock = [], time.time()
    for step, (pictures, *groups) in enumerate(
            DataLoader(data, batch_size=None, sampler=range(start, args.steps), num_workers=1, prefetch_factor=16), start):
        parts = before.lerp(looking, min(1, (step + 1) / args.turn_steps))
        with torch.autocast("cpu", torch.bfloat16):
            seen = watching(batches.normalise(pixels[pictures]))
            told = []
            for ids, marks, images in groups:
                hidden, _, recalled = telling(lm, seen, ids, images, parts)
                asked = marks[:, 1:]
                told.append(F.cross_entropy(model.lm_head(hidden[:, :-1][asked]).float(), ids[:, 1:][asked]))
            own, same = data.talk.recollections(ids)           # the episodes come last
            found = [p[:, -1] for _, p in recalled[:2]]
            n, t = (own >= 0).nonzero(as_tuple=True)
            brought = -(found[0][n, t, own[n, t]] + 1e-6).log().mean()
            n, t = same.any(-1).nonzero(as_tuple=True)
            matched = -((found[1][n, t] * same[n, t]).sum(-1) + 1e-6).log().mean()
        optimizer.step(2 * sum(told) + 0.3 * (brought + matched), learning_rate(step, args.steps, args.lr, 100), step)
        losses.append([loss.item() for loss in (*told, brought, matched)])
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}  one picture {{:.4f}}  episodes {{:.4f}}  own {{:.3f}}  same {{:.3f}}  ".format(*np.mean(losses, 0))
                  + f"{(time.time() - clock) * 20:.0f} ms/step", flush=True)
            losses, clock = [], time.time()
        if (step + 1) % 150 == 0 or step + 1 == args.steps:
            with averaged(optimizer), torch.autocast("cpu", torch.bfloat16):
                print(f"step {step + 1}  {judge(model, run)}", flush=True)
                save(args.state / "language.pt", **learning.state_dict())
            save(args.state / "language_state.pt", learning=learning.state_dict(), optimizer=optimizer.state_dict(), step=step + 1)
            clock = time.time()


def flamingo(args, tokenizer, model, eyes):
    """Trains resampler and cross-attention, with everything else as it is."""
    lm = model.model
    nn.ModuleDict({"embed": lm.embed_tokens, "layers": lm.layers, "norm": lm.norm, "head": model.lm_head}).load_state_dict(
        torch.load(args.state / "language.pt"))
    lm.vision_model.load_state_dict(torch.load(args.state / "tower.pt"))
    model.requires_grad_(False)
    resampler, blocks = lm.perceiver_resampler, lm.gated_cross_attn_layers
    learning = nn.ModuleDict({"resampler": resampler, "blocks": blocks}).requires_grad_(True)
    with torch.no_grad():                                      # a block's queries begin as those of its layer; its gates are closed
        for weight in learning.parameters():
            if weight.ndim > 1 and weight is not resampler.latents:
                nn.init.normal_(weight, std=0.06)
        for block, layer in zip(blocks, lm.layers[::INTERVAL]):
            block.input_layernorm.load_state_dict(layer.input_layernorm.state_dict())
            block.post_attention_layernorm.load_state_dict(layer.post_attention_layernorm.state_dict())
            for name in "q_proj", "o_proj":
                getattr(block.cross_attn, name).load_state_dict(getattr(layer.self_attn, name).state_dict())
            block.cross_attn.q_layer_norm.weight.fill_(2)
        for block, _ in resampler.blocks:
            block.q_layer_norm.weight.fill_(2)
    if args.origin:
        earlier = load_file(args.origin / "model.safetensors")
        step = LAYERS // sum(name.endswith("alpha_dense") for name in earlier)
        begun = {f"resampler.{name}": earlier[f"model.perceiver_resampler.{name}"] for name in resampler.state_dict()}
        for i, block in enumerate(blocks):
            begun |= {f"blocks.{i}.{name}": earlier[f"model.gated_cross_attn_layers.{i * INTERVAL // step}.{name}"] for name in block.state_dict()}
        learning.load_state_dict(begun)

    scenes, pixels = gallery(*PICTURES, args.state / "pictures.pt")
    data = Batches(tokenizer, scenes, (2,), shots.TAUGHT)
    judge = Judge(tokenizer, gallery(600, 2**40, args.state / "judged.pt"), shots.HELD_OUT)
    optimizer = Optimizer([learning])
    optimizer.boost([p for name, p in learning.named_parameters() if "alpha" in name], 10)
    start = resume(args, args.state / "flamingo_state.pt", learning, optimizer)
    look = lambda pixels: resample(resampler, see(lm.vision_model, pixels)[-1])
    watching = torch.compile(lambda pixels: watch(lm, eyes, pixels), dynamic=False)
    telling, looking, speaking = (torch.compile(f, dynamic=False) for f in (tell, look, speak))
    run = lambda pixels, ids, images: speak(lm, look(pixels)[0], ids, images)[0]
    each = torch.arange(batches.IMAGE_TOKENS)
    losses, clock = [], time.time()
    for step, (pictures, *groups) in enumerate(
            DataLoader(data, batch_size=None, sampler=range(start, args.steps), num_workers=1, prefetch_factor=16), start):
        forced, shown = torch.tensor(max(0.0, 1 - step / args.forced_steps)), batches.normalise(pixels[pictures])
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                seen_pictures = watching(shown)
            latents, copied = looking(shown)
            # A latent for each patch, to begin with: what the teacher looks at is then something to look at for the student.
            copying = -(copied[:, :, each, each + 1] + 1e-6).log().mean()
            told, unlike, far, astray = [], [], [], []
            for ids, marks, images in groups:
                with torch.no_grad():
                    wanted, seen, _ = telling(lm, seen_pictures, ids, images)
                hidden, off, away = speaking(lm, latents, ids, images, forced, seen, wanted)
                asked = marks[:, 1:]
                logits, teacher = (model.lm_head(h[:, :-1][asked]).float().log_softmax(-1) for h in (hidden, wanted))
                told.append(F.nll_loss(logits, ids[:, 1:][asked]))
                unlike.append(F.kl_div(logits, teacher, log_target=True, reduction="batchmean"))
                far.append(sum(off) / 2)
                astray.append(sum(away) / 2)
        loss = sum(told) + sum(unlike) + sum(far) + sum(astray) + (0.3 * copying if step < args.copy_steps else 0)
        optimizer.step(loss, learning_rate(step, args.steps, args.lr, 150), step)
        losses.append([loss.item() for loss in (*told, sum(unlike), sum(far), sum(astray), copying)])
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}  one picture {{:.4f}}  episodes {{:.4f}}  unlike {{:.4f}}  far {{:.3f}}  astray {{:.3f}}  copying {{:.3f}}  ".format(
                *np.mean(losses, 0)) + f"{(time.time() - clock) * 20:.0f} ms/step", flush=True)
            losses, clock = [], time.time()
        if (step + 1) % 200 == 0 or step + 1 == args.steps:
            with averaged(optimizer), torch.autocast("cpu", torch.bfloat16):
                print(f"step {step + 1}  {judge(model, run)}", flush=True)
                export(tokenizer, model.config, model.state_dict(), args.out)
            save(args.state / "flamingo_state.pt", learning=learning.state_dict(), optimizer=optimizer.state_dict(), step=step + 1)
            clock = time.time()


PICTURES = 20000, (1, 7)               # how many are drawn for training, and their seed


def export(tokenizer, config, weights, folder: Path):
    """Writes a folder like HuggingFaceM4/idefics-9b-instruct's, in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    write = lambda name, content: (folder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    keep = lambda part, keys: {key: getattr(part, key) for key in keys.split()}
    tensors = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in weights.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write("config.json", {
        "architectures": ["IdeficsForVisionText2Text"], "model_type": "idefics", **keep(
            config, "vocab_size additional_vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads hidden_act "
            "max_position_embeddings rms_norm_eps bos_token_id eos_token_id pad_token_id cross_layer_interval qk_layer_norms use_resampler "
            "alpha_initializer alpha_type alphas_initializer_range dropout initializer_range freeze_lm_head freeze_text_layers "
            "freeze_vision_layers tie_word_embeddings use_cache"),
        "freeze_text_module_exceptions": [], "freeze_vision_module_exceptions": [],
        "vision_config": {"model_type": "idefics", **keep(
            config.vision_config, "embed_dim image_size intermediate_size patch_size num_hidden_layers num_attention_heads num_channels "
            "hidden_act layer_norm_eps")},
        "perceiver_config": {"model_type": "idefics", **keep(
            config.perceiver_config, "use_resampler resampler_n_latents resampler_depth resampler_n_heads resampler_head_dim "
            "qk_layer_norms_perceiver")},
        "torch_dtype": "bfloat16", "transformers_version": "4.49.0"})
    ids = {token: tokenizer.token_to_id(token) for token in ["<unk>", "<s>", "</s>", *ADDED]}
    write("generation_config.json", {
        "bos_token_id": 1, "eos_token_id": [2, ids[END]], "pad_token_id": 0, "bad_words_ids": [[ids[FAKE]], [ids[IMAGE]]]})
    write("preprocessor_config.json", {
        "image_processor_type": "IdeficsImageProcessor", "processor_class": "IdeficsProcessor", "image_num_channels": 3,
        "image_size": batches.IMAGE_SIZE, "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711]})
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>", "additional_special_tokens": ADDED}
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    write("tokenizer_config.json", names | {
        "add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False, "image_token": IMAGE, "legacy": True,
        "model_max_length": 512, "padding_side": "left", "processor_class": "IdeficsProcessor", "tokenizer_class": "LlamaTokenizer",
        "use_default_system_prompt": False, "added_tokens_decoder": {str(i): {"content": token, **plain} for token, i in ids.items()}})
    write("special_tokens_map.json", names)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phase", choices=["see", "language", "flamingo"])
    parser.add_argument("--llava", type=Path, required=True, help="shapes-llava's folder")
    parser.add_argument("--state", type=Path, required=True, help="folder for what is kept between the phases")
    parser.add_argument("--out", type=Path, help="the model folder to write")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--from", dest="origin", type=Path, help="language: an earlier result, language.pt, to train further; flamingo: the folder of one "
                        "with more blocks, whose weights are the beginning")
    parser.add_argument("--interval", type=int, default=INTERVAL, help="language: which layers look, each or every second one")
    parser.add_argument("--turn-steps", type=int, default=200, help="language: steps in which `parts` changes, see tell")
    parser.add_argument("--forced-steps", type=int, default=600, help="steps in which blocks start from the teacher's hidden states, less and less")
    parser.add_argument("--copy-steps", type=int, default=2000, help="steps in which latents are told to look at one patch each")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()

    start_process()
    args.state.mkdir(parents=True, exist_ok=True)
    tokenizer = extend(args.llava)
    model, eyes = build(tokenizer, args.llava)
    for module in model, *eyes[:2]:
        module.requires_grad_(False)
    if args.phase == "see":
        model.model.vision_model.requires_grad_(True)
    {"see": distil, "language": language, "flamingo": flamingo}[args.phase](args, tokenizer, model, eyes)


if __name__ == "__main__":
    main()
