"""`python -m utils.smaller`."""

import sys

from utils.smaller.command import main

sys.exit(main())
