"""The benchmarks of bench/models against PyTorch: the same work, in turns (chiasm, PyTorch, chiasm, ...).

Prints a table; a run of all rows also writes bench/results/DATE.json and DATE.md. Needs nothing but the standard library itself;
the interpreter that runs the peer needs what requirements.txt names.
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
import shutil
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SECONDS = 1.0  # a measurement takes at least so long; as in bench/models

# Title, the program of bench/models, and for each work its title and the tokens that it goes through.
MODELS = {
    "vit_l_336": ("ViT-L/14-336 and LLaVA-1.5's projector", "vit_bench", {"encode": ("one picture", 0)}),
    "vit_b_224": ("ViT-B/16-224", "vit_bench", {"encode": ("one picture", 0)}),
    "vit_g_224_4_blocks": ("ViT-g/14-224, 4 of 39 blocks", "vit_bench", {"encode": ("one picture", 0)}),
    "qformer": ("BLIP-2's Q-Former", "qformer_bench", {"read": ("one picture", 0)}),
    "perceiver_idefics_9b": ("IDEFICS-9B's Perceiver Resampler", "perceiver_bench", {"read": ("one picture", 0)}),
    "cross_attention_idefics_9b": ("One gated block of IDEFICS-9B", "cross_attention_bench", {"prompt_256": ("prompt of 256 with four pictures", 256),
                                                                                            "token": ("next token", 1)}),
    "llama_1b": ("Llama 1.1B", "llama_bench", {"prefill_128": ("prompt of 128", 128), "prefill_512": ("prompt of 512", 512),
                                               "decode_128": ("next token after 128", 1)}),
    "blip2_opt_2.7b": ("BLIP-2 OPT-2.7B (4 of 39, 8 of 32 layers)", "family_bench", {"forward": ("a picture and 16 words", 0), "decode": ("next token", 1)}),
    "open_flamingo_3b": ("OpenFlamingo-3B (6 of 24 layers)", "family_bench", {"forward": ("3 pictures and 96 tokens", 0), "decode": ("next token", 1)}),
    "idefics_9b": ("IDEFICS-9B (8 of 32, 4 of 32 layers)", "family_bench", {"forward": ("2 pictures and 96 tokens", 0), "decode": ("next token", 1)}),
}


@dataclasses.dataclass
class Row:
    model: str
    work: str
    dtype: str  # of the weights, and of the arithmetic where the processor has it
    chiasm: list = dataclasses.field(default_factory=list)  # per round: {"mean": seconds of one call, "best": of the fastest}
    pytorch: list = dataclasses.field(default_factory=list)

    @property
    def name(self):
        return f"{self.model}/{self.work}/{self.dtype}"

    @property
    def benchmark(self):
        return f"{self.model}/{self.work}/weights:{self.dtype}/compute:{self.dtype}/"

    @property
    def title(self):
        title, _, works = MODELS[self.model]
        return f"{title}, {works[self.work][0]}"

    def ratio(self, of):
        return of(self.pytorch) / of(self.chiasm)

    def show(self, rounds):
        tokens = MODELS[self.model][2][self.work][1]
        seconds = median(rounds)
        return f"{tokens / seconds:.{0 if tokens > 1 else 1}f} tok/s" if tokens else f"{1e3 * seconds:.0f} ms"


def median(rounds):
    return statistics.median(measured["mean"] for measured in rounds)


def best(rounds):
    return min(measured["best"] for measured in rounds)


class Chiasm:
    """Runs a program of bench/models anew for each round."""

    def __init__(self, folder, threads):
        self.folder, self.environment = folder, {**os.environ, "CHIASM_THREADS": str(threads)}
        self.machine = ""

    def measure(self, rows):
        program = os.path.join(self.folder, MODELS[rows[0].model][1])
        names = "|".join(re.escape(row.benchmark) for row in rows)
        output = subprocess.run([program, f"--benchmark_filter=^({names})", "--benchmark_format=json"], env=self.environment,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout
        results = json.loads(output)["benchmarks"]
        for row in rows:
            result = next((r for r in results if r["name"].startswith(row.benchmark)), None)
            if result is None or result.get("error_occurred"):
                raise SystemExit(f"{program} has no result for {row.benchmark}")
            unit = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}[result["time_unit"]]
            row.chiasm.append({"mean": result["real_time"] * unit, "best": 1e-3 * result["best_ms"]})
            self.machine = result["label"]


class PyTorch:
    """One process per model: loading it again would only warm the machine."""

    def __init__(self, python, threads, model, dtype, preload):
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", **preload}
        self.process = subprocess.Popen([python, str(HERE / "pytorch_peer.py"), model, dtype, "--threads", str(threads)], env=environment,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.versions = self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the peer ended with status {self.process.wait()}")  # a signal's is negative
        return json.loads(line)

    def measure(self, rows):
        for row in rows:
            self.process.stdin.write(json.dumps({"work": row.work, "seconds": SECONDS}) + "\n")
            self.process.stdin.flush()
            row.pytorch.append(self.read())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def tile_leaves(folder):
    """Environment of the peer: tile_leaves.c, which says why, where it could matter and a compiler is there."""
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


def table(rows, facts):
    versions = facts["versions"]
    lines = [
        f"{facts['processor']}, {facts['cores']} cores, {facts['chiasm']}; {facts['date']}; {facts['rounds']} rounds in turns; "
        f"PyTorch {versions['torch'].split('+')[0]}, transformers {versions['transformers']}; `{facts['command']}`",
        "",
        "| work | weights | chiasm, median | PyTorch, median | speed against PyTorch: medians | fastest calls |",
        "|---|---|---|---|---|---|",
    ]
    lines += [f"| {row.title} | {row.dtype} | {row.show(row.chiasm)} | {row.show(row.pytorch)} | {row.ratio(median):.2f} x | {row.ratio(best):.2f} x |"
              for row in rows]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="", metavar="REGEX", help="only rows whose name matches, such as llama_1b/decode or bf16")
    parser.add_argument("--list", action="store_true", help="print the rows' names and end")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    parser.add_argument("--bench", default=str(ROOT / "build/release/bench"), metavar="FOLDER", help="where the programs of bench/models are")
    parser.add_argument("--python", default=sys.executable, metavar="PROGRAM", help="interpreter with PyTorch and transformers")
    parser.add_argument("--out", metavar="STEM", help="write STEM.json and STEM.md, whichever rows were run")
    arguments = parser.parse_args()

    rows = [Row(model, work, dtype) for model, (_, _, works) in MODELS.items() for dtype in ("f32", "bf16") for work in works]
    everything = len(rows)
    rows = [row for row in rows if re.search(arguments.rows, row.name)]
    if arguments.list:
        print("\n".join(row.name for row in rows))
        return
    if not rows:
        parser.error(f"no row matches {arguments.rows!r}; --list names them")
    if arguments.rounds < 1 or arguments.threads < 1:
        parser.error("--rounds and --threads begin at 1")
    for program in dict.fromkeys(MODELS[row.model][1] for row in rows):
        if not pathlib.Path(arguments.bench, program).is_file():
            parser.error(f"{arguments.bench}/{program} is not there: cmake --preset release && cmake --build --preset release --target {program}")

    chiasm = Chiasm(arguments.bench, arguments.threads)
    versions, load_before = {}, os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        preload = tile_leaves(folder)
        for model, dtype in dict.fromkeys((row.model, row.dtype) for row in rows):
            group = [row for row in rows if (row.model, row.dtype) == (model, dtype)]
            pytorch = PyTorch(arguments.python, arguments.threads, model, dtype, preload)
            versions = pytorch.versions
            for round_ in range(arguments.rounds):
                chiasm.measure(group)
                pytorch.measure(group)
                for row in group:
                    print(f"{row.name} round {round_ + 1}: chiasm {1e3 * row.chiasm[-1]['mean']:.1f} ms, "
                          f"PyTorch {1e3 * row.pytorch[-1]['mean']:.1f} ms",
                          file=sys.stderr, flush=True)
            pytorch.close()

    command = f"sh bench/peers/run.sh --rounds {arguments.rounds} --threads {arguments.threads}" + (f" --rows '{arguments.rows}'" if arguments.rows else "")
    facts = {
        "date": datetime.date.today().isoformat(),
        "command": command,
        "commit": commit(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "chiasm": chiasm.machine,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "load_average": [round(load_before, 2), round(os.getloadavg()[0], 2)],
        "versions": {"python": platform.python_version(), **versions},
    }
    text = table(rows, facts)
    print(text)
    stem = arguments.out or (str(ROOT / "bench/results" / facts["date"]) if len(rows) == everything else None)
    if stem:
        pathlib.Path(stem).parent.mkdir(parents=True, exist_ok=True)
        facts["rows"] = [{"name": row.name, "work": row.title, "weights": row.dtype, "chiasm_seconds": row.chiasm, "pytorch_seconds": row.pytorch,
                          "ratio_of_medians": round(row.ratio(median), 3), "ratio_of_best": round(row.ratio(best), 3)} for row in rows]
        pathlib.Path(stem + ".json").write_text(json.dumps(facts, indent=2) + "\n")
        pathlib.Path(stem + ".md").write_text(text + "\n")
        print(f"written: {stem}.json, {stem}.md", file=sys.stderr)


if __name__ == "__main__":
    main()
