"""Studies: what λ-GRPO does, measured over many small runs."""
