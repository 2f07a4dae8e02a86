"""Trains the vision tower, a small CLIPVisionModel, to see the world of shapes, before a language model looks through it.

    torchrun --nproc-per-node 2 train_tower.py --out RUN/tower.pt --steps 6000

LLaVA, BLIP-2 and Flamingo start from a tower that was trained on millions of captioned pictures. Here, a linear head
asks every patch about the object that it shows and about the objects nearest to and farthest from that one
(PATCH_LABELS); the head is the tower's tutor and is of no use afterwards.
"""
import argparse
import time
from math import hypot
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPVisionConfig, CLIPVisionModel

import batches
import world
from training import Optimizer, learning_rate, start_process

SHAPES, COLOURS = world.SHAPES + ["rectangle"], [*world.COLOURS, "teal", "brown"]              # easy-VQA's too
PATCH_LABELS = {                                               # and how many classes each has
    "object": 2, "shape": len(SHAPES), "colour": len(COLOURS), "size": 2, "rank": 6, "same shape": 6, "same colour": 6,
    "closest shape": len(SHAPES), "closest colour": len(COLOURS), "farthest shape": len(SHAPES), "farthest colour": len(COLOURS),
    "same shape and colour": 6, "same size": 6, "others": 6, "row": 6, "x": 16, "y": 16,
}
RANK = list(PATCH_LABELS).index("rank")
UNKNOWN = -100                                                 # cross_entropy's ignore_index


def patch_labels(scene: world.Scene) -> np.ndarray:
    """(patches, labels). Background patches have an "object" label, 0, and no other."""
    labels = np.full((batches.IMAGE_TOKENS, len(PATCH_LABELS)), UNKNOWN)
    labels[:, 0] = 0
    shape, colour = lambda o: SHAPES.index(o.shape), lambda o: COLOURS.index(o.colour)
    alike = lambda o, *attributes: sum(all(getattr(p, a) == getattr(o, a) for a in attributes) for p in scene.objects) - 1
    side = batches.IMAGE_SIZE // batches.PATCH_SIZE
    step = world.CANVAS / side
    rows, columns = np.divmod(np.arange(batches.IMAGE_TOKENS), side)
    owner_distance = np.full(batches.IMAGE_TOKENS, np.inf)
    for rank, o in enumerate(scene.objects):
        known = [1, shape(o), colour(o), int(o.size == "large"), rank, alike(o, "shape"), alike(o, "colour")]
        others = sorted((hypot(p.x - o.x, p.y - o.y), i) for i, p in enumerate(scene.objects) if p is not o)
        for best, second in ((0, 1), (-1, -2)):
            clear = len(others) > 1 and abs(others[best][0] - others[second][0]) >= world.DISTANCE
            p = scene.objects[others[best][1]] if clear else None
            known += [shape(p), colour(p)] if clear else [UNKNOWN, UNKNOWN]
        known += [alike(o, "shape", "colour"), alike(o, "size"), len(scene.objects) - 1, sum(p.y < o.y for p in scene.objects),
                  int(16 * o.x / world.CANVAS), int(16 * o.y / world.CANVAS)]
        # A patch shows the object if its square comes within 0.7 radii of the object's centre.
        dx = np.maximum(np.abs((columns + .5) * step - o.x) - step / 2, 0)
        dy = np.maximum(np.abs((rows + .5) * step - o.y) - step / 2, 0)
        distance = np.hypot(dx, dy) / o.radius
        shows = (distance < 0.7) & (distance < owner_distance)
        owner_distance[shows] = distance[shows]
        labels[shows] = known
    return labels


def easy_vqa_labels(pixels: np.ndarray, shape, colour) -> np.ndarray:
    """patch_labels of an easy-VQA picture: one object on a plain background. What is not known of it is None."""
    side, size = batches.IMAGE_SIZE // batches.PATCH_SIZE, batches.PATCH_SIZE
    drawn = (np.abs(pixels.astype(int) - pixels[0, 0]).sum(-1) > 30).reshape(side, size, side, size).mean((1, 3)).flatten()
    labels = np.full((batches.IMAGE_TOKENS, len(PATCH_LABELS)), UNKNOWN)
    labels[:, 0] = 0
    labels[drawn >= min(0.25, drawn.max()), :RANK + 1] = [
        1, SHAPES.index(shape) if shape else UNKNOWN, COLOURS.index(colour) if colour else UNKNOWN, UNKNOWN, 0]
    return labels


