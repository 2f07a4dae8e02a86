#!/usr/bin/env python3
"""Writes files/: tiny tokenizers in the formats that came before tokenizer.json, and expected.jsonl beside each one.

    pip install transformers==5.23.0 tokenizers==0.23.3 sentencepiece==0.2.3 tiktoken==0.13.0 protobuf==7.36.2
    python3 make_files.py

Who is right is named in each folder's reference.txt: transformers where its conversion is what checkpoints are used with, sentencepiece
where that conversion is known to deviate (transformers 5 orders the merges of tokenizer.model otherwise), tiktoken for its own files.
"""
import base64, json, os, random, re, shutil

os.environ["HF_HUB_OFFLINE"] = "1"
import sentencepiece
import tiktoken
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer

os.chdir(os.path.dirname(os.path.abspath(__file__)))
source = open("make_golden.py", encoding="utf-8").read()
scope = {}
exec("import random\nrng = random.Random(20240229)\n" + source[source.index("TEXTS = [") : source.index("BYTES = ")], scope)
TEXTS = scope["TEXTS"] + ["Der Zug fährt über die Brücke, nicht wahr?", "한국어 문장입니다.", "x" * 60 + " " + "ﬁne ℌ ㌔", "tabs\tand\x0bverticals", "the theater is there  then"]
rng = random.Random(7)
words = "the a small red bicycle cat dog man woman stands sits near behind old castle river bridge picture shows what is in this image how many people are there it's don't we're".split()
words += "über Brücke café naïve 图像 漢字 ひらがな 한국어 привет мир 12 345 2024 3.14".split()
SENTENCES = [" ".join(rng.choice(words) for _ in range(rng.randrange(4, 14))).capitalize() + rng.choice(".?!") for _ in range(1500)] + [t for t in TEXTS if "\0" not in t and "<" not in t]


def folder(name, reference):
    path = "files/" + name
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    open(path + "/reference.txt", "w").write(reference + "\n")
    return path


def dump(path, value):
    json.dump(value, open(path, "w", encoding="utf-8"), ensure_ascii=False, separators=(",", ":"))


def write(path, rows):
    with open(path + "/expected.jsonl", "w", encoding="ascii", newline="\n") as f:
        for row in rows:
            f.write(json.dumps(row, separators=(",", ":")) + "\n")


def by_transformers(path):
    tokenizer, rows = AutoTokenizer.from_pretrained(path), []
    for text in TEXTS:
        row = {"t": text, "ids": tokenizer(text, add_special_tokens=False)["input_ids"], "ids_sp": tokenizer(text)["input_ids"]}
        row["dec"], row["dec_skip"] = (tokenizer.backend_tokenizer.decode(row["ids_sp"], skip_special_tokens=skip) for skip in (False, True))
        rows.append(row)
    for _ in range(6):
        a, b = rng.choice(TEXTS), rng.choice(TEXTS)
        pair = tokenizer.backend_tokenizer.encode(a, b)
        rows.append({"a": a, "b": b, "ids": pair.ids, "type_ids": pair.type_ids})
    write(path, rows)


def by_sentencepiece(path, name):
    model, rows = sentencepiece.SentencePieceProcessor(model_file=path + "/" + name), []
    for text in TEXTS:
        if re.search(r"<[^ ]*>|\[[A-Z]+\]|\0", text):
            continue  # special tokens are text to sentencepiece, and NUL ends a piece in a byte_fallback model
        ids = model.encode(text)
        row = {"t": text, "ids": ids}
        if "▁" not in text and "\ufffd" not in text and model.unk_id() not in ids:
            row["dec"] = model.decode(ids)
        rows.append(row)
    write(path, rows)


def byte_level(vocab, specials, suffix=None):
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix=suffix) if suffix else models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if suffix:
        tokenizer.normalizer = normalizers.Lowercase()
    extra = {"end_of_word_suffix": suffix} if suffix else {}
    tokenizer.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=vocab, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False, **extra))
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]


def vocab_and_merges(path, vocab, merges):
    dump(path + "/vocab.json", vocab)
    open(path + "/merges.txt", "w", encoding="utf-8").write("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))


def token(content, special=True, **flags):
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": special, **flags}


vocab, merges = byte_level(900, [])
with_end = {**vocab, "<|endoftext|>": len(vocab)}
path = folder("gpt2", "transformers")
vocab_and_merges(path, with_end, merges)
dump(path + "/tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer"})
by_transformers(path)

