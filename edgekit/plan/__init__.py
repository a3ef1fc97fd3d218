"""What this device can do, and what a model will do on it."""
