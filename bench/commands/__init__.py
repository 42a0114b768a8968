"""The commands of ``odegrad``, by what they are about; ``odegrad.cli`` gives them their names."""
