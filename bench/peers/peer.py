"""Peer: what the processes of all engines share. Each serves run.py over a pipe: says which versions it is made of once the model stands, then
answers each line {"work": name, "seconds": s} with {"mean": seconds of one call, "best": of the fastest}."""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import sys
import time


def measure(call, seconds, warm=False):
    """As bench/models does it: calls for at least `seconds`, after one that does not count, unless the process is `warm` and one call takes all the time.
    A call may return the seconds that count."""

    def once():
        begin = time.perf_counter()
        counted = call()
        return counted if isinstance(counted, float) else time.perf_counter() - begin

    first = once()
    times = [first] if warm and first >= seconds else []
    while sum(times) < seconds:
        times.append(once())
    return {"mean": statistics.mean(times), "best": min(times)}


def memory(field):
    """Bytes of /proc/self/status: VmRSS, or VmHWM, the most there ever was."""
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith(field + ":"))


def cached(folder, name, size, make):
    """The folder `name`; `make` fills one that is not there yet, with about `size` bytes. One that was only begun is made again."""
    made = pathlib.Path(folder, name)
    if not made.is_dir():
        begun = made.with_name(made.name + ".begun")
        shutil.rmtree(begun, ignore_errors=True)
        begun.mkdir(parents=True)
        try:
            free = shutil.disk_usage(begun).free
            if free < 1.2 * size + (1 << 28):
                raise SystemExit(f"{made.name} takes {1e-9 * size:.1f} GB of disk, and {1e-9 * free:.1f} GB are left in {folder}")
            make(begun)
            begun.rename(made)
        finally:  # half a model is of no use, and the disk may be full of it
            shutil.rmtree(begun, ignore_errors=True)
    return made


def run(make, load, versions):
    """`make(model, kind, folder)` puts the model's files there; `load(model, kind, folder, threads)` returns {work: call}, or {"start": ...} to be
    called once: a dictionary with what it measured."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("kind")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--models", required=True, metavar="FOLDER")
    parser.add_argument("--make", action="store_true", help="make the model's files and end")
    parser.add_argument("--start", action="store_true", help="measure one start to the first token and end")
    arguments = parser.parse_args()

    # Whatever a library prints goes to stderr: stdout belongs to the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    if arguments.make:
        make(arguments.model, arguments.kind, arguments.models)
        return
    if arguments.start:
        print(json.dumps(load(arguments.model, arguments.kind, arguments.models, arguments.threads, start=True)), file=answers, flush=True)
        return
    work = load(arguments.model, arguments.kind, arguments.models, arguments.threads)
    print(json.dumps(versions()), file=answers, flush=True)
    warm = set()
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(measure(work[request["work"]], request["seconds"], request["work"] in warm)), file=answers, flush=True)
        warm.add(request["work"])
