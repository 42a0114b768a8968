"""One self-contained HTML page of a result set, with its template, style and script."""
