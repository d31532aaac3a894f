"""`python -m utils.batch`."""

import sys

from utils.batch.command import main

sys.exit(main())
