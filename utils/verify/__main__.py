"""`python -m utils.verify`."""

import sys

from utils.verify.command import main

sys.exit(main())
