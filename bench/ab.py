"""Builds benchmarks of two commits and runs them in turns (A B, B A, A B, ...): medians, minima, ratios.

Each commit gets a worktree below build/ab, and in it a build with the release preset, of the programs that are asked for alone. Both are
removed at the end. A `.` stands for the files as they are, changes that are not committed included; it is built in build/release.

    sh bench/ab.sh HEAD~1 HEAD                                       # llama_bench, all rows
    sh bench/ab.sh main . gemm_bench 'm:577'                         # rows whose names match a regular expression
    sh bench/ab.sh v0.1.0 main llama_bench decode --rounds 9 --threads 1
    CHIASM_ISA=avx2 sh bench/ab.sh HEAD . gemm_bench                 # the environment goes to the programs
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(subprocess.run(["git", "rev-parse", "--show-toplevel"], cwd=pathlib.Path(__file__).resolve().parent,
                                   check=True, capture_output=True, text=True).stdout.strip())


def git(*arguments):
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"ab: git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


class Side:
    """A commit in a worktree of its own, or the files as they are."""

    def __init__(self, letter, ref, build_type):
        self.letter, self.ref, self.preset = letter, ref, build_type
        self.is_tree = ref == "."
        self.commit = None if self.is_tree else git("rev-parse", "--verify", "--quiet", ref + "^{commit}")
        self.folder = ROOT if self.is_tree else ROOT / "build" / "ab" / f"{letter}-{self.commit[:12]}"
        self.title = "the files as they are" if self.is_tree else f"{self.commit[:12]} {git('log', '-1', '--format=%s', self.commit)}"

    def build(self, program):
        if not self.is_tree and not self.folder.exists():
            git("worktree", "add", "--force", "--detach", str(self.folder), self.commit)
        for command in (["cmake", "--preset", self.preset], ["cmake", "--build", "--preset", self.preset, "--target", program]):
            done = subprocess.run(command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if done.returncode != 0:
                sys.exit(f"{done.stdout[-4000:]}\nab: {' '.join(command)} failed for {self.letter}, {self.ref}")
        self.program = self.folder / "build" / self.preset / "bench" / program

    def measure(self, options, rows):
        """Fills in rows[name][letter] with the milliseconds of this run."""
        command = [str(self.program), "--benchmark_format=json"]
        if options.filter:
            command.append(f"--benchmark_filter={options.filter}")
        if options.min_time:
            command.append(f"--benchmark_min_time={options.min_time}")
        environment = dict(os.environ)
        if options.threads:
            environment["CHIASM_THREADS"] = str(options.threads)
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, env=environment)
        if done.returncode != 0:
            sys.exit(f"{done.stderr[-4000:]}\nab: {self.letter}: {self.program.name} ended with status {done.returncode}")
        try:
            results = json.loads(done.stdout[done.stdout.index("{"):])["benchmarks"]
        except (ValueError, KeyError):
            sys.exit(f"ab: {self.letter}: {self.program.name} prints no JSON of Google Benchmark")
        unit = {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3}
        for row in results:
            if row.get("run_type", "iteration") != "iteration" or row.get("error_occurred"):
                continue
            mean = row["real_time"] * unit[row["time_unit"]]
            rows.setdefault(re.sub(r"/(real_time|min_time:[^/]*)", "", row["name"]), {}).setdefault(self.letter, []).append(
                (mean, row.get("best_ms", mean)))  # the fastest call, where the program tells

    def remove(self):
        if not self.is_tree and self.folder.exists():
            subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(self.folder)], capture_output=True)
            shutil.rmtree(self.folder, ignore_errors=True)


def table(rows):
    """Lines; a ratio above 1 says that B is the faster one."""
    shown = [("", "A median", "B median", "A/B", "A best", "B best", "A/B", "noise")]
    for name, sides in rows.items():
        if set(sides) != {"A", "B"}:
            shown.append((name, f"in {'A' if 'A' in sides else 'B'} alone", "", "", "", "", "", ""))
            continue
        means = {side: [mean for mean, _ in runs] for side, runs in sides.items()}
        median = {side: statistics.median(values) for side, values in means.items()}
        best = {side: min(best for _, best in runs) for side, runs in sides.items()}
        noise = max((max(values) - min(values)) / median[side] for side, values in means.items())
        shown.append((name, f"{median['A']:.3f}", f"{median['B']:.3f}", f"{median['A'] / median['B']:.3f}", f"{best['A']:.3f}", f"{best['B']:.3f}",
                      f"{best['A'] / best['B']:.3f}", f"{100 * noise:.0f} %"))
    widths = [max(len(line[i]) for line in shown) for i in range(len(shown[0]))]
    return ["  ".join(cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths))).rstrip() for line in shown]


def main():
    parser = argparse.ArgumentParser(prog="ab.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ref_a", metavar="REF_A", help="a commit, branch or tag; . for the files as they are")
    parser.add_argument("ref_b", metavar="REF_B", help="the same")
    parser.add_argument("bench", nargs="?", default="llama_bench", help="a program of bench/ (default: %(default)s)")
    parser.add_argument("filter", nargs="?", help="a regular expression for names of rows (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each side (default: %(default)s)")
    parser.add_argument("--min-time", help="seconds that each row is measured in a run (default: the program's; rows may insist on theirs)")
    parser.add_argument("--threads", type=int, help="CHIASM_THREADS for both")
    parser.add_argument("--json", metavar="FILE", help="write every single measurement")
    parser.add_argument("--keep", action="store_true", help="leave the worktrees and their builds for the next time")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that worktrees go

    sides = [Side(letter, ref, "release") for letter, ref in (("A", options.ref_a), ("B", options.ref_b))]
    rows, load = {}, [os.getloadavg()]
    try:
        for side in sides:
            print(f"{side.letter}: {side.title}", flush=True)
            begin = time.time()
            side.build(options.bench)
            print(f"   built in {time.time() - begin:.0f} s", flush=True)
        load[0] = os.getloadavg()
        start = time.time()
        for turn in range(options.rounds):
            for side in sides if turn % 2 == 0 else reversed(sides):
                side.measure(options, rows)
            print(f"\rround {turn + 1} of {options.rounds}, {time.time() - start:.0f} s", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
    finally:
        if not options.keep:
            for side in sides:
                side.remove()
            try:
                (ROOT / "build" / "ab").rmdir()
            except OSError:
                pass
    if not rows:
        sys.exit("ab: no row has such a name")
    load.append(os.getloadavg())
    print(f"{options.bench}, ms; {options.rounds} runs each; A/B above 1: B is faster; noise: the larger spread of the two sides' runs")
    print("\n".join(table(rows)))
    average = [f"{one[0]:.2f}" for one in load]
    print(f"load average before {average[0]}, after {average[1]}; {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} processors")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps({
            "a": sides[0].commit or ".", "b": sides[1].commit or ".", "bench": options.bench, "filter": options.filter, "load": load,
            "rows": {name: {side: [{"mean_ms": m, "best_ms": b} for m, b in runs] for side, runs in by.items()} for name, by in rows.items()}}, indent=1) + "\n")


if __name__ == "__main__":
    main()
