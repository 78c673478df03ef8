"""`python -m propscope`."""

import sys

from propscope.cli import main

sys.exit(main())
