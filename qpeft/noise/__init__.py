"""The noise of real devices."""
