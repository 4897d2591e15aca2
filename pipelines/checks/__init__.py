"""Does this deployment work? `doctor.py`, and the proof that worker counts change no batch."""
