"""Files of torch.save, and what torch reads from them.   python make.py [OUT]      (torch 2.15.0, safetensors 0.8.0)"""
import collections, io, os, sys, zipfile

import torch
from safetensors.torch import save_file

out = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))


def tensors(value, name=""):
    """Every tensor with the path of keys to it."""
    if isinstance(value, torch.Tensor):
        yield name, value.detach()
    elif isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from tensors(inner, f"{name}.{key}" if name else str(key))


def save(name, value, expected=True, **options):
    torch.save(value, f"{out}/{name}.pt", **options)
    if expected:
        save_file({key: tensor.contiguous().clone() for key, tensor in tensors(value)}, f"{out}/{name}.safetensors")


def state_dict():
    torch.manual_seed(0)
    base = torch.randn(4, 6)
    state = collections.OrderedDict()
    state["whole"] = base
    state["rows"] = base[1:3]  # the storage of the one above
    state["transposed"] = base.t()
    state["every_second"] = base[:, ::2]
    state["broadcast"] = torch.tensor([[1.0], [2.0]]).expand(2, 3)
    state["parameter"] = torch.nn.Parameter(torch.randn(3))
    state["scalar"] = torch.tensor(7.5)
    state["empty"] = torch.zeros(0, 4)
    state["five"] = torch.randn(2, 1, 3, 1, 2).permute(4, 3, 2, 1, 0)
    for dtype in [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32,
                  torch.uint32, torch.int64, torch.uint64, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2]:
        state[str(dtype)[6:]] = torch.tensor([0, 1, 2, 3]).to(dtype)
    state._metadata = collections.OrderedDict({"": {"version": 1}})
    return state


state = state_dict()
save("state_dict", state)
save("protocol_4", state, pickle_protocol=4)
save("training_run", {"epoch": 3, "best": 0.5, "note": "x", "seed": 2**80, "steps": [1, 2], "model_state_dict": {"module.a.weight": torch.ones(2, 3), 7: torch.zeros(1)},
                      "optimizer": {"state": {0: {"exp_avg": torch.full((2, 3), 0.5)}}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.95), "params": [0]}]},
                      "shape": torch.Size([2, 3]), "dtype": torch.float16, "device": torch.device("cpu"), "raw": b"bytes", "set": {1, 2},
                      "milestones": collections.Counter({3: 1}), "nothing": None})
save("six_dimensions", {"a": torch.arange(16.0).reshape(2, 1, 2, 1, 2, 2).permute(5, 1, 2, 3, 4, 0)})

# What is to be refused.
class Runs:
    def __reduce__(self):
        return os.system, ("touch chiasm_was_here",)


save("runs_a_program", {"a": torch.ones(1), "b": Runs()}, expected=False)
save("whole_module", torch.nn.Linear(2, 2), expected=False)
save("before_1_6", {"a": torch.ones(2)}, expected=False, _use_new_zipfile_serialization=False)
save("one_tensor", torch.ones(2), expected=False)
save("complex", {"a": torch.ones(2, dtype=torch.complex64)}, expected=False)
save("sparse", {"a": torch.eye(2).to_sparse()}, expected=False)
save("nine_dimensions", {"a": torch.ones(1, 1, 1, 1, 1, 1, 1, 1, 1)}, expected=False)
torch.jit.script(torch.nn.Linear(2, 2)).save(f"{out}/torchscript.pt")


def again(name, source, change=lambda name, data: data, compression=zipfile.ZIP_STORED):
    """The files of an archive, some changed, in another one."""
    with zipfile.ZipFile(f"{out}/{source}.pt") as old, zipfile.ZipFile(f"{out}/{name}.pt", "w", compression) as new:
        for entry in old.infolist():
            new.writestr(zipfile.ZipInfo(entry.filename), change(entry.filename, old.read(entry)), compression)


save("small", {"a": torch.arange(6.0).reshape(2, 3)})
again("zipped_anew", "small")
again("compressed", "small", compression=zipfile.ZIP_DEFLATED)
again("big_endian", "small", lambda name, data: b"big" if name.endswith("byteorder") else data)
