"""Makes decode.jsonl, resize.jsonl and processors.jsonl: what Pillow and transformers make of small pictures.

Run by hand with Pillow 13.0.0, transformers 5.23.0, torch 2.15.0, torchvision 0.29.2 and numpy 2.4.6. The pictures are drawn
here, so the files carry no one's licence. `sha256` is of the 8-bit RGB pixels, row-major, interleaved.
"""
import base64, hashlib, io, json, random, struct, warnings, zlib
from pathlib import Path

import numpy as np
import transformers
from PIL import Image, ImageOps
from transformers.image_transforms import convert_to_rgb

warnings.simplefilter("ignore")
here = Path(__file__).parent
rng = np.random.default_rng(7)
random.seed(7)


def sha(array):
    return hashlib.sha256(np.ascontiguousarray(array, dtype=np.uint8).tobytes()).hexdigest()


def pattern(seed, width, height):
    """The pixels that the tests draw too: the high bytes of a linear congruential generator."""
    state, out = seed, bytearray()
    for _ in range(width * height * 3):
        state = (state * 1664525 + 1013904223) % 2**32
        out.append(state >> 24)
    return np.frombuffer(bytes(out), np.uint8).reshape(height, width, 3)


# Files, one of each kind that the formats know. ----------------------------------------------------------------------------

