from robustalign.cli.choose_radius import main

main()
