"""Other libraries' methods as they are published, as rows beside odegrad's own."""
