"""Pictures in the loggers that take them."""

from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import (
    CometLogger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)


def log_image(trainer: Trainer, name: str, path: Path) -> None:
    """Show a PNG file, which must have been drawn by matplotlib, at the present optimizer step.

    TensorBoard, Weights & Biases, MLflow and Comet take images; other loggers are passed over.
    """
    from matplotlib.image import imread

    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            pixels = (imread(path)[..., :3] * 255).round().astype("uint8")  # [height, width, 3]
            logger.experiment.add_image(name, pixels, trainer.global_step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, images=[str(path)], step=trainer.global_step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_artifact(logger.run_id, str(path), name)
        elif isinstance(logger, CometLogger):
            logger.experiment.log_image(str(path), name=name, step=trainer.global_step)
