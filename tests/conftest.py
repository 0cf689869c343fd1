"""What every test needs: no network and no accidental dependence on the machine."""

import os

# Read by Hugging Face's libraries when they are imported, hence set before any test module is.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["WANDB_MODE"] = "disabled"
# Read by torch when it is imported: threads cost more than they bring for models this small.
os.environ["OMP_NUM_THREADS"] = "1"
