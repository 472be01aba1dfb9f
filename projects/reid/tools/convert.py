"""Convert a published checkpoint for the model of a baseline config."""

import argparse
import sys
from pathlib import Path

from mmengine.config import Config, DictAction

sys.path.insert(0, str(Path(__file__).parents[3]))  # for `projects`, here and in the config

from projects.reid.reid.convert import CLASS_ORDERS, convert_checkpoint


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config of a baseline')
    parser.add_argument('checkpoint', help='the published file')
    parser.add_argument('out', help='the file to write')
    parser.add_argument(
        '--pretraining',
        action='store_true',
        help='the file is one to start training from: of a ViT, DINO or CLIP',
    )
    parser.add_argument(
        '--class-order',
        choices=CLASS_ORDERS,
        help='for DukeMTMC-reID: find the order of the classifiers with the training images, or '
        'leave the classifiers out',
    )
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='override settings')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        config = Config.fromfile(args.config)
        config.merge_from_dict(args.cfg_options or {})
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f'{args.config}: {error}') from None
    try:
        report = convert_checkpoint(
            config, args.checkpoint, args.out, args.pretraining, args.class_order
        )
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f'{args.checkpoint}: {error}') from None
    print(report)


if __name__ == '__main__':
    main()
