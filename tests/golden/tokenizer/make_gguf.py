#!/usr/bin/env python3
"""Writes gguf/: the tokenizers of files/ as llama.cpp's converters put them into a GGUF file, and for those whose ids change on the way
(t5 loses its map of characters, to stay small) the reference's ids. All others have the ids of files/<name>/expected.jsonl.

    pip install tokenizers==0.23.3 sentencepiece==0.2.3 protobuf==7.36.2
    python3 make_gguf.py
"""
import json, os, struct

from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

os.chdir(os.path.dirname(os.path.abspath(__file__)))
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)
U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9


def text(value):
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(v):
    if isinstance(v, bool):
        return BOOL, struct.pack("<B", v)
    if isinstance(v, int):
        return U32, struct.pack("<I", v)
    if isinstance(v, str):
        return STRING, text(v)
    kind = STRING if isinstance(v[0], str) else F32 if isinstance(v[0], float) else I32
    items = b"".join(map(text, v)) if kind == STRING else struct.pack(f"<{len(v)}{'f' if kind == F32 else 'i'}", *v)
    return ARRAY, struct.pack("<IQ", kind, len(v)) + items


def write(name, architecture, model, **fields):
    pairs = {"general.architecture": architecture, "tokenizer.ggml.model": model, **{"tokenizer.ggml." + k: v for k, v in fields.items()}}
    out = b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs))
    for key, v in pairs.items():
        kind, raw = value(v)
        out += text(key) + struct.pack("<I", kind) + raw
    open(f"gguf/{name}.gguf", "wb").write(out + b"\0" * (-len(out) % 32))


def bpe(name, architecture, pre, special, **fields):
    vocab = json.load(open(f"files/{name}/vocab.json", encoding="utf-8"))
    config = json.load(open(f"files/{name}/tokenizer_config.json", encoding="utf-8"))
    types = {t: CONTROL for t in special}
    for id, token in config.get("added_tokens_decoder", {}).items():
        vocab[token["content"]] = int(id)
        types[token["content"]] = CONTROL if token["special"] else USER
    tokens = sorted(vocab, key=vocab.get)
    merges = open(f"files/{name}/merges.txt", encoding="utf-8").read().split("\n")[1:-1]
    # What fills a vocabulary up to a round size.
    filler = [f"[PAD{i}]" for i in range(len(tokens), len(tokens) + 3)]
    write(name, architecture, "gpt2", pre=pre, tokens=tokens + filler, token_type=[types.get(t, NORMAL) for t in tokens] + [USER, USER, UNUSED], merges=merges,
          **{k: vocab[v] if isinstance(v, str) else v for k, v in fields.items()})


def words(name):
    tokens = open(f"files/{name}/vocab.txt", encoding="utf-8").read().split("\n")[:-1]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    # A U+2581 of the text itself would be one of two tokens afterwards.
    spelled = [f"[unused{i}]" if "▁" in t else t if t in special else t[2:] if t.startswith("##") else "▁" + t for i, t in enumerate(tokens)]
    write(name, "bert", "bert", tokens=spelled, token_type=[CONTROL if t in special else NORMAL for t in tokens], token_type_count=2,
          unknown_token_id=tokens.index("[UNK]"), seperator_token_id=tokens.index("[SEP]"), padding_token_id=0, cls_token_id=tokens.index("[CLS]"))


def pieces(name, file, model, **fields):
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(open(f"files/{name}/{file}", "rb").read())
    tokens, scores, types = [p.piece for p in proto.pieces], [p.score for p in proto.pieces], [p.type for p in proto.pieces]
    tokens, scores, types = tokens + ["<image>", "[PAD9999]"], scores + [-1000.0, -10000.0], types + [USER, UNUSED]
    trainer = proto.trainer_spec
    ids = {"bos_token_id": trainer.bos_id, "eos_token_id": trainer.eos_id, "unknown_token_id": trainer.unk_id, "padding_token_id": trainer.pad_id}
    write(name, "llama" if model == "llama" else "t5", model, pre="default", tokens=tokens, scores=scores, token_type=types,
          add_space_prefix=proto.normalizer_spec.add_dummy_prefix, **{k: v for k, v in ids.items() if v >= 0}, **fields)
    return tokens, scores, types


os.makedirs("gguf", exist_ok=True)
bpe("gpt2", "gpt2", "gpt-2", ["<|endoftext|>"], bos_token_id="<|endoftext|>", eos_token_id="<|endoftext|>")
bpe("qwen2", "qwen2", "qwen2", [], eos_token_id="<|endoftext|>", padding_token_id="<|endoftext|>", add_bos_token=False)
bpe("roberta", "jina-bert-v2", "roberta-bpe", ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], bos_token_id="<s>", eos_token_id="</s>", cls_token_id="<s>", seperator_token_id="</s>", mask_token_id="<mask>")
words("bert")
words("bert_cased")
pieces("llama", "tokenizer.model", "llama", add_bos_token=True, add_eos_token=False)
pieces("gemma", "tokenizer.model", "llama", add_bos_token=True)
tokens, scores, types = pieces("t5", "spiece.model", "t5", add_eos_token=True, remove_extra_whitespaces=True)

reference = Tokenizer(models.Unigram(list(zip(tokens, scores)), unk_id=2))
reference.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
reference.decoder = decoders.Metaspace()
reference.add_special_tokens([AddedToken(t, normalized=False) for t, kind in zip(tokens, types) if kind in (CONTROL, UNKNOWN)])
reference.add_tokens([AddedToken("<image>", normalized=False)])
with open("gguf/t5.jsonl", "w", encoding="ascii", newline="\n") as out:
    for line in open("files/t5/expected.jsonl", encoding="ascii"):
        if "t" in (row := json.loads(line)):
            ids = reference.encode(row["t"]).ids
            dec, dec_skip = (reference.decode(ids + [1], skip_special_tokens=skip) for skip in (False, True))
            out.write(json.dumps({"t": row["t"], "ids": ids, "ids_sp": ids + [1], "dec": dec, "dec_skip": dec_skip}, separators=(",", ":")) + "\n")
