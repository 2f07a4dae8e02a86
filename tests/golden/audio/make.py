"""Makes files.jsonl, resample.jsonl and features.jsonl: what libsndfile, soxr and transformers make of small sounds.

Run by hand with soundfile 0.14.0 (libsndfile 1.2.2), soxr 1.1.0, transformers 5.23.0, torch 2.15.0 and numpy 2.4.6. The sounds are
computed here, so the files carry no one's licence. `sha256` is of the samples as little-endian 32-bit floats, interleaved.
"""
import base64, hashlib, io, json, struct
from pathlib import Path

import numpy as np
import soundfile
import soxr
from transformers import WhisperFeatureExtractor

here = Path(__file__).parent
rng = np.random.default_rng(5)


def write(name, lines):
    (here / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


# Files. --------------------------------------------------------------------------------------------------------------------

def chunk(name, data, size=None, order="<", pad=True):
    return name + struct.pack(order + "I", len(data) if size is None else size) + data + (b"\0" if pad and len(data) % 2 else b"")


def fmt(encoding=1, channels=1, rate=16000, bits=16, align=None, extra=b"", order="<"):
    align = channels * ((bits + 7) // 8) if align is None else align
    return struct.pack(order + "HHIIHH", encoding, channels, rate, rate * align & 0xFFFFFFFF, align & 0xFFFF, bits) + extra


def riff(*chunks, kind=b"RIFF", size=None, order="<"):
    body = b"WAVE" + b"".join(chunks)
    return kind + struct.pack(order + "I", len(body) if size is None else size) + body


def wav(data, **format):
    return riff(chunk(b"fmt ", fmt(**format)), chunk(b"data", data))


def extended(encoding, valid, guid="000000001000800000aa00389b71"):
    return struct.pack("<HHIH", 22, valid, 0, encoding) + bytes.fromhex(guid)


def rf64(data_size, data, data_field=0xFFFFFFFF):
    sizes = chunk(b"ds64", struct.pack("<QQQI", 0, data_size, data_size, 0))
    return riff(sizes, chunk(b"fmt ", fmt()), chunk(b"data", data, size=data_field), kind=b"RF64", size=0xFFFFFFFF)


def wav_files():
    d8, d24 = rng.bytes(41), rng.bytes(60)
    d16 = rng.integers(-32768, 32768, 40).astype("<i2").tobytes()
    d32 = rng.integers(-2**31, 2**31, 20).astype("<i4").tobytes()
    f32, f64 = ((rng.standard_normal(20) * 0.5).astype(kind).tobytes() for kind in ("<f4", "<f8"))
    head, data, note = chunk(b"fmt ", fmt()), chunk(b"data", d16), chunk(b"LIST", b"INFOISFT\4\0\0\0abcd")
    big = {"kind": b"RIFX", "order": ">"}
    files = {
        "pcm 8": wav(d8, bits=8), "pcm 16": wav(d16), "pcm 24": wav(d24, bits=24), "pcm 32": wav(d32, bits=32),
        "float 32": wav(f32, encoding=3, bits=32), "float 64": wav(f64, encoding=3, bits=64),
        "float 64 beyond float 32": wav(np.array([1e300, 0.1, -0.3]).tobytes(), encoding=3, bits=64),
        "pcm 64": wav(f64, bits=64), "float 16": wav(d16, encoding=3), "pcm 0": wav(d16, bits=0), "pcm 40": wav(d16, bits=40),
        "stereo": wav(d16, channels=2), "three channels": wav(d24, channels=3, bits=24), "five channels": wav(d8, channels=5, bits=8),
        "half a frame at the end": wav(d16 + b"\1\2", channels=2), "half a sample at the end": wav(d16 + b"\7"),
        **{f"pcm {bits} in {(bits + 7) // 8} bytes": wav(d24, bits=bits) for bits in (9, 12, 17, 20, 31)},
        "odd block size": wav(d16, align=7), "no block size": wav(d16, align=0), "block size of twice the sample": wav(d24, bits=24, align=6),
        "no channels": wav(d16, channels=0), "1024 channels": wav(d16 * 60, channels=1024), "1025 channels": wav(d16 * 60, channels=1025),
        "0 Hz": wav(d16, rate=0), "1 Hz": wav(d16, rate=1), "2147483647 Hz": wav(d16, rate=2**31 - 1, align=1), "3 GHz": wav(d16, rate=3 * 10**9),
        "fmt of 18": riff(chunk(b"fmt ", fmt(extra=b"\0\0")), data), "fmt of 40": riff(chunk(b"fmt ", fmt(extra=b"\0" * 24)), data),
        "fmt of 14": riff(chunk(b"fmt ", fmt()[:14]), data), "fmt of 0": riff(chunk(b"fmt ", b""), data),
        "extensible 8": wav(d8, encoding=0xFFFE, bits=8, extra=extended(1, 8)), "extensible 16": wav(d16, encoding=0xFFFE, extra=extended(1, 16)),
        "extensible 20 of 24": wav(d24, encoding=0xFFFE, bits=24, extra=extended(1, 20)), "extensible 24 of 32": wav(d32, encoding=0xFFFE, bits=32, extra=extended(1, 24)),
        "extensible float 32": wav(f32, encoding=0xFFFE, bits=32, extra=extended(3, 32)), "extensible float 64": wav(f64, encoding=0xFFFE, bits=64, extra=extended(3, 64)),
        "extensible of another kind": wav(d16, encoding=0xFFFE, extra=extended(1, 16, "01" * 14)), "extensible and short": wav(d16, encoding=0xFFFE, extra=b"\0\0"),
        "chunk before fmt": riff(note, head, data), "chunk before data": riff(head, note, data), "chunk after data": riff(head, data, note), "bytes after data": wav(d16) + b"tail",
        "odd chunk": riff(head, chunk(b"junk", b"abc"), data), "odd chunk without padding": riff(head, chunk(b"junk", b"abc", pad=False), data), "fact": riff(chunk(b"fmt ", fmt(encoding=3, bits=32)), chunk(b"fact", b"\7\0\0\0"), chunk(b"data", f32)),
        "data cut": wav(d16)[:-13], "data of less than the file": riff(head, chunk(b"data", d16, size=22)), "data of 4 GB": riff(head, chunk(b"data", d16, size=0xFFFFFFFF)),
        "data of 2 GB": riff(head, chunk(b"data", d16, size=0x7FFFFFF0)), "no samples": riff(head, chunk(b"data", b"")), "size 0 before samples": riff(head, chunk(b"data", d16, size=0)),
        "fmt after data": riff(data, head), "no fmt": riff(data), "no data": riff(head), "two fmt": riff(head, chunk(b"fmt ", fmt(channels=2)), data), "nothing": riff(),
        "riff of 0": riff(head, data, size=0), "riff of 20": riff(head, data, size=20), "riff of 4 GB": riff(head, data, size=0xFFFFFFFF), "chunk of 4 GB": riff(head, chunk(b"LIST", b"INFO", size=0xFFFFFFF0), data),
        "rifx 16": riff(chunk(b"fmt ", fmt(order=">"), order=">"), chunk(b"data", d16, order=">"), **big), "rifx 24": riff(chunk(b"fmt ", fmt(bits=24, order=">"), order=">"), chunk(b"data", d24, order=">"), **big),
        "rifx float 32": riff(chunk(b"fmt ", fmt(encoding=3, bits=32, order=">"), order=">"), chunk(b"data", f32, order=">"), **big),
        "rf64": rf64(len(d16), d16), "rf64 of less than the file": rf64(22, d16), "rf64 of more than the file": rf64(2**60, d16), "rf64 with a small size": rf64(22, d16, len(d16)), "rf64 without ds64": riff(head, chunk(b"data", d16, size=0xFFFFFFFF), kind=b"RF64"),
        "cut in the header": wav(d16)[:30], "empty": b"", "avi": b"RIFF\x20\0\0\0AVI " + b"\0" * 32, "ogg": b"OggS" + b"\0" * 40,
    }
    return files


def flac(samples, rate, subtype, level):
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format="FLAC", subtype=subtype, compression_level=level)
    return out.getvalue()


def flac_files():
    n = 900
    t = np.arange(n)
    sounds = {"noise": rng.standard_normal(n) * 0.3, "sine": 0.8 * np.sin(t * 0.05) + 1e-3 * rng.standard_normal(n), "silence": np.zeros(n), "constant": np.full(n, 0.25), "clipped": np.clip(rng.standard_normal(n) * 3, -1, 1),
              "quiet": 1e-4 * rng.standard_normal(n), "wasted bits": np.round(rng.standard_normal(n) * 8) / 64, "ramp": np.linspace(-1, 1, n)}
    files = {f"flac {name} {subtype}": flac(sound, 16000, subtype, level) for name, sound in sounds.items() for subtype, level in (("PCM_S8", 0), ("PCM_16", 0.5), ("PCM_24", 1.0))}
    pair = np.stack([sounds["sine"], sounds["sine"] * 0.98 + 1e-4 * rng.standard_normal(n)], 1)
    for level in (0, 0.5, 1.0):
        files[f"flac stereo {level}"] = flac(pair, 44100, "PCM_16", level)
        files[f"flac stereo, one side inverted {level}"] = flac(pair * [1, -1], 48000, "PCM_24", level)
    for count in (3, 8):
        files[f"flac of {count} channels"] = flac(sounds["sine"][:, None] * rng.uniform(0.2, 1, count) + 0.05 * rng.standard_normal((n, count)), 22050, "PCM_16", 0.5)
    files["flac of one sample"] = flac(np.array([0.5]), 8000, "PCM_16", 0.5)
    files["flac of several frames"] = flac(np.tile(sounds["quiet"] * 30, 12), 12345, "PCM_16", 0.5)
    whole = files["flac sine PCM_16"]
    files.update({f"flac cut at {cut}": whole[:cut] for cut in (10, 41, 60, len(whole) // 2, len(whole) - 1)})
    damaged = bytearray(whole)
    damaged[-20] ^= 1
    files["flac with a wrong bit"] = bytes(damaged)
    files["flac with bytes behind its end"] = whole + b"TAG" + b"\0" * 125
    return files


def read(name, data):
    line = {"name": name, "file": base64.b64encode(data).decode()}
    try:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
        line |= {"rate": rate, "channels": samples.shape[1], "frames": samples.shape[0], "sha256": hashlib.sha256(samples.astype("<f4").tobytes()).hexdigest()}
    except Exception as error:
        line["error"] = str(error).split(": ", 1)[-1]
    return line


write("files.jsonl", [read(name, data) for name, data in {**wav_files(), **flac_files()}.items()])


# Resampling: five sines under a Hann window, all of them below 0.88 of the lower Nyquist frequency. -------------------------

def sines(rate, frames, highest):
    t = np.arange(frames) / rate
    return (np.sin(np.pi * (np.arange(frames) + 0.5) / frames) ** 2 * sum(0.15 * np.sin(2 * np.pi * highest * k / 5 * t + k) for k in range(1, 6))).astype(np.float32)


def resampled(rate, to, frames):
    highest = 0.44 * min(rate, to)
    samples = soxr.resample(sines(rate, frames, highest), rate, to, quality="HQ")
    return {"rate": rate, "to": to, "frames": frames, "highest": highest, "samples": base64.b64encode(samples.astype("<f4").tobytes()).decode()}


PAIRS = [(8000, 16000), (11025, 16000), (12000, 16000), (22050, 16000), (24000, 16000), (32000, 16000), (44100, 16000), (48000, 16000), (96000, 16000), (44099, 16000), (16000, 22050), (16000, 8000)]
write("resample.jsonl", [resampled(rate, to, rate // 20 + 7) for rate, to in PAIRS])


# Features. The sounds are integer arithmetic, so that the tests compute the same. ------------------------------------------

def sound(kind, frames, volume=0):
    """16-bit samples: the high half of a linear congruential generator, a triangular chirp, or both; or one impulse."""
    out = np.zeros(frames, np.int64)
    if kind in ("noise", "both"):
        state, noise = 1, []
        for _ in range(frames):
            state = (state * 1664525 + 1013904223) % 2**32
            noise.append((state >> 16) - 32768)
        out += np.array(noise, np.int64) >> (volume + (6 if kind == "both" else 0))
    if kind in ("chirp", "both"):
        i = np.arange(frames, dtype=np.int64)
        phase = (i * 8000000 + i * (i + 1) // 2 * 40009) % 2**32 >> 16
        out += (np.abs(phase - 32768) * 2 - 32768) >> (volume + 1)
    if kind == "impulse" and frames:
        out[frames // 3] = 20000
    return (out / 32768).astype(np.float32)


SOUNDS = [("noise", 16000, 2), ("chirp", 24000, 0), ("both", 9999, 3), ("impulse", 4000, 0), ("silence", 8000, 0), ("noise", 1, 1), ("noise", 0, 0), ("noise", 100, 1), ("noise", 201, 1), ("chirp", 33000, 0), ("noise", 31999, 9)]
CONFIGS = [{}, {"feature_size": 128}, {"feature_size": 64, "n_fft": 512}, {"hop_length": 320}, {"hop_length": 161}, {"n_fft": 401}, {"padding_value": 0.01}, {"padding_side": "left"}, {"sampling_rate": 8000}, {"sampling_rate": 24000, "n_fft": 600, "hop_length": 240},
           {"do_normalize": True, "return_attention_mask": True, "mel_filters": [[1.0]], "n_samples": 5, "nb_max_frames": 6}]


def features(config, name, frames, volume):
    extractor = WhisperFeatureExtractor(**config)
    out = extractor(sound(name, frames, volume), sampling_rate=extractor.sampling_rate, return_tensors="np", return_attention_mask=True)
    values, mask = out["input_features"][0], out["attention_mask"][0]
    at = np.linspace(0, values.size - 1, 61).astype(np.int64)
    at = np.concatenate([at, np.arange(values.shape[0]) * values.shape[1] + np.arange(values.shape[0]) % max(1, mask.sum())])  # where there is sound
    return {"config": {"feature_extractor_type": "WhisperFeatureExtractor", **config}, "sound": name, "frames": frames, "volume": volume, "shape": list(values.shape), "mask": int(mask.sum()), "mean": round(float(values.mean()), 6),
            "max": round(float(values.max()), 6), "samples": [round(float(value), 6) for value in values.reshape(-1)[at]]}


lines = [features({"chunk_length": 2, **config}, *one) for config in CONFIGS for one in (SOUNDS if not config else SOUNDS[:5])]
lines += [features({}, "both", 31 * 16000, 2), features({"feature_size": 128, "chunk_length": 30}, "chirp", 5 * 16000, 1), features({"chunk_length": 10}, "both", 5 * 16000, 1)]
write("features.jsonl", lines)
