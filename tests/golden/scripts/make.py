"""Rebuilds reference cases into a folder.

    python make.py OUT [case ...]      # all cases where none is named

A case is made in two steps. `model/` and the pictures are written by the version of transformers that its case.json names under
made_with: where that is not the running one, they are taken from OUT (an earlier run under that version) or else from ../cases.
The expectations always come from transformers 5, which reads everything back from disk; under 4 this step is left out.
"""

import shutil
import sys
from pathlib import Path

import torch
import transformers

import blip2
import dual_encoder
import edited
import gguf_files
import idefics
import language_model
import llava
import text_to_text
from reference import COMMITTED, MAJOR

FAMILIES = (blip2, dual_encoder, language_model, llava, edited, idefics, text_to_text, gguf_files)


def build(family, case, folder):
    if transformers.__version__ == case["files"]:
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "model").mkdir(parents=True)
        family.make(case, folder)
    elif MAJOR >= 5 and not folder.exists():
        results = shutil.ignore_patterns("expected.safetensors", "case.json")
        shutil.copytree(COMMITTED / case["name"], folder, ignore=results)
    if MAJOR >= 5:
        family.reference(case, folder)
        print(case["name"], flush=True)


def main(out, *names):
    cases = {case["name"]: (family, case) for family in FAMILIES for case in family.CASES}
    unknown = set(names) - set(cases)
    if unknown:
        raise SystemExit(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(cases)}")
    torch.set_num_threads(1)
    for name in names or cases:
        build(*cases[name], Path(out) / name)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
