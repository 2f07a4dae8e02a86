"""Makes formats.jsonl, processors_random.jsonl and three .webp files: random files of every format, and random processor configurations of every
class. The .webp files are there for the fuzz targets, which read whatever lies in tests/golden.

Run by hand with Pillow 13.0.0, transformers 5.23.0, torch 2.15.0, torchvision 0.29.2 and numpy 2.4.6:

    python make_random.py                   # what is committed
    python make_random.py OUT 1234 200      # other files: seed 1234, 200 of each format and class

`sha256` is of Pillow's `exif_transpose(image).convert("RGB")`, `white_sha256` of transformers' convert_to_rgb() of the same picture with its
alpha. Of processors, `sha256` is of the 8-bit values that they rescale and normalise, in the layout of pixel_values. Pictures are drawn here.
"""
import base64, hashlib, io, json, random, struct, sys, tempfile, warnings, zlib
from pathlib import Path

import numpy as np
import transformers
from PIL import Image, ImageOps
from transformers import AutoImageProcessor
from transformers.image_transforms import convert_to_rgb

warnings.simplefilter("ignore")
transformers.logging.set_verbosity_error()
out_folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent)
seed, count = (int(sys.argv[2]), int(sys.argv[3])) if len(sys.argv) > 3 else (11, 24)
R, G = random.Random(seed), np.random.default_rng(seed)


def sha(array):
    return hashlib.sha256(np.ascontiguousarray(array, dtype=np.uint8).tobytes()).hexdigest()


# Files. --------------------------------------------------------------------------------------------------------------------

def side():
    return R.choice([R.randint(1, 4), R.randint(1, 40), R.randint(1, 40)])


def picture(mode="RGBA"):
    w, h = side(), side()
    pixels = G.integers(0, 256, (h, w, 4), dtype=np.uint8)
    if R.random() < 0.7:
        y, x = np.mgrid[0:h, 0:w]
        for c in range(4):
            pixels[..., c] = 127.5 + 127 * np.sin(x * R.random() * 0.4 + y * R.random() * 0.4 + c * R.random() * 9)
    if R.random() < 0.5:
        pixels[..., 3] = np.where(G.random((h, w)) < 0.4, 0, np.where(G.random((h, w)) < 0.5, 255, pixels[..., 3]))
    if mode in ("I;16", "CMYK raw"):
        return Image.fromarray(G.integers(0, 65536, (h, w), dtype=np.uint16)) if mode == "I;16" else Image.fromarray(pixels, "CMYK")
    image = Image.fromarray(pixels)
    if mode == "P":
        return image.convert("RGB").quantize(R.choice([2, 3, 5, 17, 64, 200, 256]))
    return image.convert("RGB").convert(mode) if mode in ("CMYK", "YCbCr") else image.convert(mode)


def saved(image, **options):
    stream = io.BytesIO()
    image.save(stream, **options)
    return stream.getvalue()


def orientation():
    tags = Image.Exif()
    tags[274] = R.randint(1, 8)
    return tags


def maybe(chance, **options):
    return options if R.random() < chance else {}


def png():
    mode = R.choice(["1", "L", "LA", "P", "P", "RGB", "RGBA", "I;16"])
    options = maybe(0.3, exif=orientation()) | (maybe(0.5, transparency=R.randrange(2)) if mode in ("P", "L") else {})
    file = saved(picture(mode), format="PNG", **options)
    if R.random() < 0.3 and "exif" not in options:  # EXIF as ImageMagick writes it
        tags = orientation().tobytes()
        text = b"\nexif\n%8d\n" % len(tags) + b"\n".join(tags.hex().encode()[i:i + 72] for i in range(0, 2 * len(tags), 72)) + b"\n"
        kind, data = R.choice([(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)), (b"tEXt", b"Raw profile type exif\0" + text)])
        file = file[:33] + struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) + file[33:]
    return file


def bmp():
    return saved(picture(R.choice(["1", "L", "P", "RGB", "RGBA"])), format="BMP")


