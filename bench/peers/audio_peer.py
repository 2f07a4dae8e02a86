"""The sounds of bench/io/audio_bench in transformers (NumPy, and PyTorch on one thread) and soxr, in turns with it.

    python bench/peers/audio_peer.py build/release/bench/audio_bench [--rounds 7]

Needs numpy, torch, transformers and soxr. Each round takes the fastest of several calls on the peers' side, and Google Benchmark's
mean on chiasm's; the table shows the fastest rounds and the medians. All is processor time on one thread.
"""

import argparse
import json
import os
import statistics
import subprocess
import time

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import soxr
import torch
import transformers
from transformers import WhisperFeatureExtractor


def noise(rate, seconds):
    return np.random.default_rng(1).uniform(-0.5, 0.5, rate * seconds).astype(np.float32)


def features(mels, seconds, numpy):
    extractor = WhisperFeatureExtractor(feature_size=mels)
    if numpy:  # what transformers does where there is no PyTorch
        extractor._torch_extract_fbank_features = extractor._np_extract_fbank_features
    sound = noise(16000, seconds)
    return lambda: extractor(sound, sampling_rate=16000, return_tensors="np")


def resampling(rate):
    sound = noise(rate, 30)
    return lambda: soxr.resample(sound, rate, 16000, quality="HQ")


# Name of the row in audio_bench, the peer, and its work.
ROWS = [(f"features/{mels}_mels_{seconds}s", peer, features(mels, seconds, peer == "NumPy"))
        for mels, seconds in ((80, 30), (128, 30), (80, 5)) for peer in ("NumPy", "PyTorch")]
ROWS += [(f"resample_to_16k/{rate}_30s", "soxr HQ", resampling(rate)) for rate in (22050, 44100, 48000)]


def fastest(work, calls=3):
    times = []
    for _ in range(calls):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return 1e3 * min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ours, theirs = [[] for _ in ROWS], [[] for _ in ROWS]
    for _ in range(arguments.rounds):
        output = subprocess.run([arguments.program, "--benchmark_filter=features|resample", "--benchmark_min_time=0.1", "--benchmark_format=json"],
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout
        measured = {row["name"]: row["cpu_time"] for row in json.loads(output)["benchmarks"]}
        for i, (name, _, work) in enumerate(ROWS):
            ours[i].append(measured[name])
            theirs[i].append(fastest(work))

    print(f"transformers {transformers.__version__}, numpy {np.__version__}, torch {torch.__version__}, soxr {soxr.__version__}; {arguments.rounds} rounds in turns")
    print("| work | peer | chiasm, fastest | peer, fastest | speed against the peer: fastest | medians |\n|---|---|---|---|---|---|")
    for (name, peer, _), mine, other in zip(ROWS, ours, theirs):
        median = statistics.median(other) / statistics.median(mine)
        print(f"| {name} | {peer} | {min(mine):.1f} ms | {min(other):.1f} ms | {min(other) / min(mine):.2f} x | {median:.2f} x |")


if __name__ == "__main__":
    main()
