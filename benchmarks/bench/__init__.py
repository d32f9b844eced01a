"""The estimator, fitted and judged on published measurements."""
