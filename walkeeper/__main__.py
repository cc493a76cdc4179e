"""``python -m walkeeper``."""

import sys

from walkeeper.cli import main

if __name__ == "__main__":
    sys.exit(main())
