"""Reading results: frames, statistics, tables, figures, pages; knows records and nothing else of odegrad."""
