"""python -m transfer"""

import sys

from transfer.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
