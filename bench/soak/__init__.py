"""The soak: steady load while workers are killed and the database crashes, then an account of what was lost."""
