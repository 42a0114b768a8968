"""Tables: rows and columns as a reader sees them, on the terminal, in files and on pages."""
