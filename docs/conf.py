"""How Sphinx builds the site: the pages as they are, one for each command, and one for each public package."""

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
# The files beside this one, and propscope of this checkout.
sys.path[:0] = [str(HERE), str(HERE.parent)]

from site_pages import contents, mathml, reference
from sphinx.ext.autodoc.mock import mock

from propscope import __version__

project = "propscope"
author = "the authors of propscope"
version = release = __version__

# The source is the whole checkout, so that a link between two pages is the same on a code host and here.
root_doc = "docs/index"
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/**.md"]
exclude_patterns = ["docs/_*"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]

myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]

# `name` in a docstring is a link where there is such a name, and code where there is none.
default_role = "py:obj"
# What the integrations derive their classes from: nothing of it is described, and its native parts need not load.
autodoc_mock_imports = ["accelerate", "lightning", "pytorch_lightning", "transformers"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
# What the signatures call by these names has definitions that fill lines.
autodoc_type_aliases = {name: name for name in ("ActivationLike", "ArrayLike", "Label", "Loss", "Patterns", "Stats")}
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True
add_module_names = False
# A block without a language is what a terminal shows.
highlight_language = "none"
# Dashes are those of options.
smartquotes = False

html_theme = "furo"
html_static_path = ["site_pages/static"]
html_css_files = ["site.css"]
html_title = f"propscope {version}"
html_show_sourcelink = False
html_show_copyright = False
html_copy_source = False
# A command is copied without its prompt.
copybutton_prompt_text = "$ "


def setup(app):
    """Write the generated pages, and say where the table of contents comes from."""
    for folder, made in contents.GENERATED.items():
        shutil.rmtree(HERE / folder, ignore_errors=True)
        (HERE / folder).mkdir()
        with mock(autodoc_mock_imports):
            pages = made.pages()
        for name, text in pages.items():
            (HERE / folder / f"{name}.md").write_text(text, encoding="utf-8")
    app.connect("source-read", contents.add_toctrees)
    app.connect("autodoc-process-docstring", reference.as_written)
    app.connect("missing-reference", reference.resolve)
    app.connect("doctree-resolved", contents.open_pictures)
    app.connect("build-finished", contents.write_redirect)
    app.add_html_math_renderer("mathml", (mathml.inline, None), (mathml.block, None))
