"""The instruments and the passes that use them: counts, bytes, seconds, gradient errors, training."""
