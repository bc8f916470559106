"""`python -m diamond_gym.cli` is `diamond-gym`: under torchrun, which starts modules, not commands."""

import sys

from diamond_gym.cli import main

if __name__ == "__main__":
    sys.exit(main())