path = folder("phi", "transformers; added_tokens.json in the old manner")
vocab_and_merges(path, with_end, merges)
dump(path + "/tokenizer_config.json", {"tokenizer_class": "CodeGenTokenizer", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "add_prefix_space": False})
dump(path + "/added_tokens.json", {**{" " * n: len(with_end) + 31 - n for n in range(2, 32)}, "<image>": len(with_end) + 30})
dump(path + "/special_tokens_map.json", {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "additional_special_tokens": ["<image>"]})
by_transformers(path)

path = folder("qwen2", "transformers")
vocab_and_merges(path, vocab, merges)
added = {str(len(vocab) + i): token(t, s) for i, (t, s) in enumerate([("<|endoftext|>", True), ("<|im_start|>", True), ("<|im_end|>", True), ("<tool_call>", False)])}
dump(path + "/tokenizer_config.json", {"tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": False, "added_tokens_decoder": added, "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
                                       "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None})
by_transformers(path)

fairseq = ["<s>", "<pad>", "</s>", "<unk>"]
numbered = {t: i for i, t in enumerate(fairseq + sorted(vocab, key=vocab.get) + ["<mask>"])}
path = folder("roberta", "transformers")
vocab_and_merges(path, numbered, merges)
dump(path + "/tokenizer_config.json", {"tokenizer_class": "RobertaTokenizer", "mask_token": {**token("<mask>", lstrip=True), "__type": "AddedToken"}})
by_transformers(path)

path = folder("opt", "transformers, with the tokenizer_config.json that the published folders have")
vocab_and_merges(path, numbered, merges)
end = {**token("</s>", normalized=True), "__type": "AddedToken"}
dump(path + "/tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", "bos_token": end, "eos_token": end, "unk_token": end, "pad_token": {**end, "content": "<pad>"}, "add_bos_token": True, "add_prefix_space": False, "errors": "replace"})
by_transformers(path)
os.remove(path + "/tokenizer_config.json")  # and the library must know as much from the model_type alone
dump(path + "/config.json", {"model_type": "opt"})

path = folder("whisper", "transformers")
vocab_and_merges(path, {**vocab, "": len(vocab)}, merges)
names = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
added = {str(len(vocab) + 1 + i): token(t) for i, t in enumerate(names)}
added.update({str(len(vocab) + 1 + len(names) + i): token(f"<|{i * 0.02:.2f}|>", False) for i in range(4)})
dump(path + "/tokenizer_config.json", {"tokenizer_class": "WhisperTokenizer", "added_tokens_decoder": added, "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "additional_special_tokens": names[1:]})
by_transformers(path)

letters = sorted(pre_tokenizers.ByteLevel.alphabet())
vocab, merges = byte_level(1100, [], "</w>")
vocab = {t: i for i, t in enumerate([*letters, *[c + "</w>" for c in letters], *[t for t in vocab if t not in letters and t.removesuffix("</w>") not in letters], "<|startoftext|>", "<|endoftext|>"])}
merges = [m for m in merges if m[0] in vocab and m[1] in vocab and m[0] + m[1] in vocab]
path = folder("clip", "transformers; decodes in the manner of its class")
vocab_and_merges(path, vocab, merges)
dump(path + "/tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer", "bos_token": {**token("<|startoftext|>", normalized=True), "__type": "AddedToken"}, "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"})
by_transformers(path)

for name, lower in (("bert", True), ("bert_cased", False)):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(lowercase=lower), pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(SENTENCES, trainers.WordPieceTrainer(vocab_size=700, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False))
    path = folder(name, "transformers")
    vocab = tokenizer.get_vocab()
    open(path + "/vocab.txt", "w", encoding="utf-8").write("".join(t + "\n" for t in sorted(vocab, key=vocab.get)))
    dump(path + "/tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": lower})
    by_transformers(path)


def train(path, name, **options):
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(SENTENCES), model_prefix=path + "/m", minloglevel=2, hard_vocab_limit=False, num_threads=1, **options)
    os.rename(path + "/m.model", path + "/" + name)
    os.remove(path + "/m.vocab")


