"""The benchmarks of bench/models and the same work in other engines, in turns: one process computes at a time, all on the same threads.

Prints a table; a run of all rows also writes bench/results/DATE.json and DATE.md. Needs nothing but the standard library itself;
the interpreter that runs the peers needs what requirements.txt names.
"""

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import shapes

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SECONDS = 1.0  # a measurement takes at least so long; as in bench/models
ROOM = 6 << 30  # with less memory to spare a process ends after its turn

PEERS = {"PyTorch": "pytorch_peer.py", "OpenVINO": "openvino_peer.py", "ONNX Runtime": "onnxruntime_peer.py", "llama.cpp": "llama_cpp_peer.py"}

# Title, the program of bench/models, and for each work its title and the tokens that it goes through.
LLM_WORKS = {"prefill_512": ("prompt of 512", 512), "prefill_128": ("prompt of 128", 128), "decode_128": ("next token after 128", 1)}
MODELS = {
    "vit_l_336": ("ViT-L/14-336 and LLaVA-1.5's projector", "vit_bench", {"encode": ("one picture", 0)}),
    "vit_b_224": ("ViT-B/16-224", "vit_bench", {"encode": ("one picture", 0)}),
    "llama_1b": ("Llama 1.1B", "llama_bench", LLM_WORKS),
    "qwen2_0.5b": ("Qwen2 0.5B", "llama_bench", LLM_WORKS),
    "llama_7b": ("Llama 7B", "llama_bench", {"decode_128": LLM_WORKS["decode_128"]}),
    "llava_1b": ("LLaVA: ViT-L/14-336 and Llama 1.1B", "llava_bench", {"first_token": ("a picture and 40 tokens, to the first token", 0),
                                                                     "answer": ("the 64 tokens after it", shapes.ANSWER)}),
    "start": ("Llama 1.1B from the file", "start_bench", {"first_token": ("from nothing to the first token, files cached", 0)}),
    "vit_g_224_4_blocks": ("ViT-g/14-224, 4 of 39 blocks", "vit_bench", {"encode": ("one picture", 0)}),
    "qformer": ("BLIP-2's Q-Former", "qformer_bench", {"read": ("one picture", 0)}),
    "perceiver_idefics_9b": ("IDEFICS-9B's Perceiver Resampler", "perceiver_bench", {"read": ("one picture", 0)}),
    "cross_attention_idefics_9b": ("One gated block of IDEFICS-9B", "cross_attention_bench", {"prompt_256": ("prompt of 256 with four pictures", 256),
                                                                                            "token": ("next token", 1)}),
    "blip2_opt_2.7b": ("BLIP-2 OPT-2.7B (4 of 39, 8 of 32 layers)", "family_bench", {"forward": ("a picture and 16 words", 0), "decode": ("next token", 1)}),
    "open_flamingo_3b": ("OpenFlamingo-3B (6 of 24 layers)", "family_bench", {"forward": ("3 pictures and 96 tokens", 0), "decode": ("next token", 1)}),
    "idefics_9b": ("IDEFICS-9B (8 of 32, 4 of 32 layers)", "family_bench", {"forward": ("2 pictures and 96 tokens", 0), "decode": ("next token", 1)}),
}

