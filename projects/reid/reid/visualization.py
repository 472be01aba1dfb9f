"""Ranked lists as pictures: a query and the images that the model finds nearest to it."""

import os.path as osp
from typing import NamedTuple, Optional, Sequence

import matplotlib
import mmcv
import numpy as np
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from PIL import Image, ImageDraw, ImageFont

from .metric import Image as Sample
from .metric import ReIDMetric

HEIGHT, WIDTH, FRAME, GAP, MARGIN = 256, 128, 6, 14, 24
INK, GREY, BLUE = (34, 34, 34), (120, 120, 120), (40, 96, 184)
GREEN, RED = (34, 150, 84), (206, 50, 44)


class Found(NamedTuple):
    """A gallery image in a ranked list, and whether it is of the query's person."""

    sample: Sample
    distance: float
    is_match: bool


@HOOKS.register_module()
class RankedListHook(Hook):
    """Draws queries with their ten nearest gallery images after a test.

    A green frame is a match, a red one is not. Images of the query's person in its own camera
    are left out, as in the evaluation. Drawn are queries spread evenly over the test set.

    Args:
        enable (bool): Whether to draw at all. Defaults to False.
        out_dir (str, optional): Folder of the pictures. Defaults to the visualizer's backends.
        show (bool): Whether to show them in a window. Defaults to False.
        wait_time (float): Seconds that a window stays. Defaults to 0, which is for ever.
        num_queries (int): Most queries to draw. Defaults to 40.
    """

    def __init__(
        self,
        enable: bool = False,
        out_dir: Optional[str] = None,
        show: bool = False,
        wait_time: float = 0,
        num_queries: int = 40,
    ) -> None:
        self.enable = enable
        self.out_dir = out_dir
        self.show = show
        self.wait_time = wait_time
        self.num_queries = num_queries

    def before_test_epoch(self, runner: Runner) -> None:
        """Ask the metric to keep the ranked lists."""
        if self.enable:
            self._metric(runner).keep_top_of = self.num_queries

    @master_only
    def after_test_epoch(self, runner: Runner, metrics: Optional[dict] = None) -> None:
        """Draw them."""
        if not self.enable:
            return
        metric = self._metric(runner)
        ranking = metric.ranking
        for index, (places, distances) in ranking.top.items():
            query = metric.queries[index]
            found = [
                Found(metric.gallery[place], distance, metric.gallery[place].id == query.id)
                for place, distance in zip(places.tolist(), distances.tolist())
            ]
            rank = int(ranking.first_match[index])
            score = (
                f'AP {100 * float(ranking.average_precision[index]):.1f} %' if rank else 'no match'
            )
            picture = draw_ranked_list(query, found, score)
            name = f'{index:05d}_{osp.splitext(osp.basename(query.path))[0]}'
            if self.show:
                runner.visualizer.show(picture, win_name=name, wait_time=self.wait_time)
            if self.out_dir:
                path = osp.join(self.out_dir, f'{name}.png')
                mmcv.imwrite(picture[..., ::-1], path)
            elif not self.show:
                runner.visualizer.add_image(name, picture)
        if self.out_dir:
            runner.logger.info(f'{len(ranking.top)} ranked lists in {self.out_dir}')

    @staticmethod
    def _metric(runner: Runner) -> ReIDMetric:
        for metric in runner.test_evaluator.metrics:
            if isinstance(metric, ReIDMetric):
                return metric
        raise ValueError('ranked lists are drawn from a ReIDMetric, and test_evaluator has none')


def draw_ranked_list(query: Sample, found: Sequence[Found], score: str) -> np.ndarray:
    """A picture of a query and its nearest gallery images.

    Args:
        query (Sample): The query.
        found (Sequence[Found]): Nearest first.
        score (str): What to say of the whole list.

    Returns:
        np.ndarray: RGB, (H, W, 3), uint8.
    """
    step = WIDTH + 2 * FRAME + GAP
    start = MARGIN + step + GAP  # the query stands apart
    top = MARGIN + 52
    size = (
        start + step * max(1, len(found)) - GAP + MARGIN,
        top + HEIGHT + 2 * FRAME + 44 + MARGIN,
    )
    canvas = Image.new('RGB', size, 'white')
    pen = ImageDraw.Draw(canvas)
    pen.text((MARGIN, MARGIN), 'Query', INK, _font(19, bold=True))
    pen.text((start, MARGIN), 'Nearest in the gallery', INK, _font(19, bold=True))
    hits = sum(each.is_match for each in found)
    summary = f'{score}   ·   {hits} of {len(found)} right'
    pen.text((size[0] - MARGIN, MARGIN), summary, INK, _font(17), anchor='ra')
    _draw_image(
        canvas, query, MARGIN, top, BLUE, [f'person {query.id}', f'camera {query.camera + 1}']
    )
    line = start - GAP
    pen.line([(line, top), (line, top + HEIGHT + 2 * FRAME)], (215, 215, 215), 2)
    for i, each in enumerate(found):
        left = start + i * step
        lines = [f'person {each.sample.id}', f'camera {each.sample.camera + 1}']
        _draw_image(canvas, each.sample, left, top, GREEN if each.is_match else RED, lines)
        # A mark too, for those who see no difference between the frames.
        rank = f'{i + 1} {"✓" if each.is_match else "✗"}'
        pen.text((left + FRAME + WIDTH // 2, top - 5), rank, GREY, _font(15), anchor='mb')
    return np.asarray(canvas)


def _draw_image(
    canvas: Image.Image, sample: Sample, left: int, top: int, colour: tuple, lines: Sequence[str]
) -> None:
    pen = ImageDraw.Draw(canvas)
    pen.rectangle([left, top, left + WIDTH + 2 * FRAME - 1, top + HEIGHT + 2 * FRAME - 1], colour)
    with Image.open(sample.path) as image:
        canvas.paste(image.convert('RGB').resize((WIDTH, HEIGHT)), (left + FRAME, top + FRAME))
    for i, text in enumerate(lines):
        place = (left + FRAME + WIDTH // 2, top + HEIGHT + 2 * FRAME + 6 + 19 * i)
        pen.text(place, text, INK if i == 0 else GREY, _font(14), anchor='ma')


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    # Matplotlib, which MMEngine needs, brings one.
    name = 'DejaVuSans-Bold.ttf' if bold else 'DejaVuSans.ttf'
    return ImageFont.truetype(osp.join(matplotlib.get_data_path(), 'fonts', 'ttf', name), size)
