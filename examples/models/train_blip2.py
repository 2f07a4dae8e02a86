"""Trains a small BLIP-2 (arXiv:2301.12597) on the world of shapes: a Q-Former between a frozen vision tower and a frozen language model.

    python train_blip2.py see  --llava shapes-llava --easy-vqa EASY_VQA --state RUN --steps 3000
    python train_blip2.py talk --llava shapes-llava --easy-vqa EASY_VQA --state RUN --steps 4000 --out shapes-blip2

The language model is shapes-llava's Llama, as it is. `see` makes the vision tower, which BLIP-2 builds in another way than LLaVA's CLIP: it begins
with the CLIP tower's weights and is distilled from it, on pictures alone. The Q-Former listens (no gradient passes to the tower), and learns to say
what shapes-llava's projector says about each patch. `talk` freezes the tower and trains query tokens, Q-Former and language projection on
conversations, through the frozen language model.

One process on one core; with --resume a stage continues from the folder of --state.
"""
import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch.utils.data import DataLoader, Dataset
from transformers import Blip2Config, Blip2ForConditionalGeneration, LlavaForConditionalGeneration

import batches
import tokenizer as words
import world
from train_llava import llama_layer, predictions
from train_tower import blocks, easy_vqa_labels, patch_labels, see
from training import Optimizer, learning_rate, start_process

SIDE = batches.IMAGE_SIZE // batches.PATCH_SIZE
# The first queries say what shapes-llava's prompt says before the picture, "<s> USER: "; then one query per patch.
OPENING, QUERIES = 4, 4 + batches.IMAGE_TOKENS
HEADS = 5
KEPT = 0, 2, 3, 5                    # the blocks of shapes-llava's tower that this one begins with


def build(llava) -> Blip2ForConditionalGeneration:
    vision = dict(hidden_size=160, intermediate_size=480, num_hidden_layers=len(KEPT), num_attention_heads=HEADS, hidden_act="gelu",
                  image_size=batches.IMAGE_SIZE, patch_size=batches.PATCH_SIZE, initializer_range=0.02)
    qformer = dict(vocab_size=llava.config.text_config.vocab_size, hidden_size=160, intermediate_size=320, num_hidden_layers=2,
                   num_attention_heads=HEADS, cross_attention_frequency=2, encoder_hidden_size=160, max_position_embeddings=512)
    model = Blip2ForConditionalGeneration(Blip2Config(
        vision_config=vision, qformer_config=qformer, text_config=llava.config.text_config, num_query_tokens=QUERIES,
        image_token_index=llava.config.image_token_index))
    model.language_model.model.load_state_dict(llava.model.language_model.state_dict())
    model.language_model.lm_head.load_state_dict(llava.lm_head.state_dict())
    return model


# --- the vision tower -----------------------------------------------------------------------------------------------

@torch.no_grad()
def begin_with(tower, clip, pixels):
    """Gives a Blip2VisionModel the weights of a CLIPVisionModel. What differs: the bias of the keys is dropped, which changes no attention;
    and the layer norm between embeddings and blocks becomes a scale, the same for all patches: its mean over those of `pixels`."""
    embeddings, norm, e = tower.embeddings, clip.pre_layrnorm, clip.embeddings
    centred = lambda w: w - w.mean(0, keepdim=True)                                            # over the channels, which come first
    kernel, places = centred(e.patch_embedding.weight), centred(e.position_embedding.weight.T).T
    scale = (1 / e(pixels)[:, 1:].std(-1)).mean()
    embeddings.class_embedding.zero_()
    opening = norm(e.class_embedding + e.position_embedding.weight[0])
    embeddings.patch_embedding.weight.copy_(kernel * norm.weight[:, None, None, None] * scale)
    embeddings.patch_embedding.bias.zero_()
    embeddings.position_embedding.copy_(torch.cat([opening[None], places[1:] * norm.weight * scale + norm.bias])[None])
    for ours, theirs in zip(tower.encoder.layers, (clip.encoder.layers[i] for i in KEPT)):
        a, b = ours.self_attn, theirs.self_attn
        a.qkv.weight.copy_(torch.cat([b.q_proj.weight, b.k_proj.weight, b.v_proj.weight]))
        a.qkv.bias.copy_(torch.cat([b.q_proj.bias, torch.zeros_like(b.k_proj.bias), b.v_proj.bias]))
        a.projection.load_state_dict(b.out_proj.state_dict())
        for name in "layer_norm1", "layer_norm2", "mlp":
            getattr(ours, name).load_state_dict(getattr(theirs, name).state_dict())


