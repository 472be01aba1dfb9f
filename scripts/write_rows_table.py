"""Write the table of the paper's rows in docs/rows.md from what tests/test_rows.py found.

    python scripts/write_rows_table.py default=FOUND.jsonl [classic=FOUND.jsonl]

FOUND.jsonl is what the tests appended to the file that ROWS_OUT named, on that line of OpenMMLab.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Dict, Optional, Sequence

import yaml
from mmengine.utils import get_installed_path

from mmdenoiserep.cli import load_config

ROOT = Path(__file__).resolve().parent.parent
INDEX = ROOT / 'model-index.yml'
PAGE = ROOT / 'docs' / 'rows.md'
START, END = '<!-- rows: make test-rows -->', '<!-- /rows -->'
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


def claim(model: dict, models: Dict[str, dict]) -> str:
    """What the paper claims, as it stands in the metafile.

    In the projects the baseline of the paper's table has an entry of its own, or there is none.
    """
    pairs = model['Metadata'].get('Paper')
    if pairs is None:
        baseline = models.get(model['Name'].replace('_denoiserep', ''))
        before = baseline['Results'][0]['Metrics'] if baseline else {}
        after = model.get('Results', [{}])[0].get('Metrics', {})
        pairs = {METRICS.get(key, key): (before.get(key), after[key]) for key in after}
    return ', '.join(f'{key} {arrow(pair)}' for key, pair in pairs.items())


def arrow(figures: Sequence[Optional[float]]) -> str:
    """Figures with as many decimals as the longest of them; None is left out."""
    known = [figure for figure in figures if figure is not None]
    digits = max(len(str(figure).partition('.')[2]) for figure in known)
    return ' → '.join(f'{figure:.{digits}f}' for figure in known)


def table(found: Dict[str, Dict[str, dict]]) -> str:
    """The table, one line a row."""
    lines = [
        '| config | checkpoint, per the zoo | the paper claims | denoisers | parameters | lines |',
        '|---|---|---|---|---|---|',
    ]
    metafiles = yaml.safe_load(INDEX.read_text(encoding='utf-8'))['Import']
    models = {
        model['Name']: model
        for path in metafiles
        for model in yaml.safe_load((ROOT / path).read_text(encoding='utf-8'))['Models']
    }
    for model in models.values():
        if 'Denoisers' not in model['Metadata']:
            continue  # a baseline, or a row that differs from a tested one in its data only
        path = model['Config']
        config = Path(path).name
        records = {line: rows[config] for line, rows in found.items() if config in rows}
        if not records:
            raise SystemExit(f'no record of {config}: run all rows')
        if len({(r['denoisers'], r['parameters']) for r in records.values()}) > 1:
            raise SystemExit(f'{config} is not the same model on all lines')
        record = next(iter(records.values()))
        project = not path.startswith('configs/')
        figure = (
            'not in the zoo' if project else zoo_figure(load_config(str(ROOT / path)).load_from)
        )
        name = model['Name'].replace('_denoiserep', '')
        lines.append(
            f'| [`{name}`](../{path}) | {figure} | {claim(model, models)} '
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
    text = PAGE.read_text(encoding='utf-8')
    new, count = re.subn(
        f'{START}.*{END}',
        lambda _: f'{START}\n{table(found)}\n{END}',
        text,
        flags=re.DOTALL,
    )
    if not count:
        raise SystemExit(f'{PAGE} has no {START}')
    PAGE.write_text(new, encoding='utf-8')


if __name__ == '__main__':
    main()
