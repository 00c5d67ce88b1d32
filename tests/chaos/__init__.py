"""Random faults, and what they may not break: see "Random faults" in tests/README.md."""