def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def filtered(rows, step):
    out, above = b"", np.zeros(rows.shape[1], int)
    for i, row in enumerate(rows.astype(int)):
        pad = np.zeros(min(step, len(row)), int)
        a = np.concatenate([pad, row[:-step]])[: len(row)]
        c = np.concatenate([pad, above[:-step]])[: len(row)]
        pa, pb, pc = abs(above - c), abs(a - c), abs(a + above - 2 * c)
        paeth = np.where((pa <= pb) & (pa <= pc), a, np.where(pb <= pc, above, c))
        prediction = [0, a, above, (a + above) // 2, paeth][(i + 4) % 5]
        out += bytes([(i + 4) % 5]) + ((row - prediction) % 256).astype(np.uint8).tobytes()
        above = row
    return out


def packed(samples, depth):
    if depth == 16:
        return samples.astype(">u2").view(np.uint8).reshape(len(samples), -1)
    if depth == 8:
        return samples.astype(np.uint8)
    bits = (samples[:, :, None] >> np.arange(depth - 1, -1, -1)) & 1
    return np.packbits(bits.reshape(len(samples), -1).astype(np.uint8), axis=1)


def png(width, height, colour, depth, interlaced=0, transparent=None, colours=0, extra=b""):
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    samples = rng.integers(0, colours or 1 << depth, (height, width, channels))
    adam7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    raw = b""
    for x, y, dx, dy in adam7 if interlaced else [(0, 0, 1, 1)]:
        part = samples[y::dy, x::dx]
        if part.size:
            raw += filtered(packed(part.reshape(len(part), -1), depth), max(1, depth * channels // 8))
    data = zlib.compress(raw, 9)
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    if colours:
        file += chunk(b"PLTE", rng.integers(0, 256, 3 * colours).astype(np.uint8).tobytes())
    if transparent == "pixel":
        value = samples[height // 2, width // 2]
        transparent = b"\xff" * int(value[0]) + b"\0" if colour == 3 else b"".join(struct.pack(">H", int(v)) for v in value)
    if transparent is not None:
        file += chunk(b"tRNS", transparent)
    return file + extra + chunk(b"IDAT", data[:5]) + chunk(b"IDAT", data[5:]) + chunk(b"IEND", b"")


def exif(orientation, little, kind=3):
    e = "<" if little else ">"
    value = struct.pack(e + "HH", orientation, 0) if kind == 3 else struct.pack(e + "I", orientation)
    return (b"II*\0" if little else b"MM\0*") + struct.pack(e + "IHHHI", 8, 1, 274, kind, 1) + value + struct.pack(e + "I", 0)


def bmp(width, height, bits, data, palette=b"", compression=0, header=40, colours=0, masks=b"", top_down=False):
    if header == 12:
        head = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        head = struct.pack("<IiiHHIIiiII", header, width, -height if top_down else height, 1, bits, compression, len(data), 0, 0, colours, 0)
        head += masks if header > 40 else b""
        head += b"\0" * (header - len(head)) + (masks if header == 40 else b"")
    at = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", at + len(data), 0, 0, at) + head + palette + data


def noise(*shape):
    return rng.integers(0, 256, shape, dtype=np.uint8).tobytes()


def run_length(width, height, nibbles):
    out = b""
    for _ in range(height):
        x = 0
        while x < width:
            if random.random() < 0.3 and width - x >= 3:
                count = random.randrange(3, width - x + 1)
                size = (count + 1) // 2 if nibbles else count
                out += bytes([0, count]) + noise(size) + b"\0" * (size % 2)
            elif random.random() < 0.15:
                count = random.randrange(0, width - x + 1)
                out += bytes([0, 2, count, 0])
            else:
                count = random.randrange(1, min(width - x, 9) + 1)
                out += bytes([count + 3 * (x + count == width)]) + noise(1)
            x += count
            if random.random() < 0.1:
                break
        out += b"\0\0"
    return out + b"\0\1"


def files():
    for colour, depths in ((0, (1, 2, 4, 8, 16)), (2, (8, 16)), (3, (1, 2, 4, 8)), (4, (8, 16)), (6, (8, 16))):
        for depth in depths:
            for interlaced in (0, 1):
                colours = {1: 2, 2: 3, 4: 11, 8: 23}[depth] if colour == 3 else 0
                yield f"png colour {colour} depth {depth} interlaced {interlaced}", png(13, 11, colour, depth, interlaced, colours=colours)
            if colour in (0, 2, 3):
                yield f"png colour {colour} depth {depth} transparent", png(9, 7, colour, depth, 0, "pixel", colours)
            if colour == 0:
                yield f"png gray {depth} transparent black", png(9, 7, 0, depth, 1, b"\0\0")
    yield "bmp alpha", bmp(9, 5, 32, noise(180), b"", 3, 124, 0, struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000))
    yield "bmp alpha without fields", bmp(9, 5, 32, noise(180), b"", 3, 56, 0, struct.pack("<IIII", 0, 0, 0, 0))
    yield "png palette alpha", png(9, 7, 3, 8, 0, noise(9), 23)
    yield "png 1x1", png(1, 1, 2, 8)
    yield "png 1x9 interlaced", png(1, 9, 2, 8, 1)
    for orientation in range(0, 10):
        yield f"png exif {orientation}", png(5, 3, 2, 8, extra=chunk(b"eXIf", exif(orientation, orientation % 2, 3 + orientation % 3 // 2)))
    yield "png xmp", png(5, 3, 2, 8, extra=chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'))
    yield "png exif transparent", png(5, 3, 2, 8, 0, "pixel", extra=chunk(b"eXIf", exif(6, 1)))

    picture = Image.fromarray(pattern(1, 17, 13)).resize((43, 31), Image.Resampling.BICUBIC)

    def saved(image, **options):
        stream = io.BytesIO()
        image.save(stream, **options)
        return stream.getvalue()

    for subsampling in (0, 1, 2):
        for progressive in (False, True):
            yield f"jpeg subsampling {subsampling} progressive {progressive}", saved(picture, format="JPEG", quality=80, subsampling=subsampling, progressive=progressive)
    yield "jpeg gray", saved(picture.convert("L"), format="JPEG")
    yield "jpeg cmyk", saved(picture.convert("CMYK"), format="JPEG")
    yield "jpeg 1x1", saved(picture.crop((3, 3, 4, 4)), format="JPEG")
    for orientation in range(1, 9):
        tags = Image.Exif()
        tags[274] = orientation
        yield f"jpeg exif {orientation}", saved(picture.crop((0, 0, 21, 10)), format="JPEG", exif=tags)
    plain = saved(picture.crop((0, 0, 21, 10)), format="JPEG")
    packet = b"http://ns.adobe.com/xap/1.0/\0<tiff:Orientation>8</tiff:Orientation>"
    yield "jpeg xmp", plain[:2] + b"\xff\xe1" + struct.pack(">H", len(packet) + 2) + packet + plain[2:]
    yield "jpeg with bytes behind its end", plain + b"junk"

    indexed = picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=21)
    for interlace in (0, 1):
        yield f"gif interlace {interlace}", saved(indexed, format="GIF", interlace=interlace)
        yield f"gif transparent interlace {interlace}", saved(indexed, format="GIF", interlace=interlace, transparency=5)
    yield "gif gray", saved(picture.convert("L"), format="GIF", transparency=77)
    yield "gif two frames", saved(indexed, format="GIF", save_all=True, append_images=[indexed.rotate(90)], transparency=3, disposal=2)
    for name, canvas, corner in (("inside", (60, 50), (11, 7)), ("beyond", (45, 35), (20, 10)), ("no canvas", (0, 0), (0, 0))):
        file = bytearray(saved(indexed, format="GIF", transparency=5))
        at = 13 + 3 * (2 << (file[10] & 7))
        while file[at] == 0x21:
            at += 2
            while file[at]:
                at += file[at] + 1
            at += 1
        struct.pack_into("<HH", file, 6, *canvas)
        struct.pack_into("<HH", file, at + 1, *corner)
        yield f"gif frame {name}", bytes(file)

    for bits in (1, 4, 8):
        stride = (9 * bits + 31) // 32 * 4
        yield f"bmp {bits} bits", bmp(9, 5, bits, noise(5 * stride), noise(4 << bits))
        yield f"bmp {bits} bits OS/2", bmp(9, 5, bits, noise(5 * stride), noise(3 << bits), header=12)
        yield f"bmp {bits} bits short palette", bmp(9, 5, bits, noise(5 * stride), noise(2 << bits), colours=(1 << bits) // 2)
    for bits, masks in ((16, None), (16, (0xF800, 0x7E0, 0x1F)), (16, (0x7C00, 0x3E0, 0x1F)), (24, None), (32, None), (32, (0xFF0000, 0xFF00, 0xFF)), (32, (0xFF000000, 0xFF0000, 0xFF00))):
        stride = (9 * bits + 31) // 32 * 4
        for header, top_down in ((40, False), (124, True)):
            fields = struct.pack("<III", *masks) + (struct.pack("<I", 0) if header > 40 else b"") if masks else b""
            yield f"bmp {bits} bits {masks} header {header}", bmp(9, 5, bits, noise(5 * stride), b"", 3 if masks else 0, header, 0, fields, top_down)
    for i in range(4):
        yield f"bmp rle8 {i}", bmp(13, 7, 8, run_length(13, 7, False), noise(1024), 1)
        yield f"bmp rle4 {i}", bmp(13, 7, 4, run_length(13, 7, True), noise(64), 2)

    for top in (1, 100, 255, 256, 1000, 65535):
        for kind, channels in ((2, 1), (3, 3), (5, 1), (6, 3)):
            values = rng.integers(0, top + 1, 7 * 5 * channels)
            head = f"P{kind}\n# made by hand\n7 5\n{top}\n".encode()
            yield f"pnm P{kind} {top}", head + (values.astype(">u2" if top > 255 else np.uint8).tobytes() if kind > 3 else b" ".join(b"%d" % v for v in values))
    bits = rng.integers(0, 2, (5, 11)).astype(np.uint8)
    yield "pnm P1", b"P1 11 5\n" + b"".join(b"%d" % v for v in bits.ravel())
    yield "pnm P4", b"P4 11 5\n" + np.packbits(bits, axis=1).tobytes()


with open(here / "decode.jsonl", "w") as out:
    for name, file in files():
        with_alpha = ImageOps.exif_transpose(Image.open(io.BytesIO(file)))
        image = with_alpha.convert("RGB")
        line = {"name": name, "width": image.width, "height": image.height, "sha256": sha(image),
                "key_sha256": sha(convert_to_rgb(image, return_numpy=True)),  # what is left of transparency after convert("RGB")
                "white_sha256": sha(convert_to_rgb(with_alpha, return_numpy=True))}
        if file.startswith(b"\xff\xd8"):  # for decoders that are near, not equal
            line["rgb"] = base64.b64encode(np.array(image).tobytes()).decode()
        out.write(json.dumps(line | {"file": base64.b64encode(file).decode()}) + "\n")

with open(here / "resize.jsonl", "w") as out:
    for i in range(120):
        w, h, W, H = (random.choice([1, 2, 3, 7, 16, 25, 40, 61, 90]) + random.randrange(3) for _ in range(4))
        if i % 10 == 0:
            W = w
        if i % 10 == 5:
            H = h
        for resample in ([i % 6] if i < 60 else [3]):
            resized = Image.fromarray(pattern(i, w, h)).resize((W, H), resample)
            out.write(json.dumps({"seed": i, "from": [w, h], "to": [W, H], "filter": resample, "sha256": sha(resized)}) + "\n")


# Processors: old and new spellings, small sizes. ---------------------------------------------------------------------------
mean, deviation = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
configs = [
    {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}},
    {"feature_extractor_type": "CLIPFeatureExtractor", "size": 21, "crop_size": 18, "resample": 3, "do_resize": True, "do_center_crop": True, "do_normalize": True, "image_mean": mean, "image_std": deviation},
    {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 16}, "crop_size": {"height": 24, "width": 20}, "resample": 2},
    {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 19}, "do_center_crop": False, "do_normalize": False},
    {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 19, "longest_edge": 30}, "crop_size": 22, "do_rescale": False},
    {"image_processor_type": "CLIPImageProcessor", "size": {"height": 20, "width": 26}, "crop_size": [18, 22], "image_mean": 0.5, "image_std": 0.25, "rescale_factor": 0.0078125},
    {"image_processor_type": "CLIPImageProcessorFast", "size": {"shortest_edge": 17}, "crop_size": 17, "do_resize": False},
    {"image_processor_type": "SiglipImageProcessor", "size": {"height": 30, "width": 30}, "do_convert_rgb": None, "processor_class": "PaliGemmaProcessor"},
    {"image_processor_type": "BlipImageProcessor", "size": {"height": 20, "width": 20}, "resample": 3},
    {"image_processor_type": "BlipImageProcessor", "size": 20, "do_convert_rgb": False},
    {"image_processor_type": "IdeficsImageProcessor", "image_size": 22, "image_num_channels": 3, "image_mean": mean, "image_std": deviation},
    {"image_processor_type": "ViTImageProcessor", "size": 16, "do_convert_rgb": None},
    {"image_processor_type": "ViTImageProcessor", "size": {"max_height": 20, "max_width": 31}, "resample": 0},
    {"image_processor_type": "LlavaImageProcessor", "do_pad": True, "size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}},
    {"image_processor_type": "LlavaImageProcessor", "do_pad": False, "size": 28, "crop_size": 28, "resample": 1},
    {"image_processor_type": "LlavaNextImageProcessor", "size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}, "image_grid_pinpoints": [[16, 32], [32, 16], [32, 32], [48, 16], [16, 48]]},
    {"image_processor_type": "LlavaNextImageProcessor", "size": {"height": 18, "width": 18}, "crop_size": {"height": 18, "width": 18}, "image_grid_pinpoints": [[36, 54], [18, 36]], "resample": 2, "image_mean": [0.1, 0.2, 0.3]},
]
pictures = [(40, 30, "RGB"), (30, 41, "RGB"), (16, 16, "RGB"), (7, 60, "RGB"), (61, 9, "RGB"), (100, 98, "RGB"), (25, 25, "P")]
with open(here / "processors.jsonl", "w") as out:
    for config in configs:
        options = {k: v for k, v in config.items() if not k.endswith("_type") and k != "processor_class"}
        name = (config.get("image_processor_type") or "CLIPImageProcessor").removesuffix("Fast")
        processor = getattr(transformers, name + "Pil")(**options)
        raw = getattr(transformers, name + "Pil")(**options | {"do_rescale": False, "do_normalize": False})
        for seed, (width, height, mode) in enumerate(pictures):
            image = Image.fromarray(pattern(seed, width, height))
            key = None
            if mode == "P":  # a picture with a transparent colour
                key = [int(v) for v in pattern(seed, width, height)[0, 0]]
                image.info["transparency"] = tuple(key)
            run = lambda p: p(image, return_tensors="np")
            values = run(processor) if "Idefics" not in name else {"pixel_values": run(processor)}
            bytes_ = run(raw)["pixel_values"] if "Idefics" not in name else run(raw)
            pixels = values["pixel_values"]
            pixels, bytes_ = (pixels[0], bytes_[0]) if pixels.ndim == 5 else (pixels, bytes_)
            at = np.linspace(0, pixels.size - 1, 16).astype(int)
            out.write(json.dumps({"config": config, "seed": seed, "from": [width, height], "transparent": key, "shape": list(pixels.shape), "sha256": sha(bytes_),
                                  "samples": [float(v) for v in pixels.ravel()[at].astype(np.float32)]}) + "\n")
