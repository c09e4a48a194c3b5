"""Draw pictures: arrays and text in, uint8 pictures out. May import `utils`."""
