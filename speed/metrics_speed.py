"""PRDC and the kernel distance beside the packages they agree with: seconds and memory. Not a test.

    python -m speed.metrics_speed [--n 10000] [--width 768] [--repeat 3]

Every measurement runs in a process of its own, on one core, and they take turns; medians count. Memory is the peak
above what the process held before the call (the features and the packages). The reference of the kernel distance is
torchmetrics' with one subset of all samples; CheXGenBench's default is a hundred of them.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import arguments
from common.errors import UserError, run

ROOT = Path(__file__).parent.parent
WAYS = {"prdc": ("prdc", "ours"), "kernel distance": ("torchmetrics", "ours")}


def measure(measure: str, way: str, n: int, width: int) -> None:
    """In the child: prints seconds, peak bytes and the values."""
    os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
    import numpy as np
    import torch
    from prdc import compute_prdc
    from torchmetrics.image.kid import poly_mmd

    from evaluation import metrics

    # Variances that fall as those of a network's features do, and a fake set that is narrower and shifted.
    rng, scale = np.random.default_rng(0), (np.arange(1, width + 1) ** -0.5).astype(np.float32)
    real = rng.standard_normal((n, width), dtype=np.float32) * scale
    fake = rng.standard_normal((n, width), dtype=np.float32) * scale * np.float32(0.95) + np.float32(0.002)
    calls = {
        ("prdc", "prdc"): lambda a, b: list(compute_prdc(a, b, 5).values()),
        ("prdc", "ours"): lambda a, b: [each.mean() for each in metrics.prdc_samples(a, b, 5).values()],
        ("kernel distance", "torchmetrics"): lambda a, b: [poly_mmd(torch.from_numpy(a), torch.from_numpy(b)).item()],
        ("kernel distance", "ours"): lambda a, b: [metrics.kernel_distance(a, b)],
    }
    call = calls[measure, way]
    call(real[:50].copy(), fake[:50].copy())  # what is loaded or started on first use is not measured
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    values = call(real, fake)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # kB on Linux
    print(json.dumps({"seconds": seconds, "peak": peak * 1024, "values": [float(value) for value in values]}))


def main() -> None:
    parser = arguments.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    samples, width, repeat = arguments.whole(50, 10**6), arguments.whole(2, 2**16), arguments.whole(1, 10_000)
    parser.add_argument("--n", type=samples, default=10000, help="samples of each set (default 10000)")
    parser.add_argument("--width", type=width, default=768, help="features of each (default 768)")
    parser.add_argument("--repeat", type=repeat, default=3, help="rounds (default 3)")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        measure(*args.child, args.n, args.width)
        return

    print(f"{args.n} x {args.n} x {args.width} float32, one core, median of {args.repeat}")
    for name, ways in WAYS.items():
        results = {way: [] for way in ways}
        for _ in range(args.repeat):
            for way in ways:
                size = ["--n", str(args.n), "--width", str(args.width)]
                command = [sys.executable, "-m", "speed.metrics_speed", *size, "--child", name, way]
                environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                child = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
                if child.returncode:
                    raise UserError(f"{name} by {way}: failed, see above; are the packages of the extra `test` there?")
                results[way].append(json.loads(child.stdout.splitlines()[-1]))
        medians = {
            way: [statistics.median(one[key] for one in runs) for key in ("seconds", "peak")]
            for way, runs in results.items()
        }
        for way, (seconds, peak) in medians.items():
            values = " ".join(f"{value:.6g}" for value in results[way][0]["values"])
            print(f"{name:16} {way:13} {seconds:7.2f} s {peak / 1e6:8.0f} MB   {values}")
        (their_seconds, their_peak), (our_seconds, our_peak) = (medians[way] for way in ways)
        print(f"{name:16} {'ours/theirs':13} {our_seconds / their_seconds:7.2f}   {our_peak / their_peak:8.3f}")


if __name__ == "__main__":
    run(main)
