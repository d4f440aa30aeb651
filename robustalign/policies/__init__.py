"""Language models as policies: loading, tokenising, log-probabilities, sampling."""
