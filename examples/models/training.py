"""What the trainers share: processes that split a batch, the optimizer, its schedule, and the averaged weights."""
import os

import torch
import torch.distributed as dist


def start_process():
    """(rank, processes): torchrun's, or one process. Each computes on one core; nothing waits inside an operation."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if processes > 1:
        dist.init_process_group("gloo")
    return rank, processes


def learning_rate(step, steps, peak, warmup=300):
    """Constant after the warmup; linear to zero in the last quarter."""
    return peak * min((step + 1) / warmup, 1, (steps - step) / (steps / 4))


class Optimizer:
    """AdamW on gradients averaged over the processes, and the weights averaged over about the last 500 steps."""

    def __init__(self, modules, unused=()):
        named = [(f"{i}.{name}", p) for i, module in enumerate(modules) for name, p in module.named_parameters()
                 if not any(word in name for word in unused)]
        self.parameters = [p for _, p in named]
        matrices, vectors = [p for p in self.parameters if p.ndim > 1], [p for p in self.parameters if p.ndim < 2]
        self.adam = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}],
                                      betas=(0.9, 0.98), fused=True)
        self.weights = list(modules[0].state_dict().values())                                  # share memory with the module's
        self.average = [w.clone() for w in self.weights]
        self.names = list(modules[0].state_dict())

    def boost(self, chosen, pace):
        """The chosen parameters learn `pace` times as fast, and do not decay."""
        ids = {id(p) for p in chosen}
        for group in self.adam.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in ids]
        self.adam.add_param_group({"params": list(chosen), "weight_decay": 0.0, "pace": pace})

    def step(self, loss, rate, step):
        self.adam.zero_grad()
        loss.backward()
        if dist.is_initialized():
            gradient = torch.cat([p.grad.flatten() for p in self.parameters])
            dist.all_reduce(gradient)
            gradient /= dist.get_world_size()
            for p, g in zip(self.parameters, gradient.split([p.numel() for p in self.parameters])):
                p.grad.copy_(g.view_as(p))
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for group in self.adam.param_groups:
            group["lr"] = rate * group.get("pace", 1)
        self.adam.step()
        torch._foreach_lerp_(self.average, self.weights, max(0.002, 9 / (step + 10)))

    def averaged(self):
        return dict(zip(self.names, self.average))

    def state_dict(self):
        return {"adam": self.adam.state_dict(), "average": self.average}

    def load_state_dict(self, state):
        self.adam.load_state_dict(state["adam"])
        self.average = state["average"]
