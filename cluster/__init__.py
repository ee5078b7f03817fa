"""Where things run and what keeps them running: controller, launch, CLI, recorder, report.

Enters: a Config. Leaves: a run folder. May import every other room.
"""
