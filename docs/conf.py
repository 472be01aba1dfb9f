"""Configuration of Sphinx. Warnings are errors: `make docs`."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mmdenoiserep.version import __version__  # noqa: E402

project = 'mmdenoiserep'
author = 'the mmdenoiserep authors'
copyright = author  # a name that Sphinx knows
release = version = __version__

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx.ext.mathjax',
    'sphinx.ext.viewcode',
]
source_suffix = {'.md': 'markdown', '.rst': 'restructuredtext'}
myst_enable_extensions = ['dollarmath']
myst_heading_anchors = 4  # links to headings, as GitHub makes them

html_theme = 'furo'
html_title = f'{project} {release}'

autodoc_member_order = 'bysource'
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True  # else the fields of a NamedTuple are there twice


def adapt(app, docname, source):
    """Drop links that leave docs/; make a table of contents of the links in index.md."""
    source[0] = re.sub(r'\[([^\]]+)\]\(\.\./[^)]*\)', r'\1', source[0])
    if docname == 'index':
        pages = re.findall(r'\]\(([\w-]+)\.(?:md|rst)\)', source[0])
        source[0] += '\n```{toctree}\n:hidden:\n\n' + '\n'.join(pages) + '\n```\n'


def quote_patterns(app, what, name, obj, options, lines):
    """Let '*.pth' in a docstring be text: a star would begin an emphasis."""
    lines[:] = [re.sub(r"'(\*[^'*]*)'", r'``\1``', line) for line in lines]


def setup(app):
    app.connect('source-read', adapt)
    app.connect('autodoc-process-docstring', quote_patterns)
