"""Compares rebuilt cases with the committed ones: pictures, files under model/, every tensor, every recorded run.

    python compare.py OUT [case ...]      # all cases in OUT where none is named

Exit status 1 where a file or a run differs, or a tensor by more than 1e-5 of its largest value.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

COMMITTED = Path(__file__).parent.parent / "cases"


def differing_files(ours, theirs):
    """Pictures and model files; weights by value, as the order in the file is free."""
    names = {str(p.relative_to(folder)) for folder in (ours, theirs) for p in folder.rglob("*") if p.is_file()} - {"case.json", "expected.safetensors"}

    def content(path):
        if not path.exists():
            return None
        return {k: (v.dtype, v.tolist()) for k, v in load_file(path).items()} if path.suffix == ".safetensors" else path.read_bytes()

    return sorted(name for name in names if content(ours / name) != content(theirs / name))


def compare(ours, theirs):
    a, b = (load_file(folder / "expected.safetensors") for folder in (ours, theirs))
    runs = [[(r["name"], r["input"], r["generate"], r["output_ids"], r["text"]) for r in json.loads((folder / "case.json").read_text())["runs"]]
            for folder in (ours, theirs)]
    same_form = {k: v.shape for k, v in a.items()} == {k: v.shape for k, v in b.items()}
    equal, worst = 0, 0.0
    for name in a.keys() & b.keys():
        if a[name].shape == b[name].shape:
            equal += torch.equal(a[name], b[name])
            scale = max(float(b[name].double().abs().max()), 1e-30)
            worst = max(worst, float((a[name].double() - b[name].double()).abs().max()) / scale)
    files = differing_files(ours, theirs)
    good = same_form and worst <= 1e-5 and runs[0] == runs[1] and not files
    print(f"{ours.name}: {'ok' if good else 'DIFFERENT'}; {equal} of {len(b)} tensors bit-equal, the others within {worst:.1e}; "
          f"{len(runs[1])} runs {'equal' if runs[0] == runs[1] else 'differ'}; files {', '.join(files) + ' differ' if files else 'equal'}")
    return good


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    out = Path(sys.argv[1])
    names = sys.argv[2:] or sorted(p.name for p in out.iterdir())
    sys.exit(not all([compare(out / name, COMMITTED / name) for name in names]))
