"""`python -m utils.predict`."""

import sys

from utils.predict.command import main

if __name__ == "__main__":
    sys.exit(main())
