from robustalign.cli.atlas import main

main()
