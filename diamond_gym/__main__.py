"""`python -m diamond_gym` is `diamond-gym`, as for torchrun, which starts modules and not commands."""

import sys

from diamond_gym.cli import main

if __name__ == "__main__":
    sys.exit(main())
