"""The tables of deployment.md, Gaussian noise: all models in one table, and in one picture.

python docs/draw_deployment.py    # prints the table and writes study/deployment.png
"""

import re
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

PAGE = Path(__file__).parent / 'deployment.md'
OUT = Path(__file__).parent / 'study' / 'deployment.png'
#: The rows of the table of all models, and how rows in the table of one model begin.
ARMS = {
    'batch norm statistics': 'batch norm',
    'non-local means in front': 'non-local means',
    'total variation in front': 'total variation',
    'transport, without pairs': 'transport',
    'closed form': 'closed form$',
    'closed form, κ 0.8': 'closed form, κ 0.8',
    'closed form, κ 0.9': 'closed form, κ 0.9',
    'output-matched': 'output-matched$',
    'output-matched, κ 0.8': 'output-matched, κ 0.8',
    'output-matched, κ 0.9': 'output-matched, κ 0.9',
    'output-matched ×4, κ 0.8': 'output-matched ×4, κ 0.8',
    'output-matched, mixed': 'output-matched, mixed, κ',
    'output-matched from stock': 'output-matched from stock',
    'fine-tuning with labels': 'fine-tuning with labels',
}


class Arm(NamedTuple):
    """A row of a table.

    Attributes:
        name (str): Of the arm.
        clean (str): What it costs clean images.
        share (tuple[float, float, float]): Recovered, and its interval, percent.
        minutes (float, optional): To make the checkpoint.
        labels (bool): Whether it needs them.
    """

    name: str
    clean: str
    share: Tuple[float, float, float]
    minutes: Optional[float]
    labels: bool


def tables(page: str) -> Dict[str, List[Arm]]:
    """By model, the arms under Gaussian noise alone; of those with one name the first."""
    found: Dict[str, List[Arm]] = {}
    model, header = '', []
    for line in page.splitlines():
        cells = [cell.strip(' *') for cell in line.strip('|').split('|')]
        if line.startswith('## '):
            model, header = line[3:].split(',')[0], []
        elif not line.startswith('|'):
            header = []
        elif {'noisy', 'recovered', 'minutes'} <= set(cells):
            header = cells
        elif header and 'mean' not in header[0]:
            row = dict(zip(header, cells))
            share = re.findall(r'-?\d+', row['recovered'])
            if share:
                # A heading of two models: the table says in its corner which it is of.
                key = header[0] or model
                minutes = float(row['minutes']) if row['minutes'] else None
                numbers = tuple(float(number) for number in share)
                name = re.sub(r'\*\*|,? latency.*| \(.*?\)', '', cells[0])
                arm = Arm(name, row['to stock'], numbers, minutes, row['labels'] == 'yes')
                arms = found.setdefault(key, [])
                if name not in [known.name for known in arms]:
                    arms.append(arm)
    return found


def overview(models: Dict[str, List[Arm]]) -> str:
    """A table in Markdown: the recovered share, and what clean images gain."""
    lines = ['| recovered, clean | ' + ' | '.join(models) + ' |', '|---' * (len(models) + 1) + '|']
    for name, pattern in ARMS.items():
        cells = []
        for arms in models.values():
            arm = next((a for a in arms if re.match(pattern, a.name)), None)
            cells.append(f'{arm.share[0]:.0f} %, {arm.clean.split()[0]}' if arm else '')
        lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def draw(models: Dict[str, List[Arm]], path: Path) -> None:
    """A panel a model: what is recovered against the minutes that it takes."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    columns = 2
    rows = -(-len(models) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(13, 3.2 * rows), squeeze=False)
    for axis in axes.flat[len(models) :]:
        axis.remove()
    for axis, (model, arms) in zip(axes.flat, models.items()):
        axis.set_prop_cycle(color=pyplot.get_cmap('tab20').colors)
        for arm in arms:
            if arm.minutes is None:
                continue
            middle, low, high = arm.share
            error = [[max(0, middle - low)], [max(0, high - middle)]]
            shape = 's' if arm.labels else 'o'
            axis.errorbar(arm.minutes, middle, error, fmt=shape, capsize=3, label=arm.name)
        axis.set(xscale='log', xlim=(0.1, 100), ylim=(-30, 105), title=model)
        axis.axhline(0, color='gray', linewidth=0.8)
        axis.legend(fontsize='x-small', loc='center left', bbox_to_anchor=(1, 0.5), frameon=False)
    for axis in axes[:, 0]:
        axis.set_ylabel('recovered, %')
    figure.supxlabel('minutes to make the checkpoint (squares: with labels)')
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == '__main__':
    every = tables(PAGE.read_text(encoding='utf-8'))
    print(overview(every))
    draw(every, OUT)
