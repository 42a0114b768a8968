"""What a run is and what is kept of it: runs, records, their store on disk; no torch."""
