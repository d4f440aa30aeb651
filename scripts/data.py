import sys

from robustalign.cli.data import main

sys.exit(main())
