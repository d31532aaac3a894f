"""`python -m utils.evaluate`."""

import sys

from utils.evaluate.command import main

sys.exit(main())
