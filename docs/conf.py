"""The settings of the documentation's build, which `scripts/docs` runs."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import usage_instrument

sys.path.insert(0, str(Path(__file__).parent))

project = "usage-instrument"
author = "usage-instrument contributors"
version = release = usage_instrument.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "extension"]
exclude_patterns = ["_build"]

nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!usage_instrument).*"),  # names of Python and of other packages
    (
        "py:.*",
        r"usage_instrument\.(_default|capture|database|tracker|integrations|web)\..*",
    ),  # private ones in annotations
]
default_role = "code"  # docstrings write `code` as Markdown does

myst_heading_anchors = 4  # as GitHub makes them
myst_enable_extensions = ["colon_fence", "deflist"]
suppress_warnings = ["myst.header"]

autodoc_mock_imports = ["arq"]  # it fits beside no RQ of today
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"exclude-members": "__init__, __new__"}

API = {"color-api-name": "var(--color-brand-content)", "color-api-pre-name": "var(--color-foreground-secondary)"}

html_theme = "furo"
html_title = f"usage-instrument {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = True
html_show_copyright = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0d7a74", "color-brand-content": "#0d7a74", **API},
    "dark_css_variables": {"color-brand-primary": "#4fc3bb", "color-brand-content": "#4fc3bb", **API},
}
pygments_style = "friendly"
pygments_dark_style = "github-dark"

logging.getLogger("usage_instrument").setLevel(logging.ERROR)
