from robustalign.cli.choose import main

main()