def gif():
    mode = R.choice(["P", "P", "P", "L", "1", "RGB", "RGBA"])
    image = picture(mode)
    options = {"interlace": R.randrange(2)} | (maybe(0.5, transparency=R.randrange(2)) if mode != "RGBA" else {}) | maybe(0.3, optimize=True)
    options |= maybe(0.3, background=R.randrange(2)) | maybe(0.3, save_all=True, append_images=[image.rotate(180), image.rotate(90)], disposal=R.randrange(4))
    file = bytearray(saved(image, format="GIF", **options))
    bits = file[10] & 7
    palette = 3 * (2 << bits) if file[10] & 128 else 0
    frame = 13 + palette
    while file[frame] == 0x21:
        frame += 2
        while file[frame]:
            frame += file[frame] + 1
        frame += 1
    if R.random() < 0.5:  # a frame somewhere on another canvas
        struct.pack_into("<HH", file, 6, side(), side())
        struct.pack_into("<HH", file, frame + 1, R.randint(0, 9), R.randint(0, 9))
    if palette and R.random() < 0.4:  # a palette of the frame's own
        local = bytes([file[frame + 9] | 128 | bits])
        if R.random() < 0.5:
            head = file[:13]
            head[10] = 0
            file = head + file[13 + palette:frame + 9] + local + file[13:13 + palette] + file[frame + 10:]
        else:
            file = file[:frame + 9] + local + G.integers(0, 256, palette, dtype=np.uint8).tobytes() + file[frame + 10:]
    return bytes(file)


def pnm():
    kind, w, h = R.randint(1, 6), side(), side()
    top = R.choice([1, 2, 3, 7, 100, 127, 254, 255, 256, 1000, 1023, 4095, 32767, 65534, 65535])
    head = b"P%d" % kind + R.choice([b"\n", b" ", b"\t", b"\r\n", b"\n# a comment 7 5\n"]) + b"%d %d" % (w, h) + R.choice([b"\n", b" ", b"\n#x\n"])
    if kind in (1, 4):
        bits = G.integers(0, 2, (h, w)).astype(np.uint8)
        return head + (np.packbits(bits, axis=1).tobytes() if kind == 4 else R.choice([b"", b" ", b"\n"]).join(b"%d" % v for v in bits.ravel()) + b"\n")
    values = G.integers(0, top + 1, w * h * (3 if kind in (3, 6) else 1))
    return head + b"%d\n" % top + (values.astype(">u2" if top > 255 else np.uint8).tobytes() if kind > 3 else b" ".join(b"%d" % v for v in values) + b"\n")


def jpeg():
    mode = R.choice(["RGB", "RGB", "RGB", "L", "CMYK", "CMYK raw", "YCbCr"])
    options = {"quality": R.randint(1, 100), "progressive": R.random() < 0.4, "optimize": R.random() < 0.3}
    options |= maybe(0.3, exif=orientation()) | maybe(0.2, restart_marker_blocks=R.randint(1, 5))
    options |= {"keep_rgb": True} if mode == "RGB" and R.random() < 0.2 else {"subsampling": R.randrange(3)} if mode != "L" else {}
    file = saved(picture(mode), format="JPEG", **options)
    at = file.find(b"Adobe")
    return file[:at + 11] + b"\2" + file[at + 12:] if "CMYK" in mode and at > 0 and R.random() < 0.5 else file  # YCCK


