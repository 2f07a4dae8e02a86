"""chiasm's tokenizers against Hugging Face's `tokenizers`: the same tokenizers and the same megabyte of text, each on one thread, in turns.

    cmake --preset release && cmake --build --preset release --target tokenizer_bench
    python3 bench/peers/tokenizer_peer.py FOLDER        # of tokenizers: one folder with a tokenizer.json (or ref_tokenizer.json) each

Needs tokenizers (requirements.txt brings it along). Both sides encode the whole text in one call without special tokens; a measurement is
the processor time of the fastest call in half a second, after one that does not count, and the table shows the median and the best of the
rounds. The numbers of tokens are compared, too.
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
import tokenizers  # noqa: E402: reads the environment

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SECONDS = 0.5

PROSE = """The small red bicycle leans against the wall of the old castle, and nobody knows whose it is.
What is the man in the picture holding? Is there a second person behind the window? Describe the image in one sentence.
I'd've thought they'll say we're done by now; it's John's turn, isn't it? "Don't ask," she said -- and left...
Der Zug fährt über die Brücke, während im Tal die Glocken läuten. L'été dernier, nous avons traversé la forêt à pied.
El niño corrió hacia la puerta; ¿quién llamaba a esa hora? Быстрая коричневая лиса перепрыгивает через ленивую собаку.
画像には二匹の猫がソファで眠っています。請問這張圖片裡有什麼東西? 사진 속의 사람은 무엇을 하고 있습니까? صورة لقطة صغيرة على السرير. एक छोटी लाल साइकिल।
for (int i = 0; i < n; ++i) {\n    sum += values[i] * 0.5f;  // weighted\n}\n\ndef main(arguments):\n\tprint(f"{arguments!r}: {len(arguments)}")
{"image": "cats_0042.jpg", "boxes": [[12.5, 37, 640, 479]], "score": 0.98731, "labels": ["cat", "remote control"]}
https://example.org/path/to/page?query=1&lang=en#section-3.2 user@example.com 192.168.0.1 2024-02-29T23:59:60Z
3.14159 2718 42,000 1e-6 0xDEADBEEF 50% $19.99 (½ × ²) 👍🏽 👨‍👩‍👧‍👦 🇩🇪 ❤️ <b>bold</b> &amp; a_b_c CamelCaseWord ALL_CAPS"""


def mixed_text(size=1_000_000):
    """Prose, code, numbers and other scripts in an order that does not repeat, with words that were not there before."""
    rng, lines, pieces, total = random.Random(1), PROSE.split("\n"), [], 0
    while total < size:
        line = rng.choice(lines)
        if rng.random() < 0.3:
            words = line.split(" ")
            rng.shuffle(words)
            line = " ".join(words)
        if rng.random() < 0.3:
            line += " " + "".join(rng.choice("etaoinshrdlcumwfgypbvk") for _ in range(rng.randrange(3, 12)))
        pieces.append(line + rng.choice(["\n", " ", " ", "\n\n"]))
        total += len(pieces[-1].encode())
    return "".join(pieces)


def chiasm(bench, folder, name, text_file):
    environment = {**os.environ, "CHIASM_TOKENIZERS": folder, "CHIASM_TOKENIZER_TEXT": text_file}
    output = subprocess.run([bench, f"--benchmark_filter=^tokenizer/encode/{name}$", f"--benchmark_min_time={SECONDS}", "--benchmark_format=json"],
                            env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout
    row = json.loads(output)["benchmarks"][-1]
    return row["best_ms"], int(row["tokens"])


def hugging_face(tokenizer, text):
    best, spent = float("inf"), 0.0
    tokens = len(tokenizer.encode(text, add_special_tokens=False).ids)
    while spent < SECONDS:
        start = time.process_time()
        tokenizer.encode(text, add_special_tokens=False)
        best = min(best, time.process_time() - start)
        spent += time.process_time() - start
    return 1e3 * best, tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--names", nargs="*", help="only these subfolders")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bench", default=str(ROOT / "build/release/bench/tokenizer_bench"), metavar="PROGRAM")
    parser.add_argument("--text", metavar="FILE", help="measure on this UTF-8 text")
    arguments = parser.parse_args()
    text = open(arguments.text, encoding="utf-8", newline="").read() if arguments.text else mixed_text()
    size = len(text.encode())
    print(f"{size} bytes, tokenizers {tokenizers.__version__}, one thread, {arguments.rounds} rounds in turns; milliseconds")
    print(f"{'tokenizer':20} {'model':10} {'tokens':>8} {'chiasm':>9} {'HF':>9} {'medians':>8} {'best':>6}")
    with tempfile.TemporaryDirectory() as temporary:
        text_file = os.path.join(temporary, "text")
        with open(text_file, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        for name in arguments.names or sorted(os.listdir(arguments.folder)):
            path = next((p for p in (os.path.join(arguments.folder, name, f) for f in ("tokenizer.json", "ref_tokenizer.json")) if os.path.isfile(p)), None)
            if path is None:
                continue
            tokenizer = tokenizers.Tokenizer.from_file(path)
            tokenizer.no_truncation()
            tokenizer.no_padding()
            ours, theirs = [], []
            for _ in range(arguments.rounds):
                ours.append(chiasm(arguments.bench, arguments.folder, name, text_file))
                theirs.append(hugging_face(tokenizer, text))
            a, b = [t for t, _ in ours], [t for t, _ in theirs]
            differs = "" if ours[0][1] == theirs[0][1] else f"  DIFFERENT: {theirs[0][1]} tokens"
            print(f"{name:20} {type(tokenizer.model).__name__:10} {ours[0][1]:8} {statistics.median(a):9.1f} {statistics.median(b):9.1f} "
                  f"{statistics.median(b) / statistics.median(a):7.2f}x {min(b) / min(a):5.2f}x{differs}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
