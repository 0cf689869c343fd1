"""``python -m lgrpo_lightning`` is ``lgrpo``."""

from lgrpo_lightning.cli import main

if __name__ == "__main__":
    main()
