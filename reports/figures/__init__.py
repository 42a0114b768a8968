"""Part of odegrad; see ARCHITECTURE.md."""
