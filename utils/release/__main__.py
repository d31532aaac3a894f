"""`python -m utils.release`."""

import sys

from utils.release.command import main

sys.exit(main())
