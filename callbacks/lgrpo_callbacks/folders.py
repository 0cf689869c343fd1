"""Where a run keeps its files."""

from pathlib import Path

from lightning.pytorch import Trainer


def run_folder(trainer: Trainer, dirname: str) -> Path:
    """Return ``dirname`` in the run's folder, absolute and the same on all ranks. A collective.

    Args:
        trainer: its ``log_dir`` is the run's folder, without a logger its ``default_root_dir``.
        dirname: a name, or an absolute path, which is taken as it is.

    Raises:
        ValueError: if the run's folder is a remote address, where files can't be appended to.
    """
    root = trainer.log_dir or trainer.default_root_dir
    if "://" in root and not Path(dirname).is_absolute():
        raise ValueError(
            f"the run's folder {root!r} is not on a local disk; give dirname as an absolute local "
            f"path, got {dirname!r}"
        )
    return (Path(root) / dirname).absolute()
