"""A small Llama-style tokenizer: BPE with byte fallback, trained until every word of the world's texts is one token.

The pipeline (Prepend and Replace as normalizers, no pre-tokenizer) is that of Llama 2's tokenizer.json. Ids 0-2 are
<unk> <s> </s>, 3-258 the bytes, then characters and words; <image> and <pad> come last.
"""
import json
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import world

FIRST_PROMPT = "USER: <image>\n{question} ASSISTANT:"          # LLaVA-1.5's conversation, without a system message
NEXT_PROMPT = "USER: {question} ASSISTANT:"
REPLY = " {answer}</s>"

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{# Render all images first #}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{# Render all text next #}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ('</s>' if message['role'] == 'assistant' else ' ') }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}")


def _texts(other_questions):
    rng = np.random.default_rng(0)
    texts = [start + prompt + " ASSISTANT: " + world.caption(world.sample_scene(rng))
             for start in ("\n", "USER: ") for prompt in world.CAPTION_PROMPTS for _ in range(200)]
    for _ in range(8000):
        asked = world.ask_any(rng, world.sample_scene(rng), world.KINDS)
        texts.append(f"\n{asked.question}{world.SHORT_ANSWER} ASSISTANT: {asked.answer}")
        texts.append(f"USER: {asked.question} ASSISTANT: {asked.answer}")
    return texts + [f"\n{question} ASSISTANT: {answer}" for question, answer in other_questions]


def train(other_questions) -> Tokenizer:
    specials = ["<unk>", "<s>", "</s>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    # While training, text is cut before every ▁ and around punctuation, so that no token spans two words.
    # The merges learnt this way respect the cuts by themselves; the tokenizer that is saved needs no pre-tokenizer.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"▁?[\w-]+|▁|[^\w▁]"), "isolated")
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=2000, min_frequency=1, special_tokens=specials + bytes_, show_progress=False)
    tokenizer.train_from_iterator(_texts(other_questions), trainer)

    description = json.loads(tokenizer.to_str())
    description["added_tokens"] = [token for token in description["added_tokens"] if token["content"] in specials]
    description["pre_tokenizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(description))
    tokenizer.add_special_tokens(["<image>", "<pad>"])
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path):
    """The tokenizer and processor files of a released LLaVA-1.5 folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    special = {str(tokenizer.token_to_id(t)): {"content": t, "lstrip": False, "normalized": False, "rstrip": False,
                                               "single_word": False, "special": True}
               for t in ["<unk>", "<s>", "</s>", "<image>", "<pad>"]}
    write = lambda name, content: (folder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    write("tokenizer_config.json", names | {
        "add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False, "legacy": False,
        "tokenizer_class": "LlamaTokenizer", "use_default_system_prompt": False, "model_max_length": 512,
        "image_token": "<image>", "processor_class": "LlavaProcessor", "added_tokens_decoder": special})
    write("special_tokens_map.json", names)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
