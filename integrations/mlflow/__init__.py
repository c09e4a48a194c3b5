"""MLflow: the tracking server, the training run, the Model Registry."""
