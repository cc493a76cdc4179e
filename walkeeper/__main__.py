"""``python -m walkeeper``."""

import sys

from walkeeper.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
