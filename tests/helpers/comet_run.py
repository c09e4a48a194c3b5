"""Two epochs with Comet's offline experiment, in a process of its own: comet_ml changes the one that imports it."""

import sys
from pathlib import Path

from lightning.pytorch.loggers import CometLogger
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parent))
from digits_data import training, validation

from quick import quick_callback, quiet_trainer
from small_module import SmallModule

folder = sys.argv[1]
logger = CometLogger(offline_directory=folder, project="digits")
trainer = quiet_trainer(folder, logger=logger, callbacks=[quick_callback()])
trainer.fit(SmallModule(), DataLoader(training(), batch_size=100), DataLoader(validation(), batch_size=100))
logger.experiment.end()
