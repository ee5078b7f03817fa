"""Is it right? Before a run (doctor), between its two halves (mismatch), after it (audit)."""
