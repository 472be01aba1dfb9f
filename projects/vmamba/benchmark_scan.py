"""How fast the scan is, and what it takes: ratios, each measured in this one run.

    python projects/vmamba/benchmark_scan.py [--threads 1]

The loop is the fair one: unbound once, channels contiguous, two operations a step. It and the
scan run in turns, and the fastest of each counts, so that other load on the machine cancels.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, List

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from projects.vmamba.vmamba import VMamba, linear_scan, selective_scan
from projects.vmamba.vmamba.scan import links, scan_links

DETECTION = (800, 1333)


def loop(a: Tensor, b: Tensor) -> Tensor:
    """h_t = a_t h_{t-1} + b_t over the first dimension, step by step."""
    h, found = torch.zeros_like(b[0]), []
    for decay, x in zip(a.unbind(0), b.unbind(0)):
        h = decay * h + x
        found.append(h)
    return torch.stack(found)


def selective_loop(u, delta, A, B, C, D, bias) -> Tensor:
    """The selective scan of N = 1 with that loop inside, all else at once; one image."""
    step = torch.nn.functional.softplus(delta + bias)
    h = loop((step * A[:, 0])[0].exp(), (step * u * B)[0])[None]
    return h * C + D * u


def fastest(
    functions: List[Callable], repeats: int, prepare: Callable = lambda: None
) -> List[float]:
    """Seconds of each function, called in turns, each behind a preparation that does not count."""
    times = [[] for _ in functions]
    for _ in range(repeats + 1):  # the first warms up
        for found, function in zip(times, functions):
            prepare()
            start = time.perf_counter()
            function()
            found.append(time.perf_counter() - start)
    return [min(found[1:]) for found in times]


def compare(title: str, slow: Callable, fast: Callable, inputs: List[Tensor], repeats: int) -> None:
    """Print how many times faster one function is than another, without and with gradients."""
    grad = torch.randn_like(fast(*inputs))

    def forward(function):
        with torch.no_grad():
            function(*inputs)

    def both(function):
        torch.autograd.grad(function(*inputs), inputs, grad)

    for what, run in (('forward', forward), ('forward + backward', both)):
        old, new = fastest([lambda run=run: run(slow), lambda run=run: run(fast)], repeats)
        print(
            f'{title}, {what}: {old / new:.1f} times faster '
            f'({old * 1e3:.2f} ms to {new * 1e3:.2f} ms)'
        )


def scans(length: int, channels: int, repeats: int) -> None:
    """Both scans against the loop."""
    a, b = torch.rand(length, channels) / 2 + 0.5, torch.randn(length, channels)
    x = b.clone()
    old, new = fastest(
        [lambda: loop(a, b), lambda: scan_links(links(a, False), x, False, out=x)],
        repeats,
        prepare=lambda: x.copy_(b),
    )
    print(
        f'linear scan, L = {length} x {channels}, forward, in place as in the selective scan: '
        f'{old / new:.1f} times faster ({old * 1e3:.2f} ms to {new * 1e3:.2f} ms)'
    )
    inputs = [t.requires_grad_() for t in (a, b)]
    compare(f'linear scan, L = {length} x {channels}', loop, linear_scan, inputs, repeats)
    pixels, vector, state = (1, length, channels), (channels,), (1, length, 1)
    inputs = [torch.randn(s) for s in (pixels, pixels, (channels, 1), state, state, vector, vector)]
    inputs[2] = -torch.rand(channels, 1)
    inputs = [x.requires_grad_() for x in inputs]
    title = f'selective scan, L = {length} x {channels}'
    compare(title, selective_loop, selective_scan, inputs, repeats)


@torch.no_grad()
def growth(repeats: int) -> None:
    """Time of VMamba-T from 224 to 448 pixels, four times as many."""
    model = VMamba('tiny').eval()
    small, large = (torch.randn(1, 3, size, size) for size in (224, 448))
    one, four = fastest([lambda: model(small), lambda: model(large)], repeats)
    print(
        f'VMamba-T, forward, 224 to 448 pixels: {four / one:.2f} times longer '
        f'({one:.3f} s to {four:.3f} s)'
    )


@torch.no_grad()
def peak_memory(what: str) -> None:
    """Print by how many bytes a forward pass raises the process's peak; run it in a process."""
    height, width = (-(-size // 4) for size in DETECTION)
    if what == 'scan':
        shape, state = (1, height * width, 4 * 96), (1, height * width, 1)
        inputs = [torch.zeros(s) for s in (shape, shape, (384, 1), state, state, (384,), (384,))]
        selective_scan(*(x[:, :100] if x.ndim == 3 else x for x in inputs))
        run = lambda: selective_scan(*inputs)  # noqa: E731
    else:
        model, image = (
            VMamba('tiny', out_indices=(0, 1, 2, 3)).eval(),
            torch.zeros(1, 3, *DETECTION),
        )
        model(image[..., :64, :64])
        run = lambda: model(image)  # noqa: E731
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)


def memory() -> None:
    """Peak memory at MMDetection's size, in maps of (1, 4D, L) of the first stage, D = 96."""
    height, width = (-(-size // 4) for size in DETECTION)
    size = 4 * 96 * height * width * 4
    names = dict(scan='selective scan of all 4D channels at once', model='VMamba-T, whole')
    for what, name in names.items():
        command = [sys.executable, __file__, '--memory', what]
        peak = int(subprocess.run(command, stdout=-1, check=True, text=True).stdout.split()[-1])
        print(
            f'{name}, forward, {DETECTION[0]} x {DETECTION[1]}: {peak / size:.2f} maps of '
            f'(1, 4D, L) = {size / 2**20:.0f} MiB'
        )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--threads', type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument('--repeats', type=int, default=15)
    parser.add_argument('--memory', choices=['scan', 'model'], help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.memory:
        peak_memory(args.memory)
        return
    torch.set_num_threads(args.threads)
    print(f'PyTorch {torch.__version__}, {args.threads} threads')
    scans(3136, 384, args.repeats)
    scans(3136, 96, args.repeats)
    growth(max(3, args.repeats // 3))
    memory()


if __name__ == '__main__':
    main()
