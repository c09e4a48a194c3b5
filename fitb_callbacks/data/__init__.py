"""Read images and labels: batches, folders, data sets. May import `utils`."""
