"""One self-contained HTML page of a record: `page_document` is what is drawn, `page_html` the page around it."""

from propscope.report.page.against import compared
from propscope.report.page.document import page_document
from propscope.report.page.html import page_html

__all__ = ["compared", "page_document", "page_html"]
