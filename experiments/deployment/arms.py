"""What a study of deployed models compares, as its config states it."""

from typing import Any, Dict, List, NamedTuple, Tuple

from mmengine.registry import TRANSFORMS

from experiments.study.arms import combinations, read_grid
from mmdenoiserep.transforms import each_noise, noise_transform

from . import restore  # noqa: F401 - registers

#: What each kind of arm does to the checkpoint, and whether it needs labels.
LABELS = {
    'stock': False,  # nothing
    'restore': False,  # an image denoiser in front: `transform`
    'batch-norm': False,  # statistics of batch norms taken again on degraded images
    'continued': True,  # ordinary training of the whole model on degraded and clean images
    'closed-form': False,  # the paper's Gaussian noise, in closed form
    'label-free': False,  # the paper's Gaussian noise, trained
    'measured': False,  # measured noise, in closed form
    'matched': False,  # measured noise, trained at the backbone's output
}
#: Kinds whose checkpoint is the same whatever the noise.
NOISELESS = ('stock', 'restore', 'closed-form', 'label-free')
#: Kinds that leave the stock network without denoisers.
WITHOUT_DENOISERS = ('stock', 'restore', 'batch-norm', 'continued')
KEYS = ('kind', 'options', 'config', 'grid', 'transform', 'noises')


class Arm(NamedTuple):
    """One way to make a checkpoint robust.

    Attributes:
        name (str): For tables and folders.
        kind (str): A key of ``LABELS``.
        options (dict): Of what makes the checkpoint: see :mod:`.makers`.
        config (dict): Changes to the model's config, by dotted key.
        grid (dict): Lists of values of options (or of ``config``, by a dotted key): all
            combinations are tried, and the validation images choose.
        transform (dict): What stands in front of the network; empty for nothing.
        noises (list[str]): What one checkpoint is made for; empty for a checkpoint a noise.
    """

    name: str
    kind: str
    options: Dict[str, Any]
    config: Dict[str, Any]
    grid: Dict[str, List[Any]]
    transform: Dict[str, Any]
    noises: List[str]

    def candidates(self) -> List[Dict[str, Any]]:
        """All combinations of the grid."""
        return combinations(self.grid)

    def split(self, values: Dict[str, Any]) -> Tuple[Dict[str, Any], Dict[str, Any]]:
        """Options and changes of the config with one combination of the grid."""
        dotted = {key: value for key, value in values.items() if '.' in key}
        plain = {key: value for key, value in values.items() if '.' not in key}
        return {**self.options, **plain}, {**self.config, **dotted}


def read_names(where: str, key: str, value: Any) -> List[str]:
    """A list of names.

    Raises:
        ValueError: If it is none.
    """
    if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
        raise ValueError(f'{where}: {key} must be a list of names, got {value!r}')
    return list(value)


def read_arm(name: str, spec: dict) -> Arm:
    """An arm from a study config.

    Raises:
        ValueError: If it has an unknown key or kind, a grid that is not made of lists, or a noise
            or a transform that is unknown.
    """
    unknown = sorted(set(spec) - set(KEYS))
    if unknown:
        raise ValueError(f'arm {name!r}: unknown {unknown[0]!r}; known are {KEYS}')
    kind = spec.get('kind')
    if kind not in LABELS:
        raise ValueError(f'arm {name!r}: kind must be one of {tuple(LABELS)}, got {kind!r}')
    if (kind == 'restore') != bool(spec.get('transform')):
        raise ValueError(f"arm {name!r}: a transform goes with kind 'restore', and only there")
    grid = read_grid(name, spec)
    noises = each_noise(read_names(f'arm {name!r}', 'noises', spec.get('noises') or []))
    for noise in noises:
        noise_transform(noise)  # refuses
    if kind == 'restore':
        try:
            TRANSFORMS.build(dict(spec['transform']))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f'arm {name!r}: transform: {error}') from error
    parts = {key: dict(spec.get(key) or {}) for key in ('options', 'config', 'transform')}
    return Arm(name, kind, grid=grid, noises=noises, **parts)
