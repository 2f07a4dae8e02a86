#!/usr/bin/env python3
"""Writes what Hugging Face's `tokenizers` makes of a set of texts: expected.jsonl beside each tokenizer.json here, and components.jsonl.

    pip install tokenizers==0.23.3
    python3 make_golden.py

The tokenizers here are tiny ones, trained on a few kilobytes of own text. components.jsonl puts every normalizer,
pre-tokenizer, post-processor and decoder, one at a time, onto the model of llama/tokenizer.json.
"""
import base64, json, os, random
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

os.chdir(os.path.dirname(os.path.abspath(__file__)))
rng = random.Random(20240229)

TEXTS = [
    "", " ", "  ", "\n", "a", " a", "a ", "The quick brown fox jumps over the lazy dog.", "What is in this image? A small red bicycle.",
    "I'd've thought they'll say we're DONE; it's John's, isn't it? I'S 'T 'ſ",
    "Tell a naïve story about 图像 and a café.", "line one\nline two\r\n\r\n  indented\ttab \n", "a  b   c    d", "   leading and trailing   ",
    "1234567890 12 3,456.78 ٣४ ½ ² Ⅷ ①", "x=1;y=[2,3]; // comment_with_underscores --flag", "https://example.org/a/b?c=d&e=f#g",
    "e\u0301 \u00e9 a\u0316\u0301b \u212b \ufb01 \uff21\uff11 \uac01 \u1100\u1161\u11a8 \u1e9b\u0323", "ÀÉÎ İıſẞ ΑΣ ΣΑΣ ǅ ꟲ",
    "👍🏽 👨\u200d👩\u200d👧\u200d👦 🇩🇪🇫🇷 ❤\ufe0f", "ไทย नमस्ते किंग العَرَبِيَّة עִבְרִית ひらがなカタカナー漢字 한국어",
    "\u00a0\u1680\u2003\u2028\u202f\u3000\u0085\u200b\ufeff|\x1c\x1f|\x00\x01|\x7f", "▁already▁marked ▁▁▁", "-" * 70, "ab" * 120, " " * 33,
    "<s>", "</s> two", "x<s>y</s>z", "<|endoftext|>", "a <|im_start|>user\nhi<|im_end|>\n", "[CLS] word [SEP] [MASK]", "<image>\nUSER: <image> hi",
    "<0x0A><0xE2>", "don't ''quote'' \"double\" `tick` (paren) [brack] {brace} <tag/>", "!?!?... — – -", "ＦＵＬＬ　ｗｉｄｔｈ！", "\ufffd\ufffe\U000e0001\U000f0000",
]
for _ in range(30):
    pieces = []
    for _ in range(rng.randrange(2, 9)):
        kind = rng.randrange(5)
        if kind == 0:
            pieces.append(rng.choice(["<s>", "</s>", "<image>", "<|endoftext|>", "<pad>", "[MASK]", "<extra_id_0>", "<|im_end|>"]))
        elif kind == 1:
            pieces.append(rng.choice([" ", "  ", "\n", "\t", "\u3000", "\r\n"]))
        else:
            text = rng.choice(TEXTS)
            start = rng.randrange(len(text) + 1)
            pieces.append(text[start : start + rng.randrange(1, 20)])
    TEXTS.append("".join(pieces))
BYTES = [b"\xf0\x9f\x98 x", b"\xed\xa0\x80", b"a\xffb\xc3", b"\xc0\xaf\xe2\x82", b"\xf4\x90\x80\x80ok", b"\xe4\xbd\xa0\xe5\xa5"]
INPUTS = [(t, None) for t in TEXTS] + [(b.decode("utf-8", "replace"), b) for b in BYTES]


def write(path, rows):
    with open(path, "w", encoding="ascii", newline="\n") as f:
        for row in rows:
            f.write(json.dumps(row, separators=(",", ":")) + "\n")


def stream(tokenizer, ids, skip):
    decode, chunks = DecodeStream(skip_special_tokens=skip), []
    for i in ids:
        try:
            chunks.append(decode.step(tokenizer, i))
        except Exception:  # the decoder unsays what it said: the reference gives up
            return None
    return chunks