def webp():
    image = picture(R.choice(["RGB", "RGBA", "RGBA", "L", "P"]))
    options = {"lossless": R.random() < 0.5, "quality": R.randint(0, 100), "method": R.randint(0, 6)} | maybe(0.3, exact=True) | maybe(0.3, alpha_quality=R.randint(0, 100))
    options |= maybe(0.3, exif=orientation()) or maybe(0.2, xmp=b'<x:xmpmeta tiff:Orientation="%d"/>' % R.randint(1, 8))
    if R.random() < 0.7:
        return saved(image, format="WEBP", **options)
    file = bytearray(saved(image, format="WEBP", save_all=True, append_images=[image.rotate(180)], background=tuple(G.integers(0, 256, 4).tolist()), **options))
    frame = file.find(b"ANMF")
    if file[12:16] == b"VP8X" and frame > 0:  # the first frame somewhere on a larger canvas
        right, below = R.randint(0, 20), R.randint(0, 20)
        for at, value in ((24, image.width + right - 1), (27, image.height + below - 1), (frame + 8, R.randint(0, right // 2)), (frame + 11, R.randint(0, below // 2))):
            file[at:at + 3] = value.to_bytes(3, "little")
    return bytes(file)


def tiff():
    mode = R.choice(["1", "L", "P", "RGB", "RGBA", "LA"])
    tags = maybe(0.3, **{"274": R.randint(1, 8)}) | maybe(0.4, **{"278": R.randint(1, 20)})
    coding = R.choice([None, "tiff_lzw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
    if coding and coding.startswith("tiff") and mode not in ("1", "P") and R.random() < 0.4:
        tags["317"] = 2
    return saved(picture(mode), format="TIFF", compression=coding, tiffinfo={int(tag): value for tag, value in tags.items()})


with open(out_folder / "formats.jsonl", "w") as out:
    for make in (png, bmp, gif, pnm, jpeg, webp, tiff):
        before = R.getstate(), G.bit_generator.state
        for i in range(count):
            file = make()
            with_alpha = ImageOps.exif_transpose(Image.open(io.BytesIO(file)))
            image = with_alpha.convert("RGB")
            line = {"name": f"{make.__name__} {i}", "width": image.width, "height": image.height, "sha256": sha(image),
                    "key_sha256": sha(convert_to_rgb(image, return_numpy=True)), "white_sha256": sha(convert_to_rgb(with_alpha, return_numpy=True))}
            if make is jpeg:  # for decoders that are near, not equal
                line["rgb"] = base64.b64encode(np.array(image).tobytes()).decode()
            out.write(json.dumps(line | {"file": base64.b64encode(file).decode()}) + "\n")
        if make is tiff:  # came later; the processors below go on as they did without it
            R.setstate(before[0])
            G.bit_generator.state = before[1]


# Processors. ---------------------------------------------------------------------------------------------------------------

MEAN, DEVIATION = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def pattern(state, width, height):
    """The pixels that the tests draw too: the high bytes of a linear congruential generator."""
    out = bytearray()
    for _ in range(width * height * 3):
        state = (state * 1664525 + 1013904223) % 2**32
        out.append(state >> 24)
    return np.frombuffer(bytes(out), np.uint8).reshape(height, width, 3)


def edge():
    return R.randint(1, 12) if R.random() < 0.1 else R.randint(12, 70)


def any_size():
    short = edge()
    return R.choice([{"shortest_edge": edge()}, {"height": edge(), "width": edge()}, {"shortest_edge": short, "longest_edge": short + R.randint(0, 60)},
                     {"max_height": edge(), "max_width": edge()}, edge(), [edge(), edge()]])


def square(side):
    return R.choice([{"height": side, "width": side}, side])


def crop():
    return R.choice([{"height": edge(), "width": edge()}, [edge(), edge()], square(edge())])


def configuration(kind):
    name = kind + "ImageProcessor" if kind != "Kosmos2" else "CLIPImageProcessor"
    old = name.replace("ImageProcessor", "FeatureExtractor") if kind in ("CLIP", "ViT") else name
    config = R.choice([{"image_processor_type": name}, {"image_processor_type": name + "Fast"}, {"feature_extractor_type": old}])
    config |= maybe(0.2, do_rescale=False) | maybe(0.3, do_normalize=R.choice([True, False])) | maybe(0.3, do_resize=R.choice([True, True, False]))
    config |= maybe(0.7, resample=R.randrange(6)) | maybe(0.3, rescale_factor=R.choice([1 / 127.5, 1 / 256, 0.5])) | maybe(0.2, do_convert_rgb=None)
    config |= R.choice([{}, {"image_mean": MEAN, "image_std": DEVIATION}, {"image_mean": [R.random() for _ in range(3)], "image_std": [0.1 + R.random() for _ in range(3)]}])
    if kind == "Kosmos2":
        return config | {"size": {"shortest_edge": R.choice([224, 56])}, "use_square_size": True, "crop_size": crop()}
    if kind in ("CLIP", "Llava"):
        return config | maybe(0.85, size=any_size()) | {"crop_size": crop()} | maybe(0.3, do_center_crop=R.choice([True, False])) | (maybe(0.8, do_pad=R.random() < 0.7) if kind == "Llava" else {})
    if kind in ("Siglip", "Blip", "ViT"):
        return config | {"size": any_size()} | maybe(0.1, do_pad=True) | maybe(0.1, default_to_square=R.random() < 0.5) | maybe(0.15, do_center_crop=True, crop_size=crop())
    if kind == "Idefics":
        return config | R.choice([{"image_size": edge(), "image_num_channels": 3}, {"size": {"height": edge(), "width": edge()}}, {"size": edge()}])
    if kind == "LlavaNext":
        tile = R.choice([8, 14, 20])
        canvases = [[a * tile, b * tile] for a in range(1, 5) for b in range(1, 5) if a * b > 1]
        return config | {"size": R.choice([{"shortest_edge": tile}, square(tile)]), "crop_size": square(tile), "image_grid_pinpoints": R.sample(canvases, R.randint(1, 6))}
    if kind == "Qwen2VL":
        patch, merge = R.choice([4, 7, 14]), R.choice([1, 2, 3])
        least = R.randint(1, 8) * (patch * merge) ** 2
        most = least + R.randint(0, 12) * (patch * merge) ** 2
        bounds = R.choice([{"size": {"shortest_edge": least, "longest_edge": most}}, {"min_pixels": least, "max_pixels": most}, {"max_pixels": most + 3136},
                           {"min_pixels": least, "max_pixels": most, "size": {"min_pixels": least, "max_pixels": most}}])
        return config | bounds | {"patch_size": patch, "merge_size": merge} | maybe(0.5, temporal_patch_size=R.choice([1, 3]))
    tile = R.choice([16, 20, 33])
    return config | {"max_image_size": {"longest_edge": tile}, "size": R.choice([{"longest_edge": tile * R.randint(1, 4)}, {"longest_edge": R.randint(1, 90)}, {"height": edge(), "width": edge()}])} | \
        maybe(0.4, do_image_splitting=R.random() < 0.5) | maybe(0.3, do_pad=R.random() < 0.5)


def run(config, image):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "preprocessor_config.json").write_text(json.dumps(config))
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        tiled = {"return_row_col_info": True} if "max_image_size" in config else {}
        result = processor(image, return_tensors="np", **tiled)
    if isinstance(result, (list, np.ndarray)):  # Idefics
        return np.asarray(result), None
    values = np.asarray(result["pixel_values"])
    grid = [result["rows"][0][0], result["cols"][0][0]] if tiled else result["image_grid_thw"][0, 1:].tolist() if "image_grid_thw" in result else None
    return values[0] if values.ndim == 5 else values, grid


drawn = Image.fromarray(pattern(1, 7, 5)).resize((40, 30), Image.Resampling.BICUBIC)
faint = drawn.copy()
faint.putalpha(drawn.convert("L"))
(out_folder / "lossy.webp").write_bytes(saved(faint, format="WEBP", quality=60, exif=b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"))
(out_folder / "lossless.webp").write_bytes(saved(faint, format="WEBP", lossless=True))
(out_folder / "animated.webp").write_bytes(saved(drawn, format="WEBP", save_all=True, append_images=[drawn.rotate(180)]))

with open(out_folder / "processors_random.jsonl", "w") as out:
    for kind in ("CLIP", "Kosmos2", "Llava", "LlavaNext", "Siglip", "Blip", "Idefics", "ViT", "Qwen2VL", "Idefics3", "SmolVLM"):
        for _ in range(max(count // 2, 1)):
            config, start = configuration(kind), R.randrange(1 << 30)
            width, height = (R.choice([R.randint(1, 8), R.randint(9, 130), R.randint(9, 130)]) for _ in range(2))
            image = Image.fromarray(pattern(start, width, height))
            key = None
            if R.random() < 0.2:  # a transparent colour
                key = tuple(int(v) for v in np.asarray(image)[0, 0])
                image.info["transparency"] = key
            line = {"config": config, "seed": start, "from": [width, height], "transparent": key}
            try:
                values, grid = run(config, image)
                raw, _ = run(config | {"do_rescale": False, "do_normalize": False}, image)
            except ValueError as error:
                line["error"] = str(error)
            else:
                at = np.linspace(0, values.size - 1, 16).astype(int)
                line |= {"shape": list(values.shape), "grid": grid, "sha256": sha(raw), "samples": [float(v) for v in values.ravel()[at].astype(np.float32)]}
            out.write(json.dumps(line) + "\n")
