"""`python -m pibot.cli` is the same as pibot.pyz."""

import sys

from pibot.cli import main

sys.exit(main())