for name in sorted(os.listdir(".")):
    if not os.path.exists(name + "/tokenizer.json"):
        continue
    tokenizer = Tokenizer.from_file(name + "/tokenizer.json")
    size, rows = tokenizer.get_vocab_size(), []
    suffix = "</w>" if name == "clip" else None  # transformers' CLIPTokenizer.decode

    def decode(ids, skip):
        text = tokenizer.decode(ids, skip_special_tokens=skip)
        return text.replace(suffix, " ").strip() if suffix else text

    for text, raw in INPUTS:
        row = {"b64": base64.b64encode(raw).decode()} if raw else {"t": text}
        row["ids"] = tokenizer.encode(text, add_special_tokens=False).ids
        row["ids_sp"] = tokenizer.encode(text).ids
        row["dec"], row["dec_skip"] = decode(row["ids_sp"], False), decode(row["ids_sp"], True)
        rows.append(row)
    for _ in range(8):
        a, b = rng.choice(TEXTS), rng.choice(TEXTS)
        pair = tokenizer.encode(a, b)
        rows.append({"a": a, "b": b, "ids": pair.ids, "type_ids": pair.type_ids})
    if not suffix:
        for text in TEXTS[7:30] + [None] * 12:
            ids = tokenizer.encode(text).ids if text else [rng.randrange(size) for _ in range(20)]
            skip = rng.random() < 0.5
            chunks = stream(tokenizer, ids, skip)
            if chunks is not None:
                rows.append({"stream": ids, "skip": skip, "chunks": chunks, "full": tokenizer.decode(ids, skip_special_tokens=skip)})
    write(name + "/expected.jsonl", rows)

