"""Imported by the fork server alone, where it makes that process the reaper of what runs leave behind."""

import warnings

from odegrad.processes.reaping import become_reaper

become_reaper()
warnings.filterwarnings("ignore", message="forkserver: waitpid returned unexpected pid")  # an orphan's end
