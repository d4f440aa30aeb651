from robustalign.cli.report import main

main()
