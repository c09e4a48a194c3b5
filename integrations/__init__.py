"""Write to and read from every platform: loggers, MLflow, TensorBoard, folders, reports, notebooks.

May import all but `cli`, `gate` and `callback`. A platform's own package is imported only when it is used.
"""
