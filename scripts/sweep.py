import sys

from robustalign.cli.sweep import main

sys.exit(main())
