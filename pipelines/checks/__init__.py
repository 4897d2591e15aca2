"""Check a deployment: `doctor.py`, and `verify_order.py`, which compares worker counts."""
