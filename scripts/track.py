import sys

from robustalign.cli.sync import main

sys.exit(main([word for word in sys.argv[1:] if word != "sync"]))
