"""`python -m manyfit`."""

import sys

from manyfit.cli import main

sys.exit(main())