path = folder("llama", "sentencepiece")
train(path, "tokenizer.model", model_type="bpe", vocab_size=900, byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True, character_coverage=0.99)
by_sentencepiece(path, "tokenizer.model")

path = folder("gemma", "sentencepiece; no blank in front, user-defined symbols")
train(path, "tokenizer.model", model_type="bpe", vocab_size=1000, byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=False, character_coverage=0.99,
      pad_id=0, eos_id=1, bos_id=2, unk_id=3, user_defined_symbols=["the", "it's", "\n", "  ", "▁▁", "▁▁▁", "ab"])
by_sentencepiece(path, "tokenizer.model")

path = folder("bpe", "sentencepiece; its defaults, no byte_fallback: blanks are joined, characters mapped")
train(path, "tokenizer.model", model_type="bpe", vocab_size=700, normalization_rule_name="identity", character_coverage=0.98)
by_sentencepiece(path, "tokenizer.model")

path = folder("unigram", "sentencepiece")
train(path, "tokenizer.model", model_type="unigram", vocab_size=700, byte_fallback=True, normalization_rule_name="identity", character_coverage=0.98, user_defined_symbols=["bicycle", "..."])
by_sentencepiece(path, "tokenizer.model")

path = folder("characters", "sentencepiece")
train(path, "tokenizer.model", model_type="char", vocab_size=120, normalization_rule_name="identity", character_coverage=0.98)
by_sentencepiece(path, "tokenizer.model")

path = folder("t5", "transformers")
train(path, "spiece.model", model_type="unigram", vocab_size=600, normalization_rule_name="nmt_nfkc", pad_id=0, eos_id=1, unk_id=2, bos_id=-1, character_coverage=0.98)
dump(path + "/tokenizer_config.json", {"tokenizer_class": "T5Tokenizer"})
by_transformers(path)

path = folder("xlm_roberta", "transformers")
train(path, "sentencepiece.bpe.model", model_type="unigram", vocab_size=600, normalization_rule_name="nfkc", character_coverage=0.98)
dump(path + "/tokenizer_config.json", {"tokenizer_class": "XLMRobertaTokenizer", "mask_token": {**token("<mask>", lstrip=True), "__type": "AddedToken"}})
by_transformers(path)

path = folder("siglip", "transformers; texts without special tokens, which its class, in Python, treats in a way of its own")
train(path, "spiece.model", model_type="unigram", vocab_size=600, normalization_rule_name="identity", pad_id=0, eos_id=1, unk_id=2, bos_id=-1, character_coverage=0.98)
dump(path + "/tokenizer_config.json", {"tokenizer_class": "SiglipTokenizer", "do_lower_case": True, "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"})
tokenizer = AutoTokenizer.from_pretrained(path)
write(path, [{"t": t, "ids": tokenizer(t, add_special_tokens=False)["input_ids"], "ids_sp": tokenizer(t)["input_ids"]} for t in TEXTS if not re.search(r"<[^ ]*>|\0", t)])

# tiktoken's text: the tokens of a byte-level BPE, in the order in which they were learned.
vocab, merges = byte_level(900, [])
alphabet = {c: b for b, c in zip([*range(33, 127), *range(161, 173), *range(174, 256)], map(chr, [*range(33, 127), *range(161, 173), *range(174, 256)]))}
alphabet.update({chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in alphabet.values())})
ranks, seen = [], set()
for t in [c for c in sorted(alphabet)] + [a + b for a, b in merges]:
    raw = bytes(alphabet[c] for c in t)
    if raw not in seen:
        ranks.append(raw)
        seen.add(raw)
for name, file, digits in (("qwen", "qwen.tiktoken", r"\p{N}"), ("tiktoken", "tokenizer.model", r"\p{N}{1,3}")):
    path = folder(name, "tiktoken")
    open(f"{path}/{file}", "wb").write(b"".join(base64.b64encode(t) + b" %d\n" % i for i, t in enumerate(ranks)))
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    encoding = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks={t: i for i, t in enumerate(ranks)}, special_tokens={})
    import unicodedata
    rows = []
    for text in TEXTS:
        if re.search(r"<[^ ]*>", text):
            continue
        composed = unicodedata.normalize("NFC", text) if name == "qwen" else text
        rows.append({"t": text, "ids": encoding.encode(composed), "dec": composed})
    write(path, rows)
