"""One stage in the driver's process: prepare it, start the workers, listen to them."""
