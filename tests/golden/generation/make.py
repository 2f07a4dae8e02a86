"""Writes searches.json and processors.json: what `generate` and the logits processors of Hugging Face transformers (5.23) give.

The language model is a closed formula, so that the tests can compute the same scores: a hash of the last three tokens and the
candidate (see Formula.forward; HashLm in tests/pipelines/generation_test.cpp is the same in C++).

    python make.py        # needs torch and transformers
"""

import json
import random
from pathlib import Path

import torch
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.generation import logits_process as lp
from transformers.modeling_outputs import CausalLMOutput

HERE = Path(__file__).parent
MASK = 0xFFFFFFFF


def scores_after(history, vocab, salt, scale):
    """float32, exact: multiples of 2^-19 times a power of two."""
    a, b, c = ([0, 0, 0] + [t + 1 for t in history])[-3:]
    base = (a * 73856093) ^ (b * 19349663) ^ (c * 83492791) ^ (salt * 2246822519)
    row = []
    for v in range(vocab):
        x = (base ^ ((v + 1) * 2654435761)) & MASK
        x ^= x >> 15
        x = (x * 0x2C1B3C6D) & MASK
        x ^= x >> 12
        x = (x * 0x297A2D39) & MASK
        x ^= x >> 15
        row.append(((x & 0xFFFFF) * 10 / 1048576 - 5) * scale)
    return row


