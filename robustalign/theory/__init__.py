"""The log-linear policy class of arXiv 2502.01930, section 4: where the theory's rates can be measured."""