def keep_keys_without_bias(tower):
    """BLIP-2's towers have biases for queries and values alone; the fused bias holds zeros in between."""
    width = tower.config.hidden_size
    kept = torch.ones(3 * width)
    kept[width:2 * width] = 0
    for layer in tower.encoder.layers:
        layer.self_attn.qkv.bias.register_hook(lambda gradient: gradient * kept)


def attend(q, k, v):
    """q, k, v (B, heads, T, d) -> what is brought, (B, T, D), and the attention (B, heads, T, T')."""
    p = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
    return (p @ v).transpose(1, 2).flatten(2), p


def look(tower, pixels):
    """(B, 3, 64, 64) -> (B, 65, D), what Blip2VisionModel computes, and the hidden states after each block."""
    x, states = tower.embeddings(pixels), []
    for layer in tower.encoder.layers:
        q, k, v = layer.self_attn.qkv(layer.layer_norm1(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = x + layer.self_attn.projection(attend(q, k, v)[0])
        x = x + layer.mlp(layer.layer_norm2(x))
        states.append(x)
    return tower.post_layernorm(x), states


def taught(clip, pixels):
    """The patches after the blocks of shapes-llava's tower that are kept."""
    states = list(blocks(clip.encoder.layers, clip.pre_layrnorm(clip.embeddings(pixels)), HEADS))
    return [states[i][:, 1:] for i in KEPT]


class Reader(torch.nn.Module):
    """Linear heads on the tower's output: what CLIP's last layer says, and which row and column a patch is in. Of no use afterwards."""

    def __init__(self, width):
        super().__init__()
        self.same = torch.nn.Linear(width, width)
        self.place = torch.nn.Linear(width, 2 * SIDE)
        torch.nn.init.eye_(self.same.weight)


def distillation_losses(reader, seen, states, wanted):
    """(last layer, the layers before, row and column)."""
    norm = lambda x: F.layer_norm(x, x.shape[-1:])
    last = wanted[-1] / wanted[-1].std()
    before = sum(F.mse_loss(norm(a[:, 1:]), norm(b)) for a, b in zip(states, wanted)) / len(states)
    rows, columns = reader.place(seen[:, 1:]).split(SIDE, -1)
    row, column = (t.flatten().expand(len(seen), -1).flatten() for t in torch.meshgrid(*2 * [torch.arange(SIDE)], indexing="ij"))
    place = F.cross_entropy(rows.flatten(0, 1), row) + F.cross_entropy(columns.flatten(0, 1), column)
    return F.mse_loss(reader.same(seen[:, 1:]), last), before, place


class Pictures(Dataset):
    """Batch number i, of pixels, depends on (seed, i) alone. An eighth is easy-VQA's."""

    def __init__(self, easy_vqa, seed, pictures):
        self.easy_vqa, self.seed, self.pictures = easy_vqa, seed, pictures

    def __getitem__(self, step):
        rng = np.random.default_rng((*self.seed, step))
        pixels = [batches.model_size(world.draw(world.sample_scene(rng))) for _ in range(self.pictures * 7 // 8)]
        names = self.easy_vqa.images
        pixels += [batches.jitter(rng, self.easy_vqa.pixels[names[rng.integers(len(names))]]) for _ in range(self.pictures - len(pixels))]
        return torch.from_numpy(np.stack(pixels))


# --- the Q-Former ---------------------------------------------------------------------------------------------------

@torch.no_grad()
def begin_queries(model):
    torch.nn.init.normal_(model.query_tokens)
    # A query starts as its own name, in full; after the first attention it is to be the picture's more than its own.
    model.qformer.encoder.layer[0].attention.output.LayerNorm.weight.fill_(0.3)


def ask(model, seen):
    """The tower's output (B, 65, D) -> what the queries tell the language model, (B, QUERIES, D'), and the first layer's attention to the picture."""
    def mixed(block, x, source):
        q, k, v = (linear(t).unflatten(-1, (HEADS, -1)).transpose(1, 2) for linear, t in
                   zip((block.attention.query, block.attention.key, block.attention.value), (x, source, source)))
        brought, p = attend(q, k, v)
        return block.output.LayerNorm(block.output.dense(brought) + x), p

    x, pointing = model.qformer.layernorm(model.query_tokens).expand(len(seen), -1, -1), []
    for layer in model.qformer.encoder.layer:
        x, _ = mixed(layer.attention, x, x)
        if layer.has_cross_attention:
            x, p = mixed(layer.crossattention, x, seen)
            pointing.append(p)
        x = layer.output_query.LayerNorm(layer.output_query.dense(layer.intermediate_query(x)) + x)
    return model.language_projection(x), pointing[0]


def pointing_loss(attention):
    """How little of the attention (B, heads, QUERIES, 65) of a patch's query is on that patch. Key 0 is the class token."""
    return -(attention[:, :, OPENING:, 1:].diagonal(dim1=-2, dim2=-1) + 1e-6).log().mean()


def telling_loss(told, wanted):
    """told (B, QUERIES, D'), wanted (B, QUERIES, D'): squared differences in units of the picture's part of `wanted`. The opening counts double."""
    difference = (told - wanted).square().mean((0, 2)) / wanted[:, OPENING:].var()
    return difference[OPENING:].mean() + difference[:OPENING].mean()


# --- the language model ---------------------------------------------------------------------------------------------

def listen(model, told, *strips):
    """What the queries tell, (B, QUERIES, D), and groups of strips, (b, S, T) -> final hidden states, (b, S, T, D). The same as the transformers
    classes compute, but for the queries once per picture."""
    llama, seen = model.language_model.model, told.shape[1]
    cos, sin = llama.rotary_emb(told, torch.arange(seen + max(t.shape[-1] for t in strips))[None])
    rotary = lambda start, length: (cos[0, start:start + length], sin[0, start:start + length])
    texts = [llama.embed_tokens(t) for t in strips]
    for layer in llama.layers:
        told, (k, v) = llama_layer(layer, told, [t[None] for t in rotary(0, seen)])
        texts = [llama_layer(layer, text, [t[None, None] for t in rotary(seen, text.shape[2])], (k[:len(text)], v[:len(text)]))[0]
                 for text in texts]
    return [llama.norm(text) for text in texts]


def with_start(ids, looks, marks):
    """The processor puts the queries before <s>, so every strip begins with <s>."""
    return F.pad(ids, (1, 0), value=1), F.pad(marks, (1, 0))


@torch.no_grad()
def check(model, tokenizer, pictures=300):
    """train_llava.check's numbers."""
    strips = batches.Strips(tokenizer)
    rng = np.random.default_rng(2**40)
    right = {kind: [] for kind in world.KINDS + ["caption"]}
    for _ in range(pictures):
        scene = world.sample_scene(rng)
        asked = list(filter(None, (world.ask(rng, scene, kind) for kind in world.KINDS)))
        asked.append(world.Asked(world.CAPTION_PROMPTS[0], world.caption(scene), "caption", [], []))
        pixels = torch.from_numpy(batches.model_size(world.draw(scene)))[None]
        turns = list(strips.turns(asked, first=True))
        ids, marks = (t[None] for t in with_start(*strips.pad(turns, max(len(ids) for ids, _ in turns))))
        told, _ = ask(model, look(model.vision_model, batches.normalise(pixels))[0])
        hidden, = listen(model, told, ids)
        correct = model.language_model.lm_head(hidden[:, :, :-1]).argmax(-1) == ids[:, :, 1:]
        for a, ok in zip(asked, (correct | ~marks[:, :, 1:]).all(-1)[0]):
            right[a.kind].append(ok.item())
    mean = lambda kinds: float(np.mean([r for kind in kinds for r in right[kind]]))
    return mean(world.NON_RELATIONAL), mean(world.RELATIONAL), mean(["caption"]), {k: round(mean([k]), 3) for k in right}


# --- the model folder -----------------------------------------------------------------------------------------------

CHAT_TEMPLATE = (
    "{# The processor puts the picture before all text. The first question begins a line, as it does in shapes-llava's prompt. #}"
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '\\n' if loop.first else 'USER: ' }}"
    "{% elif message['role'] == 'assistant' %}{{ 'ASSISTANT: ' }}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ('</s>' if message['role'] == 'assistant' else ' ') }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}")


def export(model, tokenizer, weights, folder: Path):
    """Writes a folder like Salesforce/blip2-opt-2.7b's, in bfloat16."""
    words.save(tokenizer, folder)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    save_file({name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in weights.items()}, folder / "model.safetensors",
              metadata={"format": "pt"})
    write = lambda name, content: (folder / name).write_text(json.dumps(content, indent=1) + "\n")
    keep = lambda part, keys: {key: getattr(part, key) for key in keys.split()}
    text, vision, qformer = model.config.text_config, model.config.vision_config, model.config.qformer_config
    # Blip2Processor takes the token <image> of a tokenizer that has no "image_token" of its own.
    names = json.loads((folder / "tokenizer_config.json").read_text())
    del names["image_token"]
    write("tokenizer_config.json", names | {"processor_class": "Blip2Processor"})
    write("config.json", {
        "architectures": ["Blip2ForConditionalGeneration"], "model_type": "blip-2", "num_query_tokens": QUERIES,
        "image_token_index": model.config.image_token_index, "image_text_hidden_size": 256, "initializer_factor": 1.0,
        "initializer_range": 0.02, "use_decoder_only_language_model": True,
        "text_config": {"architectures": ["LlamaForCausalLM"], "rope_theta": 10000.0, "torch_dtype": "bfloat16", **keep(
            text, "model_type vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads "
            "head_dim hidden_act max_position_embeddings rms_norm_eps bos_token_id eos_token_id pad_token_id attention_bias mlp_bias "
            "tie_word_embeddings")},
        "qformer_config": {"torch_dtype": "bfloat16", **keep(
            qformer, "model_type vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads hidden_act "
            "cross_attention_frequency encoder_hidden_size max_position_embeddings layer_norm_eps")},
        "vision_config": {"torch_dtype": "bfloat16", **keep(
            vision, "model_type hidden_size intermediate_size num_hidden_layers num_attention_heads image_size patch_size hidden_act "
            "layer_norm_eps qkv_bias")},
        "torch_dtype": "bfloat16", "transformers_version": "4.49.0"})
    write("generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": text.pad_token_id})
    write("preprocessor_config.json", {
        "image_processor_type": "BlipImageProcessor", "processor_class": "Blip2Processor", "do_convert_rgb": True,
        "do_resize": True, "size": {"height": batches.IMAGE_SIZE, "width": batches.IMAGE_SIZE}, "resample": 3,
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]})
    write("processor_config.json", {"processor_class": "Blip2Processor", "num_query_tokens": QUERIES})


