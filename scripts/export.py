import sys

from robustalign.cli.export import main

sys.exit(main())
