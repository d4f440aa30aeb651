from robustalign.cli.log_linear_rates import main

main()
