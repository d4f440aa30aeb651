import sys

from robustalign.cli.audit import main

sys.exit(main())
