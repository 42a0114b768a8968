"""Suites: TOML files to runs, settings chosen by trials, papers; the suites that come with odegrad."""
