"""The claims of papers as declared objects, and their verdicts from records."""
