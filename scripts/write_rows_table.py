"""Write README's table of the paper's rows from what tests/test_rows.py found.

    python scripts/write_rows_table.py default=FOUND.jsonl [classic=FOUND.jsonl]

FOUND.jsonl is what the tests appended to the file that ROWS_OUT named, on that line of OpenMMLab.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Dict

import yaml
from mmengine.utils import get_installed_path

from mmdenoiserep.cli import load_config

ROOT = Path(__file__).resolve().parent.parent
START, END = '<!-- rows: make test-rows -->', '<!-- /rows -->'
#: The paper's claims, baseline and DenoiseRep (NeurIPS 2024; not ours, and not verified here).
PAPER = {
    'mask-rcnn_swinv2-t': 'box AP 42.8 → 44.3',
    'mask-rcnn_swinv2-s': 'box AP 48.2 → 49.0',
    'mask-rcnn_swin-t': '',
    'mask-rcnn_swin-s': '',
    'mask-rcnn_r50': 'box AP 42.6 → 43.2',
    'faster-rcnn_r50': 'box AP 37.4 → 38.3',
    'atss_r50': 'box AP 39.4 → 39.9',
    'yolov3_d53': 'box AP 27.9 → 28.4',
    'detr_r50': 'box AP 39.9 → 40.8',
    'centernet_r50': 'box AP 40.2 → 40.6',
    'fcn_r50': 'mIoU 35.9 → 36.5, B-IoU 28.7 → 29.9',
    'fcn_r101': 'mIoU 39.6 → 40.4, B-IoU 30.6 → 31.6',
    'segformer_mit-b0': 'mIoU 37.4 → 38.1',
    'segformer_mit-b1': 'mIoU 42.2 → 42.5',
    'swinv2-tiny': 'acc@1 81.82 → 82.13',
    'swinv2-small': 'acc@1 83.13 → 83.97',
    'swinv2-base': 'acc@1 84.20 → 84.31',
    'vit-small': 'acc@1 83.87 → 84.02',
    'vit-base': 'acc@1 84.53 → 84.64',
    'vit-small_cifar10': 'acc@1 96.13 → 96.20',
    'vit-base_cifar10': 'acc@1 98.02 → 98.31',
    'resnet50': 'acc@1 76.13 → 76.28',
}
METRICS = {'box AP': 'box AP', 'mIoU': 'mIoU', 'Top 1 Accuracy': 'acc@1'}


def zoo_figure(load_from: str) -> str:
    """What the model zoo says of a checkpoint, from the metafiles that the packages bring."""
    if '://' not in load_from:
        return 'none: train it'
    # The lines name different servers for the same file.
    name = load_from.split('/')[-1]
    for package in ('mmdet', 'mmseg', 'mmpretrain'):
        for path in Path(get_installed_path(package), '.mim').rglob('metafile.y*ml'):
            if name not in path.read_text():
                continue
            content = yaml.safe_load(path.read_text())
            models = content['Models'] if isinstance(content, dict) else content
            model = next(m for m in models if str(m.get('Weights', '')).endswith(name))
            results = model['Results']
            metrics = (results if isinstance(results, dict) else results[0])['Metrics']
            return next(f'{METRICS[key]} {v}' for key, v in metrics.items() if key in METRICS)
    raise SystemExit(f'no metafile names {load_from}')


def table(found: Dict[str, Dict[str, dict]]) -> str:
    """The table, one line a row."""
    lines = [
        '| config | checkpoint, per the zoo | the paper claims | denoisers | parameters | lines |',
        '|---|---|---|---|---|---|',
    ]
    for name, claim in PAPER.items():
        config = f'{name}_denoiserep.py'
        records = {line: rows[config] for line, rows in found.items() if config in rows}
        if not records:
            raise SystemExit(f'no record of {config}: run all rows')
        if len({(r['denoisers'], r['parameters']) for r in records.values()}) > 1:
            raise SystemExit(f'{config} is not the same model on all lines')
        record = next(iter(records.values()))
        figure = zoo_figure(load_config(str(ROOT / 'configs' / config)).load_from)
        lines.append(
            f'| [`{name}`](configs/{config}) | {figure} | {claim} '
            f'| {record["denoisers"]} | {record["parameters"] / 1e6:.2f} M | {", ".join(records)} |'
        )
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('found', nargs='+', help='line=file.jsonl')
    found = {}
    for argument in parser.parse_args().found:
        line, path = argument.split('=')
        records = [json.loads(text) for text in Path(path).read_text().splitlines()]
        found[line] = {record['config']: record for record in records}
    readme = ROOT / 'README.md'
    text = readme.read_text(encoding='utf-8')
    new, count = re.subn(
        f'{START}.*{END}',
        lambda _: f'{START}\n{table(found)}\n{END}',
        text,
        flags=re.DOTALL,
    )
    if not count:
        raise SystemExit(f'README.md has no {START}')
    readme.write_text(new, encoding='utf-8')


if __name__ == '__main__':
    main()