# --- training -------------------------------------------------------------------------------------------------------

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["see", "talk"])
    parser.add_argument("--llava", type=Path, required=True, help="the folder of shapes-llava: teacher, and giver of the language model")
    parser.add_argument("--easy-vqa", type=Path, required=True, help="easy-VQA's data folder, with train/ inside")
    parser.add_argument("--state", type=Path, required=True, help="folder for the training state")
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=32, help="pictures per step; an eighth of them easy-VQA's")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()

    start_process()
    args.state.mkdir(parents=True, exist_ok=True)
    seeing = args.stage == "see"
    easy_vqa = batches.EasyVqa(args.easy_vqa / "train")
    tokenizer = Tokenizer.from_file(str(args.llava / "tokenizer.json"))
    llava = LlavaForConditionalGeneration.from_pretrained(args.llava, dtype=torch.float32).eval().requires_grad_(False)
    clip, projector = llava.model.vision_tower, llava.model.multi_modal_projector
    opening = llava.model.language_model.embed_tokens(torch.tensor(batches.Strips(tokenizer).prefix))
    model, reader, start = build(llava).eval(), Reader(clip.config.hidden_size), 0             # eval: no dropout
    if seeing:
        data = Pictures(easy_vqa, (3, 0), args.batch)
    else:
        data = batches.Batches(tokenizer, easy_vqa, seed=(4, 0), pictures=args.batch * 7 // 8, easy_pictures=args.batch // 8,
                               captioned=args.batch // 2, simple_steps=0, label=patch_labels, easy_label=easy_vqa_labels)

    state = torch.load(args.state / f"{args.stage}.pt") if args.resume else None
    if args.resume:
        model.load_state_dict(state["model"])
        reader.load_state_dict(state["reader"])
        start = state["step"]
    elif seeing:
        begin_with(model.vision_model, clip, batches.normalise(data[0]))
        begin_queries(model)
    else:
        model.load_state_dict(torch.load(args.state / "see.pt")["averaged"])
    keep_keys_without_bias(model.vision_model)
    optimizer = Optimizer([model, reader] if seeing else [model], unused=["language_model"] if seeing else ["language_model", "vision_model"])
    if args.resume:
        optimizer.load_state_dict(state["optimizer"])
    model.language_model.requires_grad_(False)
    model.vision_model.requires_grad_(seeing)

    def wanted_of(patches):
        """What shapes-llava's language model is told: (B, QUERIES, D')."""
        return torch.cat([opening.expand(len(patches), -1, -1), projector(patches)], 1)

    def see_losses(pixels):
        pixels = batches.normalise(pixels)
        wanted = taught(clip, pixels)
        seen, states = look(model.vision_model, pixels)
        last, before, place = distillation_losses(reader, seen, states, wanted)
        told, pointing = ask(model, seen.detach())
        return {"last": last, "before": (0.3, before), "place": (0.1, place), "told": telling_loss(told, wanted_of(wanted[-1])),
                "pointing": (0.3, pointing_loss(pointing))}

    def talk_losses(batch):
        _, pixels, *strips = batch
        pixels = batches.normalise(pixels)
        with torch.no_grad():
            seen, _ = look(model.vision_model, pixels)
            wanted = wanted_of(see(clip, pixels))
        told, pointing = ask(model, seen)
        strips = [with_start(*s) for s in strips]
        pairs = [predictions(model.language_model, hidden, ids, marks) for hidden, (ids, marks) in
                 zip(listen(model, told, *(ids for ids, _ in strips)), strips)]
        answers, captions = (F.cross_entropy(logits, targets) for logits, targets in pairs)
        return {"answers": answers, "captions": captions, "told": (0.3, telling_loss(told, wanted)), "pointing": (0.1, pointing_loss(pointing))}

    loader = DataLoader(data, batch_size=None, sampler=range(start, args.steps), num_workers=1, prefetch_factor=16)
    losses, clock = [], time.time()
    judge = build(llava).eval()
    for step, batch in enumerate(loader, start):
        parts = {name: part if isinstance(part, tuple) else (1, part) for name, part in (see_losses if seeing else talk_losses)(batch).items()}
        optimizer.step(sum(weight * loss for weight, loss in parts.values()), learning_rate(step, args.steps, args.lr), step)
        losses.append([loss.item() for _, loss in parts.values()])
        if (step + 1) % 50 == 0:
            means = "  ".join(f"{name} {loss:.4f}" for name, loss in zip(parts, np.mean(losses, 0)))
            print(f"step {step + 1}  {means}  {(time.time() - clock) * 20:.0f} ms/step", flush=True)
            losses, clock = [], time.time()
        if (step + 1) % 250 == 0 or step + 1 == args.steps:
            averaged = optimizer.averaged()
            judge.load_state_dict({name: tensor.to(torch.bfloat16).float() for name, tensor in averaged.items()})
            simple, relational, captions_right, kinds = check(judge, tokenizer, 150 if step + 1 < args.steps else 300)
            print(f"step {step + 1}  non-relational {simple:.4f}  relational {relational:.4f}  captions {captions_right:.4f}  {kinds}", flush=True)
            export(judge, tokenizer, averaged, args.out)
            torch.save({"model": model.state_dict(), "reader": reader.state_dict(), "optimizer": optimizer.state_dict(), "averaged": averaged,
                        "step": step + 1}, args.state / "state.part")
            (args.state / "state.part").replace(args.state / f"{args.stage}.pt")
            clock = time.time()


if __name__ == "__main__":
    main()
