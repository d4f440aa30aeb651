from robustalign.cli.train import main

main()
