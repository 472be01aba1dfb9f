"""OpenMMLab's packages by the names that they are installed under."""

from contextlib import suppress
from importlib import metadata
from importlib.util import find_spec

from mmengine.config import utils as config_utils


def mend_package_names() -> None:
    """Let ``mmseg::`` in a config find MMSegmentation.

    MMEngine's table names the distribution `mmsegmentation`; the maintained line ships it as
    `onedl-mmsegmentation`.
    """
    with suppress(metadata.PackageNotFoundError):
        metadata.version('onedl-mmsegmentation')
        config_utils.MODULE2PACKAGE['mmseg'] = 'onedl-mmsegmentation'


def is_installed(package: str) -> bool:
    """Whether a package of OpenMMLab can be imported. MMEngine itself would install what is not."""
    return package in config_utils.MODULE2PACKAGE and find_spec(package) is not None
