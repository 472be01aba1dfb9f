"""Calibration as its flags ask for it."""

import argparse
from typing import Any

from ..apis import calibrate_checkpoint, calibrate_measured_checkpoint
from .configs import check_launcher, load_denoiserep_config, load_measured_config


def calibrate(args: argparse.Namespace) -> None:
    """Calibrate on the noise that the arguments name, and say what was written.

    Raises:
        ValueError: If arguments do not go together, or by what they call.
    """
    check_launcher(args.launcher)
    measured = bool(args.noise or args.degraded)
    default = 256 if measured else 512
    shared = dict(
        num_images=default if args.num_images is None else args.num_images,
        images=args.images or args.clean,
        fuse=args.fuse,
        max_tokens=args.max_tokens,
        seed=args.seed,
        launcher=args.launcher,
        force=args.force,
    )
    own = {name: getattr(args, name) for name in ('keep_clean', 'method', 'images_per_pass')}
    own = {name: value for name, value in own.items() if value is not None}
    strange = ['clean'] * bool(args.clean) + list(own)
    if strange and not measured:
        raise ValueError(
            f'--{strange[0].replace("_", "-")} goes with measured noise: give --noise, or '
            '--clean and --degraded'
        )
    if measured:
        report: Any = calibrate_measured_checkpoint(
            load_measured_config(args.config, args.targets, args.cfg_options),
            args.checkpoint,
            args.out,
            noise=args.noise,
            degraded=args.degraded,
            **own,
            **shared,
        )
    else:
        config = load_denoiserep_config(args.config, args.targets, args.cfg_options)
        report = calibrate_checkpoint(config, args.checkpoint, args.out, **shared)
    if report:  # of the first process alone
        print(report)
