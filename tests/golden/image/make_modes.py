"""Makes modes.jsonl: what open_clip's preprocessing makes of pictures with a palette or an alpha channel, which it resizes as they are and makes RGB
afterwards. The files are those of decode.jsonl and formats.jsonl.

Run by hand with Pillow 13.0.0 and torchvision 0.29.2. `sha256` is of the 8-bit RGB pixels, row-major, interleaved.
"""
import base64, collections, hashlib, io, json
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from torchvision import transforms

here = Path(__file__).parent
sides = (6, 17, 31)
kept = collections.Counter()

with open(here / "modes.jsonl", "w") as out:
    for source in ("decode.jsonl", "formats.jsonl"):
        for n, line in enumerate((here / source).read_text().splitlines()):
            case = json.loads(line)
            image = Image.open(io.BytesIO(base64.b64decode(case["file"])))
            kind = image.format, image.mode
            if image.format == "JPEG" or image.mode in ("I", "I;16"):
                continue
            kept[kind] += 1
            if source != "decode.jsonl" and kept[kind] > 12:
                continue
            side = sides[n % len(sides)]
            transform = transforms.Compose([transforms.Resize(side, interpolation=transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(side),
                                            lambda picture: picture.convert("RGB")])
            pixels = np.asarray(transform(ImageOps.exif_transpose(image)))
            out.write(json.dumps({"name": case["name"], "mode": image.mode, "side": side, "sha256": hashlib.sha256(pixels.tobytes()).hexdigest()}) + "\n")
print(sorted(kept.items()))
