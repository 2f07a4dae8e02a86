"""Runs growth_bench and draws its curves: bench/results/growth.json, and growth_AXIS.png for each axis; those of short runs go to build/growth.

    sh bench/growth/run.sh                        # all axes, about eight minutes on two quiet cores
    sh bench/growth/run.sh --short                # less of each, about a minute
    sh bench/growth/run.sh prefill decode         # these alone
    sh bench/growth/run.sh --draw                 # from growth.json, without running anything
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import time

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402: the backend comes first

ROOT = pathlib.Path(__file__).resolve().parents[2]
AXES = {  # title, the x axis, what a unit of time is for, what the memory beyond the weights is for: of a unit, of a step on the x axis, of all
    "prefill": ("Reading a prompt", "tokens of the prompt", "ms a token", "KB a token", "units"),
    "decode": ("One more token", "positions before it", "ms a token", "KB a position", "x"),
    "answer": ("A long answer", "tokens of the answer", "ms a token", "KB a position", "x"),
    "images": ("Pictures of a prompt", "pictures", "ms a picture", "KB a picture", "units"),
    "batch": ("Sequences that share a step", "sequences", "ms a token", "KB a sequence", "units"),
    "threads": ("Threads", "threads", "ms a token", "KB in all", ""),
    "size": ("The model's size", "billions of parameters", "ms a token and billion parameters", "KB in all", ""),
}


def processor():
    try:
        for line in open("/proc/cpuinfo"):
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def run(options, json_file):
    for command in (["cmake", "--preset", "release"], ["cmake", "--build", "--preset", "release", "--target", "growth_bench"]):
        if not options.program:
            subprocess.run(command, cwd=ROOT, check=True)
    program = options.program or ROOT / "build" / "release" / "bench" / "growth_bench"
    # Other axes of an earlier run stay.
    result = json.loads(json_file.read_text()) if json_file.exists() and options.axes else {"axes": {}}
    for axis in options.axes or AXES:
        print(f"{axis}: ", end="", flush=True)
        start, load = time.time(), os.getloadavg()
        command = [str(program), axis] + (["--short"] if options.short else [])
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        machine, *rows = (json.loads(line) for line in done.stdout.splitlines())
        result["axes"][axis] = {"machine": f"{processor()}, {machine['isa']}, {machine['threads']} threads", "date": time.strftime("%Y-%m-%d"), "short": options.short,
                                "load": [load[0], os.getloadavg()[0]], "rows": rows}
        print(f"{time.time() - start:.0f} s, load average {load[0]:.1f} before, {os.getloadavg()[0]:.1f} after", flush=True)
    json_file.write_text(json.dumps(result, indent=1) + "\n")
    return result


def draw(axis, measured, folder):
    title, x_label, time_label, memory_label, per = AXES[axis]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    series = {}
    for row in measured["rows"]:
        series.setdefault(row["series"], []).append(row)
    for name, rows in series.items():
        x = [row["x"] for row in rows]
        per_unit = [1e3 * row["seconds"] / row["units"] for row in rows]
        (line,) = left.plot(x, per_unit, marker="o", markersize=4, label=name)
        if any(row["runs"] > 1 for row in rows) and axis != "answer":
            left.plot(x, [1e3 * row["median"] / row["units"] for row in rows], linestyle=":", linewidth=1, color=line.get_color())
        right.plot(x, [1e-3 * row["bytes"] / row.get(per, 1) for row in rows], marker="o", markersize=4, label=name)
    xs = sorted({row["x"] for row in measured["rows"]})
    for plot, label in ((left, time_label), (right, memory_label + " beyond the weights")):
        plot.set_xlabel(x_label)
        plot.set_ylabel(label)
        if axis not in ("threads", "batch"):
            plot.set_xscale("log", base=2)
        if len(xs) <= 12:
            plot.set_xticks(xs, [f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in xs])
        plot.set_ylim(bottom=0)
        # A step that the machine held up for seconds is no part of the picture.
        if axis == "answer" and plot is left:
            plot.set_ylim(top=4e3 * max(row["seconds"] for row in measured["rows"] if row["series"].startswith("median")))
        plot.grid(alpha=0.3)
    left.legend(fontsize=8)
    figure.suptitle(f"{title} (dotted: medians) · {measured['machine']} · {measured['date']}" + (" · short run" if measured["short"] else ""), fontsize=9)
    figure.savefig(folder / f"growth_{axis}.png", dpi=110)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(prog="run.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("axes", nargs="*", metavar="AXIS", help=f"of {', '.join(AXES)} (default: all)")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--draw", action="store_true", help="run nothing")
    parser.add_argument("--program", help="growth_bench, where it is built already")
    parser.add_argument("--results", type=pathlib.Path, help="folder (default: bench/results, of short runs build/growth)")
    options = parser.parse_args()
    options.results = options.results or ROOT / ("build/growth" if options.short else "bench/results")
    unknown = [axis for axis in options.axes if axis not in AXES]
    if unknown:
        parser.error(f"no axis '{unknown[0]}'")
    options.results.mkdir(parents=True, exist_ok=True)
    json_file = options.results / "growth.json"
    result = json.loads(json_file.read_text()) if options.draw else run(options, json_file)
    for axis, measured in result["axes"].items():
        draw(axis, measured, options.results)
    print(f"drawn: {options.results}/growth_*.png")


if __name__ == "__main__":
    main()