base = json.load(open("llama/tokenizer.json"))
split = lambda regex, behavior, invert=False: {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}
byte_level = lambda prefix, regex: {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}
metaspace = lambda scheme, cut: {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": cut}
seq = lambda key, *parts: {"type": "Sequence", key: list(parts)}
replace = lambda pattern, content: {"type": "Replace", "pattern": pattern, "content": content}
bert = lambda clean, cjk, accents, lower: {"type": "BertNormalizer", "clean_text": clean, "handle_chinese_chars": cjk, "strip_accents": accents, "lowercase": lower}
CASES = []
for n in [{"type": t} for t in "NFC NFD NFKC NFKD Lowercase StripAccents Nmt ByteLevel".split()] + [
    {"type": "Strip", "strip_left": True, "strip_right": False}, {"type": "Strip", "strip_left": False, "strip_right": True},
    {"type": "Prepend", "prepend": "xy"}, replace({"Regex": r"\s+"}, "_"), replace({"String": "a"}, ""), replace({"Regex": r"(\d)(?=\d)|x*"}, "#"),
    bert(True, True, None, True), bert(False, True, False, True), bert(True, False, True, False), bert(True, True, None, False),
    seq("normalizers", {"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}, {"type": "Strip", "strip_left": True, "strip_right": True})]:
    CASES.append({"normalizer": n})
for p in [byte_level(False, True), byte_level(True, True), byte_level(True, False), metaspace("always", True), metaspace("always", False), metaspace("first", True),
          metaspace("first", False), metaspace("never", True), {"type": "Metaspace", "replacement": "▁", "str_rep": "▁", "add_prefix_space": True},
          {"type": "Metaspace", "replacement": "▁", "add_prefix_space": False, "prepend_scheme": "never"}, {"type": "Whitespace"}, {"type": "WhitespaceSplit"}, {"type": "BertPreTokenizer"},
          {"type": "CharDelimiterSplit", "delimiter": "a"}, {"type": "Digits", "individual_digits": True}, {"type": "Digits", "individual_digits": False}, {"type": "UnicodeScripts"},
          {"type": "FixedLength", "length": 3},
          seq("pretokenizers", {"type": "Digits", "individual_digits": True}, byte_level(False, True)), seq("pretokenizers", {"type": "WhitespaceSplit"}, metaspace("always", True)),
          seq("pretokenizers", split(r" ?[^(\s|.,!?…。，、।۔،)]+", "Isolated"), byte_level(False, False)),
          seq("pretokenizers", {"type": "Punctuation", "behavior": "Contiguous"}, byte_level(True, True), {"type": "Digits", "individual_digits": False})]:
    CASES.append({"pre_tokenizer": p})
for behavior in "Removed Isolated MergedWithPrevious MergedWithNext Contiguous".split():
    CASES.append({"pre_tokenizer": {"type": "Punctuation", "behavior": behavior}})
    for invert in (False, True):
        CASES.append({"pre_tokenizer": split(r"[aeiou]|\s+", behavior, invert)})
    CASES.append({"pre_tokenizer": {"type": "Split", "pattern": {"String": "e"}, "behavior": behavior, "invert": False}})
for regex in [
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+", r"[一-龥぀-ゟ゠-ヿ]+",
    r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))", r"(?<=[a-z])(?=[A-Z])|(?<!\w)\d+|\bth\w*?\b", r"(?:ab)+?|(?>a*)b|[[:alpha:]&&[^aeiou]]+|[\p{Han}\p{Hiragana}]+", r"^.|$|\Aa|\z", r"[^\x00-\x7F]+|\u0061|\h{2}",
    r"(?i)[a-z]+ß?|(?:x|y{2,}|z{,2})(?#comment)", r"\P{L}+|\p{^Lu}", r"\d+(?:\.\d+)*+|\S(?=\S)", r"(?:a|b)*c|q", r"(?m:a.b)|(?:)"]:
    CASES.append({"pre_tokenizer": split(regex, "Isolated")})
    CASES.append({"pre_tokenizer": seq("pretokenizers", split(regex, "Removed", True), byte_level(False, False))})
cls, sep = ["<s>", 1], ["</s>", 2]
for p in [{"type": "BertProcessing", "sep": sep, "cls": cls}, {"type": "RobertaProcessing", "sep": sep, "cls": cls, "trim_offsets": True, "add_prefix_space": True}, byte_level(True, True), None,
          seq("processors", byte_level(True, True), base["post_processor"])]:
    CASES.append({"post_processor": p})
for d in [None, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "WordPiece", "prefix": "t", "cleanup": True}, {"type": "WordPiece", "prefix": "##", "cleanup": False}, {"type": "BPEDecoder", "suffix": "e"},
          {"type": "CTC", "pad_token": "<s>", "word_delimiter_token": "▁", "cleanup": True}, metaspace("always", True), metaspace("never", True), byte_level(True, True), {"type": "Strip", "content": "▁", "start": 1, "stop": 0}, {"type": "Strip", "content": "e", "start": 0, "stop": 1},
          replace({"Regex": "[aeiou]+"}, "*"), seq("decoders", replace({"String": "▁"}, " "), {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0})]:
    CASES.append({"decoder": d})
plain = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=False)
tokens = [("cat", {"single_word": True}), ("quick", {"lstrip": True}), ("fox", {"rstrip": True, "lstrip": True}), ("Ab", {"normalized": True}), ("naïve", {"normalized": True, "special": True}), ("  ", {}), ("    ", {}), ("ov", {}), ("over the", {"single_word": True})]
added = base["added_tokens"] + [{**plain, "id": len(base["model"]["vocab"]) + i, "content": c, **k} for i, (c, k) in enumerate(tokens)]
CASES.append({"added_tokens": added, "normalizer": seq("normalizers", {"type": "NFD"}, {"type": "Lowercase"})})
CASES.append({"added_tokens": added, "pre_tokenizer": metaspace("first", True), "normalizer": None})
rows = []
for case in CASES:
    whole = dict(base)
    if "pre_tokenizer" in case:
        whole["normalizer"] = None
    whole.update(case)
    tokenizer = Tokenizer.from_str(json.dumps(whole))
    parts = {k: whole[k] for k in ("added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder")}
    row = {"parts": parts, "texts": []}
    chosen = TEXTS if "added_tokens" in case else TEXTS[1:37] if "decoder" not in case and "post_processor" not in case else TEXTS[7:14]
    extra_texts = ["a cat, concat catalog", "the quick  quick fox fox  jumps over the", "AB Ab ab NAÏVE naïve", "HelloWorld th the 42x 007"] if "added_tokens" in case or "pre_tokenizer" in case else []
    for text in chosen + extra_texts:
        ids = tokenizer.encode(text).ids
        entry = {"t": text, "ids": ids}
        if "decoder" in case:
            entry["dec"] = tokenizer.decode(ids, skip_special_tokens=False)
        row["texts"].append(entry)
    if "post_processor" in case:
        pair = tokenizer.encode(TEXTS[7], TEXTS[8])
        row["pair"] = {"a": TEXTS[7], "b": TEXTS[8], "ids": pair.ids, "type_ids": pair.type_ids}
    rows.append(row)
write("components.jsonl", rows)
