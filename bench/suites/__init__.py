"""The suites that come with odegrad, as TOML files."""