class LabelledPictures(Dataset):
    """Batch number i, of (pixels, patch labels), depends on (seed, i) alone."""

    def __init__(self, seed, pictures):
        self.seed, self.pictures = seed, pictures

    def __getitem__(self, step):
        rng = np.random.default_rng((*self.seed, step))
        scenes = [world.sample_scene(rng) for _ in range(self.pictures)]
        return (torch.from_numpy(np.stack([batches.model_size(world.draw(scene)) for scene in scenes])),
                torch.from_numpy(np.stack([patch_labels(scene) for scene in scenes])))


def config():
    return CLIPVisionConfig(hidden_size=160, intermediate_size=480, num_hidden_layers=6, num_attention_heads=5, hidden_act="gelu",
                            image_size=batches.IMAGE_SIZE, patch_size=batches.PATCH_SIZE, projection_dim=160)


def tutor_for(model):
    return torch.nn.Linear(model.config.hidden_size, sum(PATCH_LABELS.values()))


def tutor_losses(tutor, patches, labels):
    """(len(PATCH_LABELS),): how badly a linear head reads the labels from the patches. No label, no loss."""
    logits = tutor(patches).float().flatten(0, 1).split(list(PATCH_LABELS.values()), -1)
    wanted = [labels[..., i].flatten() for i in range(len(logits))]
    return torch.stack([F.cross_entropy(l, w, reduction="sum") / (w != UNKNOWN).sum().clamp(min=1) for l, w in zip(logits, wanted)])


def heads(linear, x, count):
    return linear(x).unflatten(-1, (count, -1)).transpose(-2, -3)                              # (..., T, D) -> (..., heads, T, d)


def blocks(layers, x, count, mask=None):
    """x (B, T, D) after each layer of a CLIP encoder; attention as plain matrix products, which train faster than torch's fused kernel
    at these sizes."""
    for layer in layers:
        h, attention = layer.layer_norm1(x), layer.self_attn
        q, k, v = (heads(linear, h, count) for linear in (attention.q_proj, attention.k_proj, attention.v_proj))
        scores = q @ k.mT * attention.scale
        p = (scores if mask is None else scores + mask).softmax(-1, dtype=torch.float32).to(v.dtype)
        x = x + attention.out_proj((p @ v).transpose(1, 2).flatten(2))
        x = x + layer.mlp(layer.layer_norm2(x))
        yield x


def see(tower, pixels):
    """(B, 3, 64, 64) -> (B, 64, D): one vector per patch, what CLIPVisionModel computes."""
    *_, x = blocks(tower.encoder.layers, tower.pre_layrnorm(tower.embeddings(pixels)), tower.config.num_attention_heads)
    return x[:, 1:]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the file to keep the tower and its training state in")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=32, help="pictures per step and process")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()

    rank, _ = start_process()
    tower = CLIPVisionModel(config())
    tutor = tutor_for(tower)
    optimizer, start = Optimizer([tower, tutor], unused=["post_layernorm"]), 0
    if args.resume:
        state = torch.load(args.out)
        tower.load_state_dict(state["tower"])
        tutor.load_state_dict(state["tutor"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]

    loader = DataLoader(LabelledPictures((2, rank), args.batch), batch_size=None, sampler=range(start, args.steps),
                        num_workers=1, prefetch_factor=16)
    compiled = torch.compile(see)
    history, clock = [], time.time()
    for step, (pixels, labels) in enumerate(loader, start):
        with torch.autocast("cpu", torch.bfloat16):
            losses = tutor_losses(tutor, compiled(tower, batches.normalise(pixels)), labels)
        optimizer.step(losses.sum(), learning_rate(step, args.steps, args.lr), step)
        history.append(losses.detach())
        if rank == 0 and (step + 1) % 100 == 0:
            means = "  ".join(f"{name} {loss:.3f}" for name, loss in zip(PATCH_LABELS, torch.stack(history).mean(0).tolist()))
            print(f"step {step + 1}  {means}  {(time.time() - clock) * 10:.0f} ms/step", flush=True)
            history, clock = [], time.time()
        if rank == 0 and ((step + 1) % 500 == 0 or step + 1 == args.steps):
            torch.save({"tower": tower.state_dict(), "tutor": tutor.state_dict(), "optimizer": optimizer.state_dict(),
                        "averaged": optimizer.averaged(), "step": step + 1}, args.out)


if __name__ == "__main__":
    main()
