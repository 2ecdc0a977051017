"""Sphinx: `make docs` builds these pages and the API reference, warnings being errors."""

from importlib.metadata import version as installed_version

project = "quee_hf"
release = version = installed_version("quee-hf")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
myst_heading_anchors = 3
exclude_patterns = ["pictures"]
# Signatures say the types; the text says shapes and units.
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Source", "notes_style")]
# A word between single backticks is code, as in Markdown.
default_role = "code"
