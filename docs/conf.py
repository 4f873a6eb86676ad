"""Sphinx configuration: pages in Markdown, the API from docstrings."""

from subsel import __version__

project = "subsel"
copyright = "2026, the subsel developers"
release = version = __version__
extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.autosummary",
              "sphinx.ext.mathjax", "sphinx.ext.viewcode"]  # fmt: skip
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "subsel"
exclude_patterns = ["_build"]
autodoc_typehints = "none"
numpydoc_show_class_members = False
nitpicky = False
