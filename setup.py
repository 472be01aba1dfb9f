import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def version():
    """The version, read without importing the package: torch may not be there yet."""
    text = (ROOT / 'mmdenoiserep' / 'version.py').read_text(encoding='utf-8')
    return re.search(r"^__version__ = '(.+)'", text, re.MULTILINE).group(1)


def requirements(name):
    """The lines of requirements/<name>.txt without comments."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8').splitlines()
    lines = (line.split('#')[0].strip() for line in lines)
    return [line for line in lines if line]


def long_description():
    readme = ROOT / 'README.md'
    return readme.read_text(encoding='utf-8') if readme.exists() else ''


setup(
    name='mmdenoiserep',
    version=version(),
    description='DenoiseRep for OpenMMLab: denoising layers that fuse into the weights',
    long_description=long_description(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['mmdenoiserep', 'mmdenoiserep.*']),
    python_requires='>=3.8',
    install_requires=requirements('runtime'),
    extras_require={name: requirements(name) for name in ('mminstall', 'tests', 'optional')},
    zip_safe=False,
)
