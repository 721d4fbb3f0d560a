"""Training speed of AD on any device: tokens and supervised actions a second, and the share of the device's arithmetic.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_training.py
    python tests/benchmarks/bench_training.py --device cuda --size large --compile

Two sizes: Darkroom's (4 layers, width 32, windows of 80 steps), also against the published form with one target a
window; and `large` (12 layers, width 512, windows of 1,024). Updates as in a training, with data made before: forward,
backward, clipping and AdamW. Utilisation counts 6 operations a weight of the transformer and token, and 12 x layers x
width x window a token for attention; the device's rate is that of its largest matrix product in the same precision, or
`--peak` in 10^12 a second.
"""

import argparse
import time
from typing import NamedTuple

import accelerate
import torch

from icrl_agents.core.families import env_spaces
from icrl_agents.core.steps import Steps
from icrl_agents.methods.ad import AD, ADConfig
from icrl_agents.nn.compiled import compile_bodies
from icrl_agents.nn.devices import accelerate_on, pick_device
from icrl_agents.nn.lowered import set_precision
from icrl_agents.sources import make_source
from icrl_agents.sources.collection import lifetimes
from icrl_agents.training.config import TrainConfig
from icrl_agents.training.update import Updater, make_optimizer

ID, EPISODE, TASKS = "icrl/Darkroom-v0", 20, 81


class Size(NamedTuple):
    """Model, window and batch of a measurement; `micro` rows a forward pass by kind of device."""

    width: int
    layers: int
    heads: int
    window: int
    batch: int
    micro: dict[str, int]


SIZES = {
    "darkroom": Size(32, 4, 4, 80, 512, {"cpu": 64, "cuda": 512}),
    "large": Size(512, 12, 8, 1024, 64, {"cpu": 1, "cuda": 64}),
}


class Speed(NamedTuple):
    """Rates of the fastest update."""

    seconds: float
    tokens: float  # a second
    operations: float  # floating-point operations a second


def measure(size: Size, layout: str, given: argparse.Namespace) -> Speed:
    """Train for some updates on one batch, without reading metrics in between as on a GPU."""
    device = pick_device(given.device)
    batch = windows(size)
    config = ADConfig(
        width=size.width,
        layers=size.layers,
        heads=size.heads,
        inner=4 * size.width,
        window=size.window,
        slide=size.window // 4,
        layout=layout,
    )
    micro = min(size.micro.get(device.type, size.batch), size.batch)
    cfg = TrainConfig(batch_size=size.batch, micro_batch=micro, updates=1000)
    with accelerate_on(device):
        accelerator = accelerate.Accelerator(cpu=device.type == "cpu", mixed_precision="no")
        method = AD(*env_spaces(ID), config)
        set_precision(method, given.precision)
        model, optimizer = accelerator.prepare(method, make_optimizer(method, cfg))
        if given.compile:
            compile_bodies(method)
        updater = Updater(accelerator, model, optimizer, cfg, size.window)
        updater.update(batch, 0)  # compiles and allocates
        seconds = min(timed(updater, batch, repeats=1 if device.type == "cpu" else 10) for _ in range(given.updates))
    weights = sum(weight.numel() for weight in method.body.parameters() if weight.dim() > 1)
    tokens = size.batch * size.window
    operations = tokens * (6 * weights + 12 * size.layers * size.width * size.window)
    return Speed(seconds, tokens / seconds, operations / seconds)


def timed(updater: Updater, batch: Steps, repeats: int) -> float:
    """Seconds of one update, a mean over `repeats` that are read together."""
    began = time.perf_counter()
    for number in range(repeats):
        updater.update(batch, number, read=number + 1 == repeats)
    updater.method.body.norm.weight.sum().item()  # waits for the last optimizer step
    return (time.perf_counter() - began) / repeats


def windows(size: Size) -> Steps:
    tasks = torch.arange(size.batch).numpy() % TASKS
    steps = lifetimes(ID, make_source("posterior", ID), tasks, -(-size.window // EPISODE), 0)
    return steps.window(0, size.window)


def peak(device: torch.device, precision: str) -> float:
    """Operations a second of a large matrix product, the best of three."""
    count = 1024 if device.type == "cpu" else 8192
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.ones(count, count, device=device, dtype=dtype) for _ in range(2))
    (left @ right)[0, 0].item()
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        (left @ right)[0, 0].item()
        best = min(best, time.perf_counter() - began)
    return 2 * count**3 / best


def show(name: str, speed: Speed, actions: float, most: float) -> None:
    print(
        f"{name}: {speed.tokens:,.0f} tokens/s, {actions:,.0f} supervised actions/s, {speed.seconds:.3f} s an update, "
        f"{speed.operations / 1e9:,.1f}e9 operations/s, {speed.operations / most:.0%} of {most / 1e9:,.0f}e9"
    )


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--device", default="cpu")
    options.add_argument("--size", choices=SIZES, default="darkroom")
    options.add_argument("--updates", type=int, default=6)
    options.add_argument("--precision", choices=("no", "bf16"), help="default: bf16 on CUDA, else float32")
    options.add_argument("--compile", action="store_true")
    options.add_argument("--batch", type=int, help="windows an update")
    options.add_argument("--peak", type=float, help="the device's 10^12 operations a second; default: measured")
    given = options.parse_args()
    device = pick_device(given.device)
    torch.set_num_threads(1 if device.type == "cpu" else torch.get_num_threads())
    given.precision = given.precision or ("bf16" if device.type == "cuda" else "no")
    size = SIZES[given.size]._replace(**({"batch": given.batch} if given.batch else {}))
    most = given.peak * 1e12 if given.peak else peak(device, given.precision)
    dense = measure(size, "steps", given)
    show(f"{given.size}, loss at every step", dense, dense.tokens, most)
    if given.size == "darkroom":
        packed = measure(size, "packed", given)
        show(f"{given.size}, one target a window", packed, size.batch / packed.seconds, most)
        print(f"ratio of supervised actions: {dense.tokens / (size.batch / packed.seconds):.0f}")


if __name__ == "__main__":
    main()
