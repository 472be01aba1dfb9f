"""What a run says: tables on the console and in Markdown, JSON and a plot."""

import json
import os.path as osp
import time
from typing import Dict, List, Optional, Tuple

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments import plots
from experiments.study.bootstrap import Difference
from mmdenoiserep.stock.files import atomic_write

from .noises import CLEAN
from .plan import Plan
from .summary import MEAN, RELATIVE, Cell, Scores, summarize

#: What the lines of the table that are no corruption are called.
TITLES = {CLEAN.corruption: 'clean (P)', MEAN: 'mean (mPC)', RELATIVE: 'mPC / P (rPC), %'}


def write_report(plan: Plan, scores: Scores, replicates: int, console: Console) -> None:
    """Show the table; write ``report.md``, ``scores.json`` and ``robustness.png``.

    Args:
        plan (Plan): What was measured.
        scores (dict): See :func:`.measure.load_scores`.
        replicates (int): Bootstrap samples.
        console (Console): Where the table is shown.
    """
    summary = summarize(scores)
    header, rows = table(plan, summary)
    console.print(on_console(plan, header, rows))
    _write(plan, 'report.md', markdown(plan, header, rows, replicates))
    _write(plan, 'scores.json', json.dumps(content(plan, scores, summary, replicates), indent=1))
    draw(plan, summary, osp.join(plan.root, 'robustness.png'))


def table(plan: Plan, summary: Dict[str, Dict[str, Cell]]) -> Tuple[List[str], List[List[str]]]:
    """Header and lines: clean, each corruption, mean and relative."""
    first, *others = [checkpoint.name for checkpoint in plan.checkpoints]
    header = ['', first]
    for name in others:
        header += [name, f'{name} − {first}', 'recovered']
    rows = []
    for line, cells in summary.items():
        row = [TITLES.get(line, line), text_of(cells[first].value)]
        for name in others:
            cell = cells[name]
            row += [
                f'{cell.value.mean:.1f}',
                text_of(cell.to_first, sign='+'),
                text_of(cell.recovered, digits=0, unit=' %') if cell.recovered else '',
            ]
        rows.append(row)
    return header, rows


def on_console(plan: Plan, header: List[str], rows: List[List[str]]) -> Table:
    """The table; where it is of many checkpoints, what is said of one in a column."""
    stacked = len(plan.checkpoints) > 2
    caption = f'below each: what it gains to {header[1]}, and the share recovered'
    shown = Table(
        title=f'{plan.task.METRIC}, {len(plan.dataset)} images',
        caption=caption if stacked else None,
    )
    if stacked:
        header = [*header[:2], *header[2::3]]
    for i, column in enumerate(header):
        shown.add_column(column, justify='right' if i else 'left', no_wrap=not i, overflow='fold')
    sections = (TITLES[CLEAN.corruption], plan.noises[-1].corruption)
    for row in rows:
        if stacked:
            of_each = zip(row[2::3], row[3::3], row[4::3])
            row = [*row[:2], *('\n'.join(filter(None, lines)) for lines in of_each)]
        shown.add_row(*row, end_section=stacked or row[0] in sections)
    return shown


def text_of(value: Optional[Difference], sign: str = '', digits: int = 1, unit: str = '') -> str:
    """A value with its interval."""
    if value is None:
        return ''
    form = f'{sign}.{digits}f'
    return f'{value.mean:{form}}{unit} [{value.low:{form}}, {value.high:{form}}]'


def markdown(plan: Plan, header: List[str], rows: List[List[str]], replicates: int) -> str:
    """The report."""
    first = plan.checkpoints[0].name
    lines = [
        f'# Robustness: {plan.task.METRIC} on {len(plan.dataset)} images',
        '',
        f'Config `{plan.config.filename}`; {noises_of(plan)}. In brackets 95 % intervals of '
        f'{replicates} bootstrap samples of the images, the same for all checkpoints and noises.',
        '',
        '| ' + ' | '.join(header) + ' |',
        '|---|' + '---:|' * (len(header) - 1),
        *('| ' + ' | '.join(row) + ' |' for row in rows),
        '',
    ]
    if len(plan.checkpoints) > 1:
        lines += [
            f'Recovered is the share of the loss of {first} that is won back; it is left out where '
            f'{first} has no loss that the interval tells from 0.',
            '',
        ]
    lines += [f'- {c.name}: `{c.path}`, SHA-256 {c.digest}' for c in plan.checkpoints]
    return '\n'.join([*lines, '', '![](robustness.png)', ''])


def severities_of(plan: Plan) -> List[int]:
    """Of the corruptions that are named."""
    return sorted({noise.severity for noise in plan.noises} - {0})


def noises_of(plan: Plan) -> str:
    """The severities in words, and the transforms."""
    severities = severities_of(plan)
    words = [
        f'{"severity" if len(severities) == 1 else "severities"} {", ".join(map(str, severities))}'
    ]
    own = [f'{noise} is `{noise.transform}`' for noise in plan.noises if noise.transform]
    return '; '.join((words if severities else []) + own)


def content(
    plan: Plan, scores: Scores, summary: Dict[str, Dict[str, Cell]], replicates: int
) -> dict:
    """All figures, for programs."""
    fields = ('value', 'to_first', 'recovered')
    return dict(
        metric=plan.task.METRIC,
        config=plan.config.filename,
        images=len(plan.dataset),
        severities=severities_of(plan),
        transforms={n.corruption: json.loads(n.transform) for n in plan.noises if n.transform},
        replicates=replicates,
        date=time.strftime('%Y-%m-%d'),
        checkpoints={c.name: dict(path=c.path, sha256=c.digest) for c in plan.checkpoints},
        lines={
            line: {
                name: {key: getattr(cell, key)._asdict() for key in fields if getattr(cell, key)}
                for name, cell in cells.items()
            }
            for line, cells in summary.items()
        },
        noises={
            name: {str(noise): float(score[0]) for noise, score in of_noise.items()}
            for name, of_noise in scores.items()
        },
    )


def draw(plan: Plan, summary: Dict[str, Dict[str, Cell]], path: str) -> None:
    """Performance under each corruption, the checkpoints side by side."""
    pyplot = plots.pyplot()
    lines = [line for line in summary if line != RELATIVE]
    names = [checkpoint.name for checkpoint in plan.checkpoints]
    height = 0.8 / len(names)
    figure, axis = pyplot.subplots(figsize=(8, 0.3 * len(lines) * max(2, len(names)) / 2 + 1.6))
    for i, name in enumerate(names):
        values = [summary[line][name].value for line in lines]
        places = [row + (i - (len(names) - 1) / 2) * height for row in range(len(lines))]
        errors = np.hstack([plots.error_bar(*value) for value in values])  # (2, lines)
        axis.barh(
            places,
            [v.mean for v in values],
            height,
            xerr=errors,
            label=name,
            error_kw=dict(linewidth=0.8, capsize=1.5),
        )
    for row in (0.5, len(lines) - 1.5):
        axis.axhline(row, color='gray', linewidth=0.8)
    axis.set_yticks(range(len(lines)), [TITLES.get(line, line) for line in lines])
    axis.invert_yaxis()
    severities = ', '.join(map(str, severities_of(plan)))
    axis.set_xlabel(plan.task.METRIC + (f', severity {severities}' if severities else ''))
    axis.legend(loc='lower center', bbox_to_anchor=(0.5, 1.0), ncols=len(names), frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _write(plan: Plan, name: str, text: str) -> None:
    with atomic_write(osp.join(plan.root, name)) as file:
        file.write(text.encode())