class FormulaConfig(PretrainedConfig):
    model_type = "formula"

    def __init__(self, vocab_size=32, salt=1, scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self.vocab_size, self.salt, self.scale = vocab_size, salt, scale


class Formula(PreTrainedModel, GenerationMixin):
    config_class = FormulaConfig
    main_input_name = "input_ids"

    def __init__(self, config):
        super().__init__(config)
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.post_init()

    def forward(self, input_ids=None, **kwargs):
        c = self.config
        rows = [[scores_after(ids, c.vocab_size, c.salt, c.scale)] for ids in input_ids.tolist()]
        return CausalLMOutput(logits=torch.tensor(rows, dtype=torch.float32))


def search(vocab, salt, scale, prompt, options):
    model = Formula(FormulaConfig(vocab_size=vocab, salt=salt, scale=scale)).eval()
    model.generation_config = GenerationConfig()
    config = GenerationConfig(**options, use_cache=False, return_dict_in_generate=True, output_scores=True, pad_token_id=0)
    ids = torch.tensor([prompt])
    with torch.no_grad():
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
    eos = options.get("eos_token_id")
    eos = [] if eos is None else eos if isinstance(eos, list) else [eos]
    results = []
    for i, row in enumerate(out.sequences[:, len(prompt):].tolist()):
        ends = [k for k, t in enumerate(row) if t in eos]  # what follows is padding
        result = {"ids": row[: ends[0] + 1] if ends else row}
        if options.get("num_beams", 1) > 1:
            result["score"] = out.sequences_scores[i].item()
            if result["score"] < -1e8:  # a placeholder: the options left fewer hypotheses than were asked for
                continue
        results.append(result)
    return {"vocab": vocab, "salt": salt, "scale": scale, "prompt": prompt, "options": options, "results": results}


def random_options(rng, vocab, beams, prompt):
    o = {"max_new_tokens": rng.randint(1, 14)}
    if rng.random() < 0.15:
        o = {"max_length": len(prompt) + rng.randint(1, 12)}
    eos = rng.choice([None, 1, 1, [1, 2], [1, 2, 3], [5]])
    if eos is not None:
        o["eos_token_id"] = eos
    p = lambda x: rng.random() < x
    if p(0.3): o["repetition_penalty"] = rng.choice([1.1, 1.3, 2.0, 0.8])
    if p(0.25): o["no_repeat_ngram_size"] = rng.choice([1, 2, 3]) if vocab > 40 else rng.choice([2, 3])
    if p(0.2): o["min_new_tokens"] = rng.randint(1, 10)
    elif p(0.15): o["min_length"] = len(prompt) + rng.randint(0, 8)
    if p(0.2): o["bad_words_ids"] = [[rng.randrange(vocab)] for _ in range(3)] + [[rng.randrange(vocab), rng.randrange(vocab)] for _ in range(60)] + [[1]]
    if p(0.15): o["sequence_bias"] = [[[rng.randrange(vocab)], 2.5], [[prompt[-1], 7], 9.0], [[rng.randrange(vocab), 3], -4.0]]
    if p(0.15): o["suppress_tokens"] = rng.sample(range(vocab), 3)
    if p(0.15): o["begin_suppress_tokens"] = rng.sample(range(vocab), 5)
    if p(0.1): o["forced_eos_token_id"] = rng.choice([1, [1], 6])
    if p(0.08): o["forced_bos_token_id"] = 9
    if p(0.08) and eos is not None: o["exponential_decay_length_penalty"] = [rng.randint(0, 4), 1.5]
    if p(0.08): o["renormalize_logits"] = True
    if p(0.05): o["remove_invalid_values"] = True
    if beams:
        o["num_beams"] = rng.choice([2, 3, 4, 5, 8])
        if p(0.6): o["length_penalty"] = rng.choice([0.0, 0.6, 1.0, 2.0, -1.0, -2.0, 5.0])
        if p(0.7): o["early_stopping"] = rng.choice([True, False, "never"])
        if p(0.6): o["num_return_sequences"] = rng.randint(1, o["num_beams"])
    return o


def searches():
    rng = random.Random(20)
    cases = []
    for i in range(360):
        vocab = rng.choice([24, 48, 97])
        prompt = [rng.randrange(4, vocab) for _ in range(rng.choice([1, 1, 2, 3, 6]))]
        salt, scale = rng.randrange(1000), rng.choice([0.5, 1.0, 1.0, 0.25])
        while True:
            options = random_options(rng, vocab, i % 3 != 0, prompt)
            try:
                GenerationConfig(**options)
                break
            except ValueError:  # forced and suppressed at once
                pass
        cases.append(search(vocab, salt, scale, prompt, options))
    return cases


def processors():
    rng = random.Random(7)
    cases = []

    def add(name, value, processor, scores, history, at_least=1):
        before = torch.tensor([scores], dtype=torch.float32)
        after = processor(torch.tensor([history]), before)
        check = {"name": name, "value": value, "at_least": at_least, "kept": [i for i, v in enumerate(after[0].tolist()) if v != float("-inf")]}
        if not torch.equal(after[after > float("-inf")], before[after > float("-inf")]):
            check["result"] = [round(v, 6) for v in after[0].tolist() if v != float("-inf")]
        if not cases or cases[-1]["history"] is not history:
            cases.append({"scores": [None if s == float("-inf") else s for s in scores], "history": history, "checks": []})
        cases[-1]["checks"].append(check)

    for i in range(8):
        vocab = rng.choice([20, 61])
        scores = [round(s, 4) for s in scores_after([i], vocab, 5, rng.choice([0.5, 1.0]))]
        if i % 3 == 1:  # as after another filter
            scores = [float("-inf") if rng.random() < 0.4 else s for s in scores]
        history = [rng.randrange(vocab) for _ in range(8)]
        history += history[:3]
        at_least = rng.choice([1, 1, 3])
        for t in (0.3, 1.7): add("temperature", t, lp.TemperatureLogitsWarper(t), scores, history)
        for p in (0.7, 1.4): add("repetition_penalty", p, lp.RepetitionPenaltyLogitsProcessor(p), scores, history)
        for n in (1, 2, 3): add("no_repeat_ngram_size", n, lp.NoRepeatNGramLogitsProcessor(n), scores, history)
        for k in (1, 5, 200): add("top_k", k, lp.TopKLogitsWarper(k, min_tokens_to_keep=at_least), scores, history, at_least)
        for p in (0.0, 0.3, 0.9, 0.999): add("top_p", p, lp.TopPLogitsWarper(p, min_tokens_to_keep=at_least), scores, history, at_least)
        for p in (0.02, 0.3, 1.0): add("min_p", p, lp.MinPLogitsWarper(p, min_tokens_to_keep=at_least), scores, history, at_least)
        for h in (0.2, 0.6, 0.9): add("top_h", h, lp.TopHLogitsWarper(h), scores, history)
        for p in (0.2, 0.9): add("typical_p", p, lp.TypicalLogitsWarper(p, min_tokens_to_keep=at_least), scores, history, at_least)
        for e in (0.001, 0.05): add("epsilon_cutoff", e, lp.EpsilonLogitsWarper(e, min_tokens_to_keep=at_least), scores, history, at_least)
        for e in (0.001, 0.2): add("eta_cutoff", e, lp.EtaLogitsWarper(e, min_tokens_to_keep=at_least), scores, history, at_least)
        add("log_softmax", 0, lp.LogitNormalization(), scores, history)
    return cases


if __name__ == "__main__":
    for name, make in (("processors", processors), ("searches", searches)):
        cases = make()
        (HERE / f"{name}.json").write_text("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")
        print(name, len(cases))