# Who meets in the rows of a model and a kind of weights: engine and kind of its weights or arithmetic. All that an engine has in this class, so that its
# best one counts.
TOWER = {
    "f32": [("PyTorch", "f32"), ("OpenVINO", "f32"), ("ONNX Runtime", "f32")],
    "bf16": [("OpenVINO", "bf16"), ("PyTorch", "bf16"), ("llama.cpp", "f16")],
    "int8": [("OpenVINO", "int8"), ("ONNX Runtime", "int8")],
}
MEETINGS = {
    "vit_l_336": TOWER,
    "vit_b_224": TOWER,
    "llama_1b": {
        "f32": [("PyTorch", "f32"), ("OpenVINO", "f32")],
        "bf16": [("PyTorch", "bf16"), ("OpenVINO", "bf16"), ("OpenVINO", "f32"), ("llama.cpp", "f16")],
        "int8": [("OpenVINO", "int8"), ("OpenVINO", "int8-f32"), ("llama.cpp", "q8_0")],
        "q8_0": [("OpenVINO", "int8"), ("OpenVINO", "int8-f32"), ("llama.cpp", "q8_0")],
        "q4_0": [("OpenVINO", "int4"), ("OpenVINO", "int4-f32"), ("ONNX Runtime", "int4"), ("llama.cpp", "q4_0")],
        "q4_k_m": [("llama.cpp", "q4_k_m")],
    },
    "qwen2_0.5b": {kind: [("llama.cpp", kind)] for kind in ("q8_0", "q4_0", "q4_k_m")},
    "llama_7b": {kind: [("llama.cpp", kind)] for kind in ("q4_0", "q4_k_m")},
    "llava_1b": {
        "bf16": [("PyTorch", "bf16"), ("OpenVINO", "bf16")],
        "q4_0": [("OpenVINO", "int4"), ("OpenVINO", "int4-f32"), ("ONNX Runtime", "int4"), ("llama.cpp", "q4_0")],
    },
    "start": {"q4_0": [("llama.cpp", "q4_0")]},
    **{model: {kind: [("PyTorch", kind)] for kind in ("f32", "bf16")}
       for model in ("vit_g_224_4_blocks", "qformer", "perceiver_idefics_9b", "cross_attention_idefics_9b", "blip2_opt_2.7b", "open_flamingo_3b", "idefics_9b")},
}
# Without AMX: CHIASM_ISA, and llama.cpp built for such a machine.
TIERS = ("avx512", "avx2")
TIER_MEETINGS = {
    **{model: {"f32": [("PyTorch", "f32")], "bf16": [("llama.cpp", "f16")]} for model in ("vit_l_336", "vit_b_224")},
    "llama_1b": {"f32": [("PyTorch", "f32")], "bf16": [("llama.cpp", "f16")], **{kind: [("llama.cpp", kind)] for kind in ("q8_0", "q4_0", "q4_k_m")}},
}
# PyTorch as on such a machine: its own kernels, oneDNN's, MKL's.
TIER_ENVIRONMENTS = {"avx512": {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "MKL_ENABLE_INSTRUCTIONS": "AVX512"},
                     "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}}

# What the project wants: the ratio of medians to the best peer, the share of the limit. Of a start: seconds, and memory by the file's size.
GOALS = {
    "vit_l_336/encode/bf16": (2.2, None), "vit_l_336/encode/int8": (1.5, None),
    "vit_b_224/encode/bf16": (2.2, None), "vit_b_224/encode/int8": (1.5, None),
    "llama_1b/prefill_512/bf16": (2.0, None), "llama_1b/prefill_128/bf16": (1.4, None), "llama_1b/decode_128/bf16": (1.1, 0.8),
    "llama_1b/decode_128/int8": (1.6, 0.8), "llama_1b/decode_128/q8_0": (1.6, 0.8),
    "llama_1b/prefill_512/q4_0": (2.0, None), "llama_1b/prefill_128/q4_0": (1.4, None), "llama_1b/decode_128/q4_0": (1.2, 0.85),
    "llama_1b/decode_128/q4_k_m": (2.5, 0.8), "llama_7b/decode_128/q4_0": (1.9, 0.85),
    "llava_1b/both/bf16": (2.0, None), "llava_1b/both/q4_0": (2.0, None),
    **{f"{work}/f32/{tier}": (None, 0.75) for work in ("vit_l_336/encode", "llama_1b/prefill_512") for tier in TIERS},
    "start/first_token/q4_0": (0.25, 1.1),
}


@dataclasses.dataclass
class Row:
    model: str
    work: str
    weights: str
    peers: list  # (engine, kind)
    tier: str = ""  # the best that the processor has, where empty
    chiasm: list = dataclasses.field(default_factory=list)  # per round: {"mean": seconds of one call, "best": of the fastest}
    others: dict = dataclasses.field(default_factory=dict)  # as `chiasm`, by (engine, kind)

    @property
    def name(self):
        return "/".join(filter(None, (self.model, self.work, self.weights, self.tier)))

    @property
    def group(self):
        return self.model, self.weights, self.tier

    @property
    def benchmark(self):
        weights, compute = ("q8_row", "i8") if self.weights == "int8" else (self.weights, "f32" if self.weights == "f32" else "bf16")
        return f"{self.model}/{self.work}/weights:{weights}/compute:{compute}/"

    @property
    def title(self):
        title, _, works = MODELS[self.model]
        return f"{title}, {works[self.work][0] if self.work in works else self.work}"

    @property
    def goal(self):
        ratio, share = GOALS.get(self.name, (None, None))
        return ", ".join(filter(None, (ratio and f"{ratio:.1f} x", share and f"{100 * share:.0f} %")))

    def ratio(self, peer, of):
        return of(self.others[peer]) / of(self.chiasm)

    def best_peer(self):
        return min((peer for peer in self.others if self.others[peer]), key=lambda peer: median(self.others[peer]), default=None)

    def show(self, rounds):
        tokens = MODELS[self.model][2].get(self.work, ("", 0))[1]
        seconds = median(rounds)
        return f"{tokens / seconds:.{0 if tokens / seconds >= 100 else 1}f} tok/s" if tokens else f"{1e3 * seconds:.{0 if seconds >= 0.1 else 1}f} ms"

    def share(self, limits):
        """Of what the processor could do on these threads: its name and the part of it, of chiasm's median."""
        shape, seconds = shapes.VIT.get(self.model) or shapes.LLM.get(self.model), median(self.chiasm) if self.chiasm else None
        if not shape or not seconds or not limits or self.model == "llava_1b":
            return None
        if self.work == "decode_128":
            name, amount = "DRAM", shape.bytes(self.weights)
        else:
            if self.tier and self.weights.startswith("q"):  # VNNI's rate
                return None
            name = {"avx2": "FMA AVX2", "avx512": "FMA AVX-512"}.get(self.tier) or {"f32": "FMA AVX-512", "int8": "AMX int8"}.get(self.weights, "AMX bf16")
            amount = shape.flops if self.work == "encode" else shape.prefill_flops(int(self.work.split("_")[1]))
        limit = limits.get({"DRAM": "dram_8_streams", "FMA AVX2": "fma_avx2", "FMA AVX-512": "fma_avx512", "AMX bf16": "amx_bf16", "AMX int8": "amx_int8"}[name])
        return (name, 1e-9 * amount / seconds / limit) if limit else None


def median(rounds):
    return statistics.median(measured["mean"] for measured in rounds)


def best(rounds):
    return min(measured["best"] for measured in rounds)


def rows():
    """Of the whole table, in the order in which they run."""
    made = []
    for model, kinds in MEETINGS.items():
        for weights, peers in kinds.items():
            made += [Row(model, work, weights, peers) for work in MODELS[model][2]]
    for tier in TIERS:
        for model, kinds in TIER_MEETINGS.items():
            for weights, peers in kinds.items():
                made += [Row(model, work, weights, peers, tier) for work in MODELS[model][2]]
    return made


class Chiasm:
    """Runs a program of bench/models anew for each round."""

    def __init__(self, folder, threads):
        self.folder, self.environment = folder, {**os.environ, "CHIASM_THREADS": str(threads)}
        self.machine, self.known = "", {}

    def run(self, program, *arguments, tier=""):
        environment = {**self.environment, **({"CHIASM_ISA": tier} if tier else {})}
        return subprocess.run([os.path.join(self.folder, program), *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True,
                              text=True).stdout

    def has(self, row):
        program = MODELS[row.model][1]
        if not pathlib.Path(self.folder, program).is_file():
            return False
        if row.model == "start":
            return True
        if program not in self.known:
            self.known[program] = self.run(program, "--benchmark_list_tests").splitlines()
        return any(name.startswith(row.benchmark) for name in self.known[program])

    def measure(self, rows):
        program = MODELS[rows[0].model][1]
        names = "|".join(re.escape(row.benchmark) for row in rows)
        results = json.loads(self.run(program, f"--benchmark_filter=^({names})", "--benchmark_format=json", tier=rows[0].tier))["benchmarks"]
        for row in rows:
            result = next(r for r in results if r["name"].startswith(row.benchmark))
            unit = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}[result["time_unit"]]
            row.chiasm.append({"mean": result["real_time"] * unit, "best": 1e-3 * result["best_ms"]})
            if not row.tier:
                self.machine = result["label"]

    def limits(self):
        """GF/s, GOP/s and GB/s of all threads."""
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            return json.loads(self.run("limits_bench"))
        return {}


class Peer:
    """An engine with a model. Its process stays from turn to turn where memory allows: loading again would only warm the machine."""

    def __init__(self, options, engine, kind, model, tier):
        self.command = [options.python, str(HERE / PEERS[engine]), "llama_1b" if model == "start" else model, kind, "--threads", str(options.threads),
                        "--models", options.models]
        environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1", **options.preload}
        if tier:
            environment |= TIER_ENVIRONMENTS[tier]
            environment["LLAMA_CPP_LIB_PATH"] = environment["MTMD_CPP_LIB"] = str(pathlib.Path(options.llama_cpp, tier))
        self.environment, self.engine, self.kind, self.process, self.versions = environment, engine, kind, None, {}

    def make(self):
        if self.engine == "PyTorch":  # has no files
            return
        print(f"{self.command[2]} for {self.engine} {self.kind}: ", end="", file=sys.stderr, flush=True)
        begin = time.time()
        made = subprocess.run([*self.command, "--make"], env={**self.environment, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        print("no model" if made.returncode else f"model there after {time.time() - begin:.0f} s", file=sys.stderr, flush=True)
        if made.returncode:
            raise SystemExit(f"{made.stderr}\nno model: {shlex.join([*self.command, '--make'])}")

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            process, self.process = self.process, None
            raise SystemExit(f"{self.engine} {self.kind} ended with status {process.wait()}: {shlex.join(self.command)}")  # a signal's is negative
        return json.loads(line)

    def measure(self, rows):
        if rows[0].model == "start":
            start = lambda: subprocess.run([*self.command, "--start"], env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout
            rows[0].others[self.engine, self.kind].append(started(second(start)))
            return
        if not self.process:
            self.process = subprocess.Popen(self.command, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            self.versions = self.read()
        for row in rows:
            self.process.stdin.write(json.dumps({"work": row.work, "seconds": SECONDS}) + "\n")
            self.process.stdin.flush()
            row.others[self.engine, self.kind].append(self.read())
        if available_memory() < ROOM:
            self.close()

    def close(self):
        if self.process:
            self.process.stdin.close()
            self.process.wait()
        self.process = None


def second(start):
    """What the second of two starts prints. The first gets memory that the system has ready: virtual machines return free pages to their host, from
    which they come slowly, and would make whoever is measured first pay for it."""
    start()
    return json.loads(start())


def started(result):
    return {"mean": result["seconds"], "best": result["seconds"], "memory": result["memory"], "file": result["file"]}


def available_memory():
    with contextlib.suppress(OSError, StopIteration), open("/proc/meminfo") as facts:
        return next(1024 * int(line.split()[1]) for line in facts if line.startswith("MemAvailable:"))
    return ROOM


def tile_leaves(folder):
    """Environment of the peers: tile_leaves.c, which says why, where it could matter and a compiler is there."""
    compiler = shutil.which("cc")
    if platform.system() != "Linux" or platform.machine() != "x86_64" or not compiler:
        return {}
    library = os.path.join(folder, "tile_leaves.so")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, str(HERE / "tile_leaves.c")], check=True)
    return {"LD_PRELOAD": library}


def processor():
    with contextlib.suppress(OSError, subprocess.CalledProcessError, StopIteration):
        lines = subprocess.run(["lscpu"], stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "LC_ALL": "C"}).stdout.splitlines()
        facts = dict(map(str.strip, line.split(":", 1)) for line in lines if ":" in line)
        return f"{facts['Model name']} (family {facts.get('CPU family', '?')}, model {facts.get('Model', '?')})"
    return platform.processor() or platform.machine()


def commit():
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              text=True, check=True).stdout.strip()
    return ""


LIMIT_TITLES = {"fma_avx2": "FMA AVX2 {:.0f} GF/s", "fma_avx512": "FMA AVX-512 {:.0f} GF/s", "amx_bf16": "AMX bf16 {:.0f} GF/s", "amx_int8": "AMX int8 {:.0f} GOP/s",
                "dram_1_stream": "DRAM, one stream a thread, {:.1f} GB/s", "dram_8_streams": "eight streams {:.1f} GB/s"}


def with_sums(rows):
    """The rows, and behind LLaVA's first token and answer the time of both."""
    for row in rows:
        yield row
        first = next((other for other in rows if other.group == row.group and other.work == "first_token"), None)
        if row.model == "llava_1b" and row.work == "answer" and first:
            add = lambda a, b: [{key: x[key] + y[key] for key in ("mean", "best")} for x, y in zip(a, b)]
            yield Row(row.model, "both", row.weights, row.peers, row.tier, add(first.chiasm, row.chiasm), {peer: add(first.others[peer], row.others[peer]) for peer in row.others})


def table(rows, facts):
    versions, limits = facts["versions"], facts["limits"]
    named = ", ".join(f"{name} {versions[key]}" for name, key in (("PyTorch", "torch"), ("transformers", "transformers"), ("OpenVINO", "openvino"), ("NNCF", "nncf"),
                                                                   ("ONNX Runtime", "onnxruntime"), ("llama-cpp-python", "llama-cpp-python")) if key in versions)
    lines = [
        f"{facts['processor']}, {facts['cores']} cores, {facts['chiasm']}; {facts['date']}; {facts['rounds']} rounds in turns; {named}; `{facts['command']}`",
        "",
    ]
    if limits:
        lines += ["Limits of the machine, measured in the same run: " + ", ".join(title.format(limits[key]) for key, title in LIMIT_TITLES.items() if limits.get(key))
                  + ".", ""]
    lines += ["| work | weights | chiasm, median | best of the others, median | ratio of medians | of fastest calls | the others | share of the limit | goal |",
              "|---|---|---|---|---|---|---|---|---|"]
    for row in with_sums([row for row in rows if row.model != "start"]):
        peer, share = row.best_peer(), row.share(limits)
        ratios = ["", ""]
        if peer and row.chiasm:
            ratios = [f"{row.ratio(peer, median):.2f} x", f"{min(best(r) for r in row.others.values() if r) / best(row.chiasm):.2f} x"]
        more = ", ".join(f"{' '.join(other)} {row.show(rounds)}" for other, rounds in row.others.items() if other != peer and rounds)
        lines.append(f"| {row.title}{', ' + row.tier if row.tier else ''} | {row.weights} | {row.show(row.chiasm) if row.chiasm else '-'} | "
                     f"{' '.join(peer) + ' ' + row.show(row.others[peer]) if peer else '-'} | {ratios[0]} | {ratios[1]} | {more} | "
                     f"{f'{100 * share[1]:.0f} % of {share[0]}' if share else ''} | {row.goal} |")
    starts = [row for row in rows if row.model == "start" and any(row.others.values())]
    if starts:
        lines += ["", "| start | weights | to the first token, median | most memory | of the file | goal |", "|---|---|---|---|---|---|"]
        for row in starts:
            for name, rounds in (("chiasm", row.chiasm), *((" ".join(peer), rounds) for peer, rounds in row.others.items())):
                if rounds:
                    memory, file = statistics.median(r["memory"] for r in rounds), rounds[0]["file"]
                    goal = "{:.2f} s, {:.1f} x".format(*GOALS[row.name]) if name == "chiasm" else ""
                    lines.append(f"| {name} | {row.weights} | {median(rounds):.2f} s | {memory / 1e6:.0f} MB | {memory / file:.2f} x | {goal} |")
    return "\n".join(lines)


def record(row, limits):
    share = row.share(limits)
    return {
        "name": row.name, "work": row.title, "weights": row.weights, "tier": row.tier, "chiasm": row.chiasm,
        "peers": [{"engine": engine, "kind": kind, "rounds": rounds,
                   **({"ratio_of_medians": round(row.ratio((engine, kind), median), 3), "ratio_of_best": round(row.ratio((engine, kind), best), 3)}
                      if row.chiasm and rounds else {})} for (engine, kind), rounds in row.others.items()],
        **({"limit": share[0], "share_of_limit": round(share[1], 4)} if share else {}),
    }


def restored(record):
    """The row that record() wrote down."""
    *name, tier = (record["name"] + ("/" if not record["tier"] else "")).split("/")
    row = Row(name[0], name[1], record["weights"], [(peer["engine"], peer["kind"]) for peer in record["peers"]], tier, record["chiasm"])
    row.others = {(peer["engine"], peer["kind"]): peer["rounds"] for peer in record["peers"]}
    return row


def drop_large(folder, model):
    """Files of 7B do not stay: they are larger than all others together."""
    for made in pathlib.Path(folder).glob(f"*-{model}-*"):
        if sum(file.stat().st_size for file in made.rglob("*") if file.is_file()) > 3 << 30:
            shutil.rmtree(made)


def pattern(text):
    try:
        re.compile(text)
    except re.error as problem:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {problem}")
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=pattern, default="", metavar="REGEX", help="only rows whose name matches, such as llama_1b/decode or bf16")
    parser.add_argument("--peers", type=pattern, default="", metavar="REGEX", help="only peers whose name matches, such as 'OpenVINO|llama' or 'int8'")
    parser.add_argument("--list", action="store_true", help="print the rows' names and end")
    parser.add_argument("--programs", action="store_true", help="print the programs of bench/ that the rows want, and end")
    parser.add_argument("--engines", action="store_true", help="print the engines that the rows want, and end")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    parser.add_argument("--bench", default=str(ROOT / "build/release/bench"), metavar="FOLDER", help="where the programs of bench/models are")
    parser.add_argument("--python", default=sys.executable, metavar="PROGRAM", help="interpreter with the peers")
    parser.add_argument("--models", default=str(HERE / "cache"), metavar="FOLDER", help="where the peers' models are, or are made")
    parser.add_argument("--llama-cpp", default=str(HERE / "venv/llama.cpp"), metavar="FOLDER", help="where llama.cpp's libraries without AMX are, by tier")
    parser.add_argument("--peers-only", action="store_true", help="leave chiasm out")
    parser.add_argument("--out", metavar="STEM", help="write STEM.json and STEM.md, whichever rows were run")
    parser.add_argument("--table", metavar="FILE", help="print the table of a JSON file that was written before, and end")
    options = parser.parse_args()

    if options.table:
        facts = json.loads(pathlib.Path(options.table).read_text())
        print(table([restored(row) for row in facts["rows"]], facts))
        return
    every = rows()
    chosen = [row for row in every if re.search(options.rows, row.name)]
    if not chosen:
        parser.error(f"no row matches {options.rows!r}; --list names them")
    if options.list:
        print("\n".join(row.name for row in chosen))
        return
    if options.programs:
        print(" ".join(dict.fromkeys(["limits_bench", *(MODELS[row.model][1] for row in chosen)])))
        return
    if options.engines:
        wanted = dict.fromkeys(engine for row in chosen for engine, kind in row.peers if re.search(options.peers, f"{engine} {kind}"))
        print("\n".join(wanted))
        return
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads begin at 1")
    for row in chosen:
        row.peers = [peer for peer in row.peers if re.search(options.peers, " ".join(peer))]
        row.others = {peer: [] for peer in row.peers}
    chiasm = Chiasm(options.bench, options.threads)
    if not options.peers_only:
        absent = [row.name for row in chosen if not chiasm.has(row)]
        if absent:
            print("chiasm has no benchmark for " + ", ".join(absent), file=sys.stderr)

    versions, failures, load_before = {}, [], os.getloadavg()[0]
    limits = chiasm.limits()
    with tempfile.TemporaryDirectory() as folder:
        options.preload = tile_leaves(folder)
        groups = list(dict.fromkeys(row.group for row in chosen))
        for number, key in enumerate(groups, 1):
            print(f"{number} of {len(groups)}: {' '.join(filter(None, key))}, {options.rounds} rounds", file=sys.stderr, flush=True)
            group = [row for row in chosen if row.group == key]
            ours = [] if options.peers_only else [row for row in group if chiasm.has(row)]
            peers = [peer for peer in (Peer(options, *peer, key[0], key[2]) for peer in group[0].peers) if attempt(peer.make, failures)]
            for round_ in range(options.rounds):
                if ours and not attempt(lambda: start(chiasm, options, ours) if key[0] == "start" else chiasm.measure(ours), failures):
                    ours = []
                for peer in list(peers):
                    time.sleep(0.3)  # threads of the one before stop spinning
                    if not attempt(lambda: peer.measure(group), failures):
                        peers.remove(peer)
                for row in group:
                    engines = [("chiasm", row.chiasm), *((" ".join(peer), rounds) for peer, rounds in row.others.items())]
                    figures = ", ".join(f"{engine} {1e3 * rounds[-1]['mean']:.1f}" for engine, rounds in engines if rounds)
                    print(f"{row.name} round {round_ + 1}, ms: {figures}", file=sys.stderr, flush=True)
            for peer in peers:
                peer.close()
                versions |= peer.versions
            drop_large(options.models, key[0])
    for name, value in chiasm.limits().items():
        limits[name] = max(value, limits.get(name, 0))

    command = "sh bench/peers/run.sh" + "".join(
        f" {flag} {shlex.quote(str(value))}" for flag, value in (("--rounds", options.rounds), ("--threads", options.threads), ("--rows", options.rows),
                                                                 ("--peers", options.peers)) if value)
    facts = {
        "date": datetime.date.today().isoformat(),
        "command": command,
        "commit": commit(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "chiasm": chiasm.machine or f"{options.threads} threads",
        "threads": options.threads,
        "rounds": options.rounds,
        "load_average": [round(load_before, 2), round(os.getloadavg()[0], 2)],
        "limits": limits,
        "versions": {"python": platform.python_version(), **versions},
        "failures": failures,
    }
    text = table(chosen, facts)
    print(text)
    stem = options.out or (str(ROOT / "bench/results" / facts["date"]) if len(chosen) == len(every) and not options.peers and not options.peers_only else None)
    if stem:
        pathlib.Path(stem).parent.mkdir(parents=True, exist_ok=True)
        facts["rows"] = [record(row, limits) for row in chosen]
        pathlib.Path(stem + ".json").write_text(json.dumps(facts, indent=1) + "\n")
        pathlib.Path(stem + ".md").write_text(text + "\n")
        print(f"written: {stem}.json, {stem}.md", file=sys.stderr)


def attempt(call, failures):
    """Whether `call` went well: what fails is told and left out, and the other rows go on."""
    try:
        call()
    except (SystemExit, OSError, ValueError, StopIteration, subprocess.CalledProcessError) as problem:
        failures.append(str(problem))
        print(problem, file=sys.stderr, flush=True)
        return False
    return True


def start(chiasm, options, rows):
    for row in rows:
        file = pathlib.Path(options.models, f"llama.cpp-llama_1b-{row.weights}", "text.gguf")
        row.chiasm.append(started(second(lambda: chiasm.run("start_bench", str(file)))))


if __name__ == "__main__":
    main()
