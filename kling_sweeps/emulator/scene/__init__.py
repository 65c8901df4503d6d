"""The scenes that the emulator paints and encodes in place of generated videos."""
