"""The pictures of bench/io/photo_bench in Pillow, in turns with it: photo, Pillow, photo, ...

    python bench/peers/pillow_peer.py build/release/bench/photo_bench [--rounds 9] [--photo FILE.jpg]

Without a photo, one of 3000 x 2000 pixels is drawn and saved as a JPEG of quality 85. Each round takes the fastest of several calls on
either side; the table shows the fastest rounds and the medians. Time is the process's processor time, so that other load on the machine
counts little; both sides run one thread. That both make the same pixels is checked too.
"""

import argparse
import hashlib
import io
import json
import os
import statistics
import subprocess
import tempfile
import time

import numpy as np
import PIL
from PIL import Image, features

SIZE = (504, 336)  # 3000 x 2000 with its short side at 336, as CLIP's processor asks


def draw(path):
    """Smooth colours, edges and a little noise, so that the JPEG has the size of a photograph's."""
    rng = np.random.default_rng(1)
    small = Image.fromarray(rng.integers(0, 256, (100, 150, 3), dtype=np.uint8)).resize((3000, 2000), Image.Resampling.BICUBIC)
    pixels = np.asarray(small).astype(int) + rng.integers(-6, 7, (2000, 3000, 3))
    pixels[500:1500:40, 300:2700] //= 2
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=85)


def fastest(work, calls):
    times = []
    for _ in range(calls):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=5)
    parser.add_argument("--photo")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.photo or os.path.join(folder, "photo.jpg")
        if not arguments.photo:
            draw(path)
        with open(path, "rb") as file:
            data = file.read()

        decode = lambda: Image.open(io.BytesIO(data)).convert("RGB")
        picture = decode()
        work = {"decode": decode, "resize": lambda: picture.resize(SIZE, Image.Resampling.BICUBIC),
                "both": lambda: decode().resize(SIZE, Image.Resampling.BICUBIC)}
        ours, theirs = {name: [] for name in work}, {name: [] for name in work}
        for _ in range(arguments.rounds):
            output = subprocess.run([arguments.program, path, *map(str, SIZE), str(arguments.calls)], stdout=subprocess.PIPE, check=True).stdout
            result = json.loads(output)
            for name in work:
                ours[name].append(result[name])
                theirs[name].append(fastest(work[name], arguments.calls))
        equal = result["sha256"] == hashlib.sha256(work["both"]().tobytes()).hexdigest()

    print(f"{picture.width} x {picture.height}, {len(data)} bytes, to {SIZE[0]} x {SIZE[1]}; Pillow {PIL.__version__}, "
          f"libjpeg-turbo {features.version('libjpeg_turbo')}; {arguments.rounds} rounds in turns; pixels {'equal' if equal else 'DIFFER'}")
    print("| work | chiasm, fastest | Pillow, fastest | speed against Pillow: fastest | medians |\n|---|---|---|---|---|")
    for name in work:
        best = min(theirs[name]) / min(ours[name])
        median = statistics.median(theirs[name]) / statistics.median(ours[name])
        print(f"| {name} | {1e3 * min(ours[name]):.1f} ms | {1e3 * min(theirs[name]):.1f} ms | {best:.2f} x | {median:.2f} x |")


if __name__ == "__main__":
    main()
