"""Arms that a policy server keeps in rows: as they are simulated, and as they are measured."""
